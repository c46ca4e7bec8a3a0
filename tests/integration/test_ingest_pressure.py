"""A gateway when something gives way: the log, the network, the memory bound, the device, or the gateway itself."""

import asyncio
import gc
import gzip
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec
import orjson
import pytest
from aiohttp import web

from gateway.app import create_app
from gateway.config import Config
from gateway.problems import RequestFailed
from gateway.publish import Sink, Unavailable
from gateway.releases import apps
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store
from schemas import reasons
from schemas.records import DeadLetter, Record

VECTORS: Final = orjson.loads((Path(reasons.__file__).parent / "vectors" / "batches.json").read_bytes())
GOOD: Final[dict[str, Any]] = VECTORS["events"][0]["event"]


def body_of(*events: object, **changes: object) -> bytes:
    return orjson.dumps({**VECTORS["envelope"], **changes, "events": list(events)})


class Answer(NamedTuple):
    """A response, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


class Gateway(NamedTuple):
    """A gateway that listens, and a key that it knows."""

    url: str
    key: str
    session: aiohttp.ClientSession

    async def post(self, body: Any, encoding: str = "identity") -> Answer:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.key}"}
        if encoding == "gzip":
            headers["Content-Encoding"], body = encoding, gzip.compress(body)
        async with self.session.post(f"{self.url}/v1/batches", data=body, headers=headers) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str) -> Answer:
        async with self.session.get(self.url + path) as response:
            return Answer(response.status, response.headers, await response.read())

    async def metric(self, sample: str) -> float:
        lines = (await self.get("/metrics")).body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample))

    async def until(self, sample: str, least: float) -> None:
        """Wait until a metric is at least so much."""
        async with asyncio.timeout(20):
            while await self.metric(sample) < least:  # noqa: ASYNC110 - the state is another's, over HTTP
                await asyncio.sleep(0.01)

    async def dial(self, head: str, *parts: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Speak HTTP by hand, each part in a packet of its own."""
        host, port = self.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        start = f"POST /v1/batches HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self.key}\r\n"
        writer.write((start + "Content-Type: application/json\r\n" + head + "\r\n").encode())
        for part in parts:
            await asyncio.sleep(0.05)
            writer.write(part)
        return reader, writer


async def first_line(gateway: Gateway, head: str, *parts: bytes) -> bytes:
    reader, writer = await gateway.dial(head, *parts)
    line = await reader.readline()
    writer.close()
    return line


@dataclass
class StuckSink(Sink):
    """A log that takes nothing, or that takes it only once it is let go."""

    refuses: bool
    go: asyncio.Event = field(default_factory=asyncio.Event)
    taken: list[Record] = field(default_factory=list)

    async def publish(self, records: Sequence[Record]) -> None:
        if self.refuses:
            raise Unavailable("the disk is full", 3.0)
        await self.go.wait()
        self.taken += records

    def trouble(self) -> str | None:
        return "the disk is full" if self.refuses else None

    def gauges(self) -> Mapping[str, float]:
        return {}

    async def close(self) -> None:
        self.refuses = True


Start = Callable[..., Awaitable[Gateway]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Return a function that serves an application on a given sink."""
    async with AsyncExitStack() as stack:

        async def begin(sink: Sink, settings: Config | None = None, **parts: Any) -> Gateway:
            store = Store.open("memory://")
            key = await apps.create_app(store, "shop", 1)
            snapshots = SnapshotKeeper(store)
            await snapshots.refresh()
            app = create_app(settings or Config(), sink=sink, snapshots=snapshots, store=store, **parts)
            runner = web.AppRunner(app, auto_decompress=False, access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            session = await stack.enter_async_context(aiohttp.ClientSession())
            return Gateway(f"http://{host}:{port}", key, session)

        yield begin


@pytest.mark.parametrize("body", [body_of(GOOD), body_of({}), b"{"], ids=["good", "refused", "malformed"])
async def test_without_a_log_nothing_is_acknowledged(start: Start, body: bytes) -> None:
    gateway = await start(StuckSink(refuses=True))
    answer = await gateway.post(body)
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert 3 <= int(answer.headers["Retry-After"]) <= 6
    assert await gateway.metric("backhaul_events_total{") == 0
    ready = await gateway.get("/readyz")
    assert (ready.status, ready.json["trouble"]["sink"]) == (503, "the disk is full")


async def test_an_update_check_waits_for_no_log_unless_the_log_is_in_trouble(start: Start) -> None:
    sink = StuckSink(refuses=False)
    gateway = await start(sink)
    assert [(await gateway.post(body_of())).status for _ in range(3)] == [200, 200, 200]
    assert sink.taken == []
    sink.go.set()
    async with asyncio.timeout(20):
        while len(sink.taken) < 3:  # noqa: ASYNC110 - the state is the gateway's
            await asyncio.sleep(0.001)
    sink.refuses = True
    answer = await gateway.post(body_of())
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert await gateway.metric("backhaul_lost_checks") == 0


async def test_past_their_room_update_checks_wait_for_the_log_like_batches(start: Start) -> None:
    sink = StuckSink(refuses=False)
    gateway = await start(sink, Config(body_max_bytes=40_000, inflated_max_bytes=40_000, inflight_max_bytes=65_536))
    large = body_of(padding="x" * 10_000)
    assert (await gateway.post(large)).status == 200
    waiting = asyncio.create_task(gateway.post(large))
    await gateway.until("backhaul_in_flight_bytes", len(large))
    sink.go.set()
    assert (await waiting).status == 200


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_past_the_bytes_in_flight_devices_slow_down(start: Start) -> None:
    sink = StuckSink(refuses=False)
    gateway = await start(sink, Config(body_max_bytes=40_000, inflated_max_bytes=40_000, inflight_max_bytes=65_536))
    large = body_of(GOOD, padding="x" * 30_000)
    waiting = [asyncio.create_task(gateway.post(large)) for _ in range(2)]
    await gateway.until("backhaul_in_flight_bytes", 2 * len(large))
    for body in (large, chunks(large)):
        answer = await gateway.post(body)
        assert (answer.status, answer.json["code"]) == (429, "slow_down")
        assert 5 <= int(answer.headers["Retry-After"]) <= 10
    sink.go.set()
    assert [answer.status for answer in await asyncio.gather(*waiting)] == [200, 200]
    assert await gateway.metric("backhaul_in_flight_bytes") == 0
    assert (await gateway.post(large)).status == 200


async def test_a_body_that_stalls_is_given_up(start: Start) -> None:
    gateway = await start(StuckSink(refuses=False), read_seconds=0.05)
    assert (await first_line(gateway, "Content-Length: 100\r\n", b"{")).startswith(b"HTTP/1.1 429 ")


async def test_a_broken_transfer_keeps_the_batch_on_the_device(start: Start) -> None:
    gateway = await start(StuckSink(refuses=True), read_seconds=0.5)
    line = await first_line(gateway, "Transfer-Encoding: chunked\r\n", b"1\r\n{\r\n", b"not a chunk size\r\n")
    assert line.startswith(b"HTTP/1.1 429 ")


async def test_a_device_that_hangs_up_is_nobodys_failure(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    gateway = await start(StuckSink(refuses=False))
    _, writer = await gateway.dial("Content-Length: 100\r\n", b"{")
    await gateway.until("backhaul_in_flight_bytes", 1)
    writer.transport.abort()
    await gateway.until('backhaul_requests_total{code="hung_up"', 1)
    assert await gateway.metric("backhaul_in_flight_bytes") == 0
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_refused_events_cannot_blow_up_on_the_log(start: Start) -> None:
    sink = StuckSink(refuses=False)
    sink.go.set()
    gateway = await start(sink)
    few, many = [{"text": "x" * 5000}] * 10, [{"text": "x" * 5000}] * 1000
    for events, largest in ((few, 60_000), (many, 1_000_000)):
        sink.taken.clear()
        answer = await gateway.post(body_of(*events), encoding="gzip")
        assert len(answer.json["refused"]) == len(sink.taken) - 1 == len(events)
        assert sum(len(record.value) for record in sink.taken) < largest
    assert len(msgspec.json.decode(sink.taken[1].value, type=DeadLetter).body) == 512


async def test_a_failed_request_leaves_nothing_for_the_garbage_collector(start: Start) -> None:
    sink = StuckSink(refuses=False)
    sink.go.set()
    gateway = await start(sink)
    bodies = [b"{", body_of(x=[0] * 400_000), b" " * (2**23 + 1)]
    strangers = [gateway._replace(key=key) for key in ("shop.short", "shop." + "x" * 43)]
    gc.collect()
    before = {id(each) for each in gc.get_objects() if isinstance(each, RequestFailed)}
    gc.disable()
    try:
        statuses = [(await gateway.post(body, encoding="gzip")).status for body in bodies]
        statuses += [(await stranger.post(b"{}")).status for stranger in strangers]
        assert statuses == [400, 413, 413, 401, 401]
        assert [left for left in gc.get_objects() if isinstance(left, RequestFailed) and id(left) not in before] == []
    finally:
        gc.enable()


async def test_a_mistake_of_our_own_is_a_problem_with_its_traceback_kept(
    start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    class BrokenSink(StuckSink):
        async def publish(self, records: Sequence[Record]) -> None:
            raise ZeroDivisionError("a secret of the house")

    gateway = await start(BrokenSink(refuses=False))
    answer = await gateway.post(body_of(GOOD))
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert b"secret" not in answer.body
    assert "ZeroDivisionError: a secret of the house" in caplog.text


async def test_the_clock_is_a_parameter(start: Start) -> None:
    sink = StuckSink(refuses=False)
    sink.go.set()
    gateway = await start(sink, clock=lambda: 1234)
    assert (await gateway.post(body_of(GOOD))).json["server_time"] == 1234
    assert dict(sink.taken[0].headers)["received_at"] == b"1234"
