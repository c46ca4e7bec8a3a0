"""A phone's radio: what stands between a real client and a real network, and counts what passes.

* Offline nothing passes. Now and then a request is lost before it leaves, or its answer on the way back: then the
  gateway has a batch of which the client does not know it, and must keep it once.
* A build with the percent bug gives some scores as percent. The bug sits here, behind the client, because the client
  itself cannot be made to send what its types do not allow; the same batch is always spoilt in the same way.
"""

from random import Random
from typing import Final

import aiohttp
import msgspec
from aiohttp import ClientConnectionError, ClientHandlerType, ClientRequest, ClientResponse, hdrs
from msgspec import Struct

from schemas.encoding import inflate
from schemas.reading import MAX_DOCUMENT_BYTES
from schemas.wire import Problem

# Measured by no one for this app; one in a hundred is what the flush policy was simulated with.
LOSS: Final = 0.01
_SPOILT_ONE_IN: Final = 4
_REFUSED_KEY: Final = (401, 403)
_problem: Final = msgspec.json.Decoder(Problem)


class Meter(Struct):
    """What a fleet's radios have counted; `key_refused` is the status and code with which the gateway refuses it."""

    flushes: int = 0
    downloads: int = 0
    lost: int = 0
    problems: int = 0
    bytes_sent: int = 0
    key_refused: str = ""

    @property
    def requests(self) -> int:
        """Everything that left a phone."""
        return self.flushes + self.downloads


class Radio:
    """An aiohttp client middleware, one for each phone."""

    def __init__(self, meter: Meter, dice: Random, *, has_percent_bug: bool = False) -> None:
        self.online = True
        self._meter = meter
        self._dice = dice
        self._has_percent_bug = has_percent_bug

    async def __call__(self, request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        """Pass a request on, unless the phone is offline or it gets lost."""
        if not self.online:
            raise ClientConnectionError("the phone is offline")
        if request.method == hdrs.METH_POST:
            if self._has_percent_bug:
                await _spoil(request)
            self._meter.flushes += 1
            self._meter.bytes_sent += _size(request)
        else:
            self._meter.downloads += 1
        roll = self._dice.random()
        if roll < LOSS / 2:
            self._meter.lost += 1
            raise ClientConnectionError("the request was lost")
        response = await handler(request)
        if roll < LOSS:
            self._meter.lost += 1
            response.close()
            raise ClientConnectionError("the answer was lost")
        self._meter.problems += response.status >= 400
        if response.status in _REFUSED_KEY and request.method == hdrs.METH_POST:
            self._meter.key_refused = f"{response.status} {await _code(response)}".strip()
        return response


def in_percent(document: bytes) -> bytes:
    """Return a batch's document with every fourth prediction's score times 100."""
    batch = msgspec.json.decode(document)
    for event in batch["events"]:
        if event["type"] == "prediction" and event["id"] % _SPOILT_ONE_IN == 0:
            event["score"] *= 100
    return msgspec.json.encode(batch)


async def _spoil(request: ClientRequest) -> None:
    body = request.body
    if not isinstance(body, aiohttp.BytesPayload):
        return
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "identity")
    document = inflate(await body.as_bytes(), encoding, MAX_DOCUMENT_BYTES)
    request.headers[hdrs.CONTENT_ENCODING] = "identity"
    await request.update_body(in_percent(document))


async def _code(response: ClientResponse) -> str:
    """Read the code of a problem; whoever answers in another form has none."""
    try:
        return _problem.decode(await response.read()).code
    except (aiohttp.ClientError, ValueError):
        return ""


def _size(request: ClientRequest) -> int:
    body = request.body
    return len(body) if isinstance(body, bytes) else body.size or 0
