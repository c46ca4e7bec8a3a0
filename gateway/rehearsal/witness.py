"""What a device asks for, seen between the client and its radio, with the moment of each request."""

from collections.abc import Callable
from http import HTTPStatus

from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, hdrs

from gateway.client.fleet.radio import Radio


class Witness:
    """An aiohttp client middleware, one for each device. Moments are device seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.sent: list[float] = []
        self.refused = 0
        self.radio: Radio | None = None
        self._now = now

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Pass a request on, and note it and its answer."""
        if request.method == hdrs.METH_POST and self.radio is not None and self.radio.online:
            self.sent.append(self._now())
        response = await handler(request)
        self.refused += response.status == HTTPStatus.TOO_MANY_REQUESTS
        return response
