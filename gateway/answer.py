"""Answer 200 with JSON in one write: what aiohttp does for every response costs a tenth of what a whole batch does.

* Only for the usual case, HTTP/1.1 on a connection that stays open: everything else goes aiohttp's way, byte for byte
  as any other response.
* `on_response_prepare` signals are not sent; the application has none.
"""

import asyncio
from typing import Final

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.web_request import BaseRequest

_HEADERS: Final = {hdrs.CONTENT_TYPE: "application/json"}
_HEAD: Final = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nDate: %s\r\n\r\n"


class JsonAnswer(web.Response):
    """A 200 whose body is JSON."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body=body, headers=_HEADERS)
        self._json = body
        self._direct: asyncio.Transport | None = None

    @property
    def keep_alive(self) -> bool | None:
        """Say whether the connection stays open, as the server asks once the answer is written."""
        return True if self._direct is not None else super().keep_alive

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Choose the way."""
        transport = request.transport
        if (
            transport is None
            or transport.is_closing()
            or super().keep_alive is False  # the gateway is stopping
            or not request.keep_alive
            or request.version != HttpVersion11
        ):
            return await super().prepare(request)
        self._direct = transport
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Write all of it."""
        if self._direct is None:
            await super().write_eof(data)
        else:
            self._direct.write((_HEAD % (len(self._json), rfc822_formatted_time())).encode() + self._json)
