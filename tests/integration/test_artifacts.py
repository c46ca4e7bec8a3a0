"""Artifacts over HTTP: whole, in ranges, cached, too large for memory, and damaged in the store."""

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from gateway.app import create_app
from gateway.artifacts import LARGEST_KEPT_BYTES, PIECE_BYTES, Artifacts, Kept, Span, span_of
from gateway.config import Config
from gateway.problems import RangeNotSatisfiable
from gateway.publish.embedded import EmbeddedLog
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store

SMALL: Final = bytes(range(256)) * 4
LARGE: Final = b"".join(number.to_bytes(4) for number in range(LARGEST_KEPT_BYTES // 4 + 9))


def named(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def store() -> Store:
    return Store.open("memory://")


@pytest.fixture
async def session(store: Store, tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    for data in (SMALL, LARGE):
        await store.put_new(f"artifacts/{named(data)}", data)
    sink = await EmbeddedLog.open(tmp_path, max_bytes=2**20, max_pending_bytes=2**20)
    app = create_app(Config(), sink=sink, snapshots=SnapshotKeeper(store), store=store)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    async with aiohttp.ClientSession(f"http://{host}:{port}/artifacts/") as session:
        yield session
    await runner.cleanup()
    await sink.close()


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["kept", "streamed"])
async def test_an_artifact_comes_whole_and_may_be_kept_for_ever(session: aiohttp.ClientSession, data: bytes) -> None:
    for _ in range(2):
        async with session.get(named(data)) as response:
            assert (response.status, await response.read()) == (200, data)
            assert response.headers["ETag"] == f'"{named(data)}"'
            assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            assert response.headers["Accept-Ranges"] == "bytes"
            assert int(response.headers["Content-Length"]) == len(data)
    async with session.head(named(data)) as response:
        assert (response.status, await response.read()) == (200, b"")
        assert int(response.headers["Content-Length"]) == len(data)


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["kept", "streamed"])
async def test_a_range_is_a_part(session: aiohttp.ClientSession, data: bytes) -> None:
    size = len(data)
    for asked, start, end in (("bytes=0-9", 0, 10), ("bytes=1000-", 1000, size), ("bytes=-7", size - 7, size)):
        async with session.get(named(data), headers={"Range": asked}) as response:
            assert (response.status, await response.read()) == (206, data[start:end])
            assert response.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(data)}"


async def test_a_range_past_the_end_is_a_problem_that_tells_the_size(session: aiohttp.ClientSession) -> None:
    async with session.get(named(SMALL), headers={"Range": "bytes=1024-"}) as response:
        assert (response.status, response.headers["Content-Range"]) == (416, "bytes */1024")


async def test_a_range_of_another_artifact_is_not_honoured(session: aiohttp.ClientSession) -> None:
    for tag, status in ((f'"{named(SMALL)}"', 206), ('"other"', 200), ("Sun, 22 Nov 2026 00:00:00 GMT", 200)):
        async with session.get(named(SMALL), headers={"Range": "bytes=0-1", "If-Range": tag}) as response:
            assert response.status == status


async def test_who_has_it_need_not_get_it_again(session: aiohttp.ClientSession) -> None:
    for tag, status in ((f'"{named(SMALL)}"', 304), (f'"x", W/"{named(SMALL)}"', 304), ("*", 304), ('"x"', 200)):
        async with session.get(named(SMALL), headers={"If-None-Match": tag}) as response:
            assert response.status == status


@pytest.mark.parametrize("name", ["0" * 64, "A" * 64, "short", "..%2fapps%2fshop", "0" * 65])
async def test_what_is_no_artifact_is_not_found(session: aiohttp.ClientSession, name: str) -> None:
    async with session.get(name) as response:
        assert response.status == 404


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["small", "large"])
async def test_a_damaged_artifact_is_never_served_nor_kept(
    session: aiohttp.ClientSession, store: Store, data: bytes
) -> None:
    await store.put_new("artifacts/" + "1" * 64, data)  # not what the name says
    for headers in ({}, {}, {"Range": "bytes=0-9"}):
        async with session.get("1" * 64, headers=headers) as response:
            assert response.status == 503
            assert "Cache-Control" not in response.headers
            assert int(response.headers["Retry-After"]) > 0


async def test_a_large_artifact_is_read_through_once_however_many_ask(tmp_path: Path) -> None:
    class Counting(Store):
        pieces = 0

        async def get_range(self, path: str, start: int, length: int) -> bytes:
            self.pieces += 1
            return await super().get_range(path, start, length)

    store = Counting.open(tmp_path.as_uri())
    assert isinstance(store, Counting)
    await store.put_new(f"artifacts/{named(LARGE)}", LARGE)
    artifacts = Artifacts(store)
    await asyncio.gather(*(artifacts._check(named(LARGE), len(LARGE)) for _ in range(3)))
    assert store.pieces == math.ceil(len(LARGE) / PIECE_BYTES)


def test_the_least_recently_used_leaves_first() -> None:
    kept = Kept(max_bytes=30)
    for name in ("a", "b", "c"):
        kept.put(name, bytes(10))
    kept.get("a")
    kept.put("d", bytes(10))
    assert [name for name in "abcd" if kept.get(name) is not None] == ["a", "c", "d"]
    kept.put("e", bytes(31))
    assert kept.bytes <= 30


@pytest.mark.parametrize("header", ["", "bytes=-", "bytes=5-3", "items=0-1", "bytes=0-1,4-5", "bytes=a-b", "bytes=0"])
def test_a_range_that_cannot_be_read_is_ignored(header: str) -> None:
    assert span_of(header, 10) is None


@given(
    st.text("bytes=-0123456789, ", max_size=20) | st.from_regex(r"bytes=\d{0,3}-\d{0,3}", fullmatch=True),
    st.integers(0, 500),
)
def test_a_span_lies_inside_the_artifact(header: str, size_bytes: int) -> None:
    try:
        span = span_of(header, size_bytes)
    except RangeNotSatisfiable:
        return
    assert span is None or (span.length > 0 and span.start >= 0 and span.start + span.length <= size_bytes)


def test_spans_are_as_the_standard_says() -> None:
    assert span_of("bytes=0-499", 1000) == Span(0, 500)
    assert span_of("bytes=500-5000", 1000) == Span(500, 500)
    assert span_of("bytes=-2000", 1000) == Span(0, 1000)
    for header, size_bytes in (("bytes=-0", 1000), ("bytes=1000-1001", 1000), ("bytes=0-", 0)):
        with pytest.raises(RangeNotSatisfiable):
            span_of(header, size_bytes)
