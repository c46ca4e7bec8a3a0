"""Decide who may send, and take the body in without holding more than agreed.

* The app key is judged first, by a look-up of its hash; nobody is told about media types before their name is known.
* A device whose key is unknown is silent for a lease, so that is said only when the store, asked now, does not know it.
* Length, media type and encoding are judged before a byte of the body is read.
* Bytes count as in flight when they arrive, not when they are announced: a sender that stalls holds only what it sent.
"""

import asyncio
import hashlib
import random
import re
from functools import lru_cache
from typing import Final, Self

from aiohttp import StreamReader, hdrs, web
from aiohttp.web_protocol import RequestPayloadError
from msgspec import Struct

from gateway.problems import (
    BatchTooLarge,
    KeyRevoked,
    ServiceUnavailable,
    SlowDown,
    UnknownKey,
    UnsupportedMedia,
    spread,
)
from gateway.releases.snapshot import SnapshotKeeper
from gateway.whole_request import Head
from schemas.encoding import ENCODINGS

_SCHEME: Final = "bearer "
# An app's name and 256 random bits; what looks otherwise is nowhere in the store.
_KEY: Final = re.compile(r"([a-z0-9][a-z0-9_-]{0,63})\.[A-Za-z0-9_-]{43}", re.ASCII)
# How long an unknown key waits for the store.
_ASK_SECONDS: Final = 5.0
_MEDIA_TYPE: Final = "application/json"
# An upload of the largest body over a bad mobile link; past it, the connection is better given to somebody else.
READ_SECONDS: Final = 60.0
# Devices that were told to slow down come back between this and twice this.
SLOW_DOWN_SECONDS: Final = 5.0


class Admitted(Struct, frozen=True):
    """What the headers said: whose app it is and how the body is encoded."""

    app: str
    encoding: str


def head_of(request: web.Request) -> Head:
    """Return what is judged of a request that aiohttp has read."""
    value = request.headers.get
    return Head(
        authorization=value(hdrs.AUTHORIZATION, ""),
        content_type=value(hdrs.CONTENT_TYPE, ""),
        content_encoding=value(hdrs.CONTENT_ENCODING, "identity"),
        announced_bytes=request.content_length or 0,
    )


class InFlight:
    """Counts the bytes of bodies that are being read, judged and stored, and refuses more than its bound."""

    def __init__(self, max_bytes: int, dice: random.Random) -> None:
        self._max_bytes = max_bytes
        self._dice = dice
        self.bytes = 0

    def check(self, announced_bytes: int) -> None:
        """Refuse a body that would not fit. Raises `SlowDown`."""
        if self.bytes + announced_bytes > self._max_bytes:
            raise SlowDown("too many bytes are in work here", self.wait_seconds())

    def wait_seconds(self) -> int:
        """How long one device is asked to wait, its jitter included."""
        return spread(SLOW_DOWN_SECONDS, self._dice.random())

    def hold(self) -> "Hold":
        """Return a block that holds bytes until its end, however it ends."""
        return Hold(self)


class Hold:
    """The bytes of one request, a context manager. Written out: `contextmanager` takes three times as long."""

    __slots__ = ("_in_flight", "bytes")

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight
        self.bytes = 0

    def grow(self, more_bytes: int) -> None:
        """Hold more. Raises `SlowDown`."""
        self._in_flight.check(more_bytes)
        self._in_flight.bytes += more_bytes
        self.bytes += more_bytes

    def release(self) -> None:
        """Hold nothing any more."""
        self._in_flight.bytes -= self.bytes
        self.bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Gate:
    """Admits requests and reads their bodies."""

    def __init__(
        self, snapshots: SnapshotKeeper, in_flight: InFlight, body_max_bytes: int, read_seconds: float
    ) -> None:
        self._snapshots = snapshots
        self._in_flight = in_flight
        self._body_max_bytes = body_max_bytes
        self._read_seconds = read_seconds

    def admit(self, head: Head) -> Admitted:
        """Judge the headers. Raises `UnknownKey`, `KeyRevoked`, `UnsupportedMedia`, `BatchTooLarge` or `SlowDown`."""
        app = self._app_of(head.authorization)
        if _media_type_of(head.content_type) != _MEDIA_TYPE:
            raise UnsupportedMedia(f"Content-Type must be {_MEDIA_TYPE}")
        encoding = head.content_encoding
        if encoding not in ENCODINGS:
            encoding = encoding.strip().lower()
            if encoding not in ENCODINGS:
                raise UnsupportedMedia(f"Content-Encoding must be one of {', '.join(ENCODINGS)}")
        self._check_length(head.announced_bytes)
        self._in_flight.check(head.announced_bytes)
        return Admitted(app, encoding)

    async def admit_after_all(self, head: Head) -> Admitted:
        """Judge again with what the store says now, since a key may be new. Raises as `admit`, or `ServiceUnavailable`
        where the store does not say."""
        match = _KEY.fullmatch(_key_of(head.authorization))
        if match is None:
            return self.admit(head)
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                await self._snapshots.refreshed()
            return self.admit(head)
        except (TimeoutError, UnknownKey) as error:
            asked = isinstance(error, UnknownKey) and self._snapshots.trouble() is None
            if asked and match.group(1) not in self._snapshots.unread:
                raise
            raise ServiceUnavailable(
                "the store does not say whose key this is", self._in_flight.wait_seconds()
            ) from None

    async def read(self, request: web.Request, hold: Hold) -> bytes:
        """Read the body, chunked or not. Raises `BatchTooLarge` or `SlowDown`.

        A body that does not come whole and in time is `SlowDown` too: the network is to blame, so the device must keep
        its batch.
        """
        if hdrs.EXPECT in request.headers:
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        stream = request.content
        try:
            if stream.is_eof():  # it came in one packet with the headers, as most do
                body = stream.read_nowait()
                self._check_length(len(body))
                hold.grow(len(body))
                return body
            async with asyncio.timeout(self._read_seconds):
                return await self._read_chunks(stream, hold)
        except (TimeoutError, RequestPayloadError) as error:
            raise SlowDown("the body did not arrive whole", self._in_flight.wait_seconds()) from error

    async def _read_chunks(self, stream: StreamReader, hold: Hold) -> bytes:
        body = bytearray()
        while chunk := await stream.readany():
            self._check_length(len(body) + len(chunk))
            hold.grow(len(chunk))
            body += chunk
        return bytes(body)

    def _app_of(self, authorization: str) -> str:
        digest = _digest_of(authorization)
        if not digest:
            raise UnknownKey("Authorization must be: Bearer <app key>")
        holder = self._snapshots.current.keys.get(digest)
        if holder is None:
            raise UnknownKey("the app key is not known")
        if holder.revoked:
            raise KeyRevoked("the app key was revoked")
        return holder.app

    def _check_length(self, length_bytes: int) -> None:
        if length_bytes > self._body_max_bytes:
            raise BatchTooLarge(f"the body may have {self._body_max_bytes} bytes")


def _key_of(authorization: str) -> str:
    """Return the key that the header holds; nothing where it is no Bearer's."""
    is_bearer = authorization[: len(_SCHEME)].lower() == _SCHEME
    return authorization[len(_SCHEME) :].strip() if is_bearer else ""


# All devices of an app send the same two headers: what follows from them is kept. A stranger's only push out others.
@lru_cache(maxsize=1024)
def _digest_of(authorization: str) -> bytes:
    """Return the hash of the key that the header holds; nothing where it holds none."""
    key = _key_of(authorization)
    # Header bytes that are no UTF-8 arrive as surrogates.
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest() if key else b""


@lru_cache(maxsize=1024)
def _media_type_of(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()
