"""Serve artifacts to machines that have no CDN before them: immutable bytes under their SHA-256.

* Bytes are checked against their name before the first of them is sent: what damaged bytes are answered with is a
  failure, never a year in somebody's cache.
* A few recent artifacts stay in memory, bounded in bytes. What is too large for that is read through once in the life
  of the process, and then streamed in pieces.
* One range per request (RFC 9110, section 14); a range that cannot be read is ignored, as the standard allows.
"""

import asyncio
import hashlib
import logging
import re
from collections import OrderedDict
from typing import Final, NamedTuple

from aiohttp import hdrs, web

from gateway.problems import NothingThere, RangeNotSatisfiable, ServiceUnavailable
from gateway.releases.store import NotFound, Store, StoreError

log: Final = logging.getLogger(__name__)

_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_MEDIA_TYPE: Final = "application/octet-stream"
_FOREVER: Final = "public, max-age=31536000, immutable"
KEPT_BYTES: Final = 64 * 1024 * 1024
LARGEST_KEPT_BYTES: Final = 4 * 1024 * 1024
PIECE_BYTES: Final = 1024 * 1024
RETRY_SECONDS: Final = 5
_DAMAGED: Final = "the object is damaged: its SHA-256 is not its name"


class Span(NamedTuple):
    """Part of an artifact: `length` bytes from `start`."""

    start: int
    length: int


def span_of(header: str, size_bytes: int) -> Span | None:
    """Return the one range that a Range header names; None where there is none to honour.

    Raises `RangeNotSatisfiable`.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or match.group(1) == match.group(2) == "":
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        start, end = int(first), min(size_bytes, int(last) + 1 if last else size_bytes)
        if last and int(last) < start:
            return None
    if start >= end:
        raise RangeNotSatisfiable(size_bytes)
    return Span(start, end - start)


class Kept:
    """The artifacts in memory, the least recently used leaving first."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._data: OrderedDict[str, bytes] = OrderedDict()
        self.bytes = 0

    def get(self, sha256: str) -> bytes | None:
        """Return an artifact that is kept."""
        data = self._data.get(sha256)
        if data is not None:
            self._data.move_to_end(sha256)
        return data

    def put(self, sha256: str, data: bytes) -> None:
        """Keep an artifact, and let others go for it."""
        if sha256 not in self._data:
            self._data[sha256] = data
            self.bytes += len(data)
        while self.bytes > self._max_bytes:
            _, gone = self._data.popitem(last=False)
            self.bytes -= len(gone)


class Artifacts:
    """The handler of `GET /artifacts/{sha256}`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loading = asyncio.Lock()
        self._checking = asyncio.Lock()
        self._sound: set[str] = set()
        self.kept = Kept(KEPT_BYTES)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer with the artifact or a part of it. Raises `RequestFailed`."""
        sha256 = request.match_info["sha256"]
        if not _SHA256.fullmatch(sha256):
            raise NothingThere("an artifact's name is 64 hexadecimal digits")
        try:
            data = self.kept.get(sha256)
            size_bytes = len(data) if data is not None else await self._store.size(_path(sha256))
            if data is None and size_bytes <= LARGEST_KEPT_BYTES:
                data = await self._load(sha256)
            elif data is None:
                await self._check(sha256, size_bytes)
        except NotFound:
            raise NothingThere("no artifact has this name") from None
        except StoreError as error:
            log.warning("artifact %s: %s", sha256, error)
            raise ServiceUnavailable("the store does not answer", RETRY_SECONDS) from error
        return await self._answer(request, sha256, data, size_bytes)

    async def _load(self, sha256: str) -> bytes:
        """Return a small artifact, read once however many ask. Raises `StoreError`."""
        async with self._loading:
            data = self.kept.get(sha256)
            if data is None:
                data = await self._store.get(_path(sha256))
                if hashlib.sha256(data).hexdigest() != sha256:
                    raise StoreError(_DAMAGED)
                self.kept.put(sha256, data)
            return data

    async def _check(self, sha256: str, size_bytes: int) -> None:
        """Read a large artifact through, once however many ask, and one at a time. Raises `StoreError`."""
        async with self._checking:
            if sha256 in self._sound:
                return
            hashed, start = hashlib.sha256(), 0
            while start < size_bytes:
                piece = await self._piece(sha256, start, size_bytes)
                await asyncio.to_thread(hashed.update, piece)
                start += len(piece)
            if hashed.hexdigest() != sha256:
                raise StoreError(_DAMAGED)
            self._sound.add(sha256)

    async def _piece(self, sha256: str, start: int, end: int) -> bytes:
        piece = await self._store.get_range(_path(sha256), start, min(PIECE_BYTES, end - start))
        if not piece:
            raise StoreError("the object ends early")
        return piece

    async def _answer(
        self, request: web.Request, sha256: str, data: bytes | None, size_bytes: int
    ) -> web.StreamResponse:
        etag = f'"{sha256}"'
        headers = {hdrs.ETAG: etag, hdrs.CACHE_CONTROL: _FOREVER, hdrs.ACCEPT_RANGES: "bytes"}
        if _matches(request.headers.get(hdrs.IF_NONE_MATCH, ""), etag):
            return web.Response(status=304, headers=headers)
        span = None
        if request.method == hdrs.METH_GET and request.headers.get(hdrs.IF_RANGE, etag) == etag:
            span = span_of(request.headers.get(hdrs.RANGE, ""), size_bytes)
        if span is not None:
            headers[hdrs.CONTENT_RANGE] = f"bytes {span.start}-{span.start + span.length - 1}/{size_bytes}"
        start, length = span or Span(0, size_bytes)
        status = 200 if span is None else 206
        headers[hdrs.CONTENT_TYPE] = _MEDIA_TYPE
        if data is not None:
            return web.Response(status=status, headers=headers, body=data[start : start + length])
        response = web.StreamResponse(status=status, headers=headers)
        response.content_length = length
        await response.prepare(request)
        if request.method == hdrs.METH_GET:
            await self._stream(request, response, sha256, Span(start, length))
        return response

    async def _stream(self, request: web.Request, response: web.StreamResponse, sha256: str, span: Span) -> None:
        start, end = span.start, span.start + span.length
        try:
            while start < end:
                piece = await self._piece(sha256, start, end)
                await response.write(piece)
                start += len(piece)
        except StoreError as error:
            # The status is already sent: only a connection that breaks off tells the device that bytes are missing.
            log.warning("artifact %s broke off at byte %d: %s", sha256, start, error)
            if request.transport is not None:
                request.transport.abort()


def _path(sha256: str) -> str:
    return f"artifacts/{sha256}"


def _matches(header: str, etag: str) -> bool:
    """Say whether an If-None-Match header names the tag; weak tags match too (RFC 9110, section 13.1.2)."""
    tags = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return etag in tags or "*" in tags
