"""Get an artifact's bytes: from the reply itself, or by HTTP, whole or in compressed form.

* Only the signed size and SHA-256 of the result count; what the network says about itself is never believed.
* Reading stops at the signed size of the download, unpacking at that of the result: a longer body is a failure.
* A download has a deadline by its size: a CDN that drips a byte now and then holds up nothing for long.
* A status other than 200 and 206 is never stored, whatever came with it.
* A patch is tried only where its base is on the device. On a wrong base it yields garbage of the right length without a
  word: here too the hash of the result decides, and the whole file is the way out.
* An interrupted download goes on where it stopped (Range with If-Range, RFC 9110, sections 13.1.5 and 14.2).
"""

import asyncio
import lzma
import sys
from collections.abc import Callable, Mapping
from hashlib import sha256
from http import HTTPStatus
from typing import Final, Literal
from urllib.parse import urljoin, urlsplit

import aiohttp
from msgspec import Struct

from gateway.client.artifacts import Artifacts, Part
from gateway.client.limits import Limits
from schemas.releases import Download, Release

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdDict, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdDict, ZstdError

FetchCode = Literal[
    "network", "http_status", "too_big", "size_mismatch", "sha256_mismatch", "unpack_failed", "no_download",
    "insecure_url", "disk_low", "disk_full", "deferred",
]  # fmt: skip
_PATCH: Final = "zstd-patch"
_CHUNK_BYTES: Final = 64 * 1024

BaseOf = Callable[[str], bytes | None]


class FetchFailed(Exception):
    """An artifact that could not be had; `code` is what the device reports."""

    def __init__(self, code: FetchCode) -> None:
        super().__init__(code)
        self.code = code


class Fetched(Struct, frozen=True):
    """A checked artifact and how many bytes it cost on the wire."""

    data: bytes
    wire_bytes: int


class Downloads:
    """What fetches artifacts for one device."""

    def __init__(self, session: aiohttp.ClientSession, gateway_url: str, artifacts: Artifacts, limits: Limits) -> None:
        self._session = session
        self._gateway_url = gateway_url
        self._artifacts = artifacts
        self._limits = limits
        seconds = limits.request_seconds
        self._timeout = aiohttp.ClientTimeout(total=None, connect=seconds, sock_read=seconds)

    async def fetch(
        self,
        release: Release,
        base_url: str,
        inline: Mapping[str, bytes],
        base_of: BaseOf = lambda digest: None,
        *,
        most_bytes: int | None = None,
    ) -> Fetched:
        """Return the artifact by the cheapest way that works; `base_of` gives what the device has, by SHA-256.

        Nothing larger than `most_bytes` is downloaded. Raises `FetchFailed` with the last way's reason.
        """
        self._check_room(release)
        bases: dict[str | None, bytes | None] = {
            way.base: base_of(way.base) for way in release.downloads if way.base is not None
        }
        ways = sorted((way for way in release.downloads if _is_open(way, bases)), key=lambda way: way.size)
        failed = FetchFailed("no_download")
        for way in ways:
            wire = inline.get(wire_name(way))
            if wire is not None:
                try:
                    return Fetched(await asyncio.to_thread(self._result, wire, way, release, bases.get(way.base)), 0)
                except FetchFailed as error:
                    failed = error
        affordable = [way for way in ways if most_bytes is None or way.size <= most_bytes]
        if ways and not affordable:
            raise FetchFailed("deferred")
        for way in affordable:
            try:
                return await self._by_http(way, release, base_url, bases.get(way.base))
            except FetchFailed as error:
                failed = error
        raise failed

    def _check_room(self, release: Release) -> None:
        limits = self._limits
        try:
            if self._artifacts.free_bytes() < limits.disk_room_sizes * release.size + limits.disk_spare_bytes:
                raise FetchFailed("disk_low")
        except OSError as error:
            raise FetchFailed("disk_full") from error

    async def _by_http(self, way: Download, release: Release, base_url: str, base: bytes | None) -> Fetched:
        url = self._address(way, base_url)
        try:
            part = self._artifacts.part(wire_name(way))
        except OSError as error:
            raise FetchFailed("disk_full") from error
        try:
            cost = await self._complete(url, part, way.size)
            return Fetched(await asyncio.to_thread(self._result, part.content(), way, release, base), cost)
        except OSError as error:
            part.discard()
            raise FetchFailed("disk_full") from error
        except FetchFailed as error:
            if error.code != "network":  # going on from these bytes would fail for ever
                part.discard()
            raise

    def _address(self, way: Download, base_url: str) -> str:
        url = urljoin(urljoin(self._gateway_url, base_url), way.path)
        scheme = urlsplit(url).scheme
        if scheme != "https" and not (scheme == "http" and urlsplit(self._gateway_url).scheme == "http"):
            raise FetchFailed("insecure_url")
        return url

    async def _complete(self, url: str, part: Part, size: int) -> int:
        """Read what the part still lacks. Return how many bytes came over the wire. Raises OSError for the disk."""
        begun, tag = part.standing()
        if begun == size:
            return 0
        headers = {"Accept-Encoding": "identity"}
        if 0 < begun < size:
            headers |= {"Range": f"bytes={begun}-", "If-Range": tag}
        limits = self._limits
        try:
            async with (
                asyncio.timeout(limits.request_seconds + size / limits.download_least_bytes_per_second),
                self._session.get(url, headers=headers, timeout=self._timeout) as response,
            ):
                if not _continues(response, begun):
                    begun = 0
                    part.restart(_strong(response.headers.get("ETag", "")))
                return await _append(response, part, size - begun)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise FetchFailed("network") from error

    def _result(self, wire: bytes, way: Download, release: Release, base: bytes | None) -> bytes:
        """Return the artifact that the wire bytes hold, checked against what was signed. Raises `FetchFailed`."""
        data, limits = wire, self._limits
        if way.encoding == "xz":
            data = _unpack(wire, release.size, limits.xz_memory_bytes)
        elif way.encoding == _PATCH:
            data = _patched(wire, base or b"", release.size, limits.patch_window_bytes)
        if len(data) != release.size:
            raise FetchFailed("size_mismatch")
        if sha256(data).hexdigest() != release.sha256:
            raise FetchFailed("sha256_mismatch")
        return data


def wire_name(way: Download) -> str:
    """Return the SHA-256 of the bytes that a download serves: the last segment of its path."""
    return way.path.rpartition("/")[2]


def _strong(tag: str) -> str:
    """Only a strong validator may stand in If-Range."""
    return "" if tag.startswith("W/") else tag


def _continues(response: aiohttp.ClientResponse, begun: int) -> bool:
    """Say whether the body goes on at byte `begun`; otherwise it begins at 0. Raises `FetchFailed`."""
    if response.status == HTTPStatus.OK:
        return False
    asked = "Range" in response.request_info.headers
    place = response.headers.get("Content-Range", "")
    if response.status == HTTPStatus.PARTIAL_CONTENT and asked and place.startswith(f"bytes {begun}-"):
        return True
    raise FetchFailed("http_status")


async def _append(response: aiohttp.ClientResponse, part: Part, most: int) -> int:
    read = 0
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        read += len(chunk)
        if read > most:
            raise FetchFailed("too_big")
        part.append(chunk)
    return read


def _is_open(way: Download, bases: Mapping[str | None, bytes | None]) -> bool:
    """Say whether this device can take a way: a patch needs its base."""
    return way.encoding != _PATCH or bases.get(way.base) is not None


def _patched(wire: bytes, base: bytes, size: int, window_bytes: int) -> bytes:
    options: dict[int, int] = {DecompressionParameter.window_log_max: window_bytes.bit_length() - 1}
    try:
        unpacker = ZstdDecompressor(ZstdDict(base, is_raw=True).as_prefix, options)
        data = unpacker.decompress(wire, max_length=size + 1)
    except (ZstdError, ValueError, MemoryError) as error:  # ValueError: a base too short to be one
        raise FetchFailed("unpack_failed") from error
    if len(data) > size:
        raise FetchFailed("too_big")
    return data


def _unpack(wire: bytes, size: int, memory_bytes: int) -> bytes:
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=memory_bytes)
    try:
        data = unpacker.decompress(wire, max_length=size + 1)
    except (lzma.LZMAError, MemoryError) as error:
        raise FetchFailed("unpack_failed") from error
    if len(data) > size:
        raise FetchFailed("too_big")
    return data
