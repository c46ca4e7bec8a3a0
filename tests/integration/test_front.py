"""The front before aiohttp, over real sockets: what it answers itself, and what it gives away with every byte."""

import asyncio
import json
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import uvloop
from aiohttp import web

from gateway.admission import InFlight
from gateway.front import Front
from gateway.metrics import Metrics
from gateway.problems import SlowDown
from gateway.supervisor.door import Door
from gateway.whole_request import Whole

DICE = random.Random(1)  # noqa: S311 - no secret


class Place:
    """A front whose batches are answered by a test, before an application that says that it answered."""

    def __init__(self) -> None:
        self.taken: list[Whole] = []
        self.callers: list[Caller] = []
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.at_once = False
        self.failure: Exception | None = None
        self.metrics = Metrics()
        self.in_flight = InFlight(10_000, DICE)

    async def open(self, idle_seconds: float) -> None:
        app = web.Application()
        app.router.add_post("/v1/batches", self._by_aiohttp)
        app.router.add_get("/healthz", self._by_aiohttp)
        self.runner = web.AppRunner(app, access_log=None)
        await self.runner.setup()
        listening = socket.create_server(("127.0.0.1", 0))
        self.address = listening.getsockname()
        self.front = Front(self._take, self.metrics, self.in_flight, idle_seconds=idle_seconds)
        await Door(self.runner, listening, 2, DICE, self.front).start()

    def _take(self, request: Whole) -> bytes | Awaitable[bytes]:
        self.taken.append(request)
        return self._reply() if self.at_once else self._later()

    async def _later(self) -> bytes:
        await self.go_on.wait()
        return self._reply()

    def _reply(self) -> bytes:
        if self.failure is not None:
            raise self.failure
        return b'{"by":"front"}'

    async def _by_aiohttp(self, request: web.Request) -> web.Response:
        return web.json_response({"by": "aiohttp", "bytes": len(await request.read())})

    async def dial(self) -> "Caller":
        self.callers.append(Caller(*await asyncio.open_connection(*self.address)))
        return self.callers[-1]

    def is_with_aiohttp(self) -> bool:
        return bool(self.runner.server and self.runner.server.connections)

    async def close(self) -> None:
        self.go_on.set()
        for caller in self.callers:
            caller.writer.close()
        await self.front.finish(5)
        await self.runner.cleanup()

    def counted(self, status: int, code: str = "") -> bool:
        sample = f'backhaul_requests_total{{code="{code}",route="/v1/batches",status="{status}"}} 1.0'
        return sample in self.metrics.exposition().decode()


class Caller:
    """A device that speaks HTTP by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> tuple[int, dict[str, str], dict[str, object]]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        first, *lines = head.strip().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        body = await self.reader.readexactly(int(headers["content-length"]))
        return int(first.split()[1]), headers, json.loads(body)

    async def by(self) -> object:
        return (await self.answer())[2]["by"]


Open = Callable[..., Awaitable[Place]]


@pytest.fixture
async def open_place() -> AsyncIterator[Open]:
    opened: list[Place] = []

    async def begin(idle_seconds: float = 60.0) -> Place:
        opened.append(Place())
        await opened[-1].open(idle_seconds)
        return opened[-1]

    yield begin
    for place in opened:
        await place.close()


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the state is another's, over a socket
            await asyncio.sleep(0.001)


def batch(body: bytes = b"{}", *headers: str) -> bytes:
    lines = ["POST /v1/batches HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize("at_once", [False, True])
async def test_batches_that_come_whole_are_answered_one_after_another(open_place: Open, at_once: bool) -> None:
    place = await open_place()
    place.at_once = at_once
    caller = await place.dial()
    for number in range(3):
        caller.writer.write(batch(b"%d" % number))
        status, headers, body = await caller.answer()
        assert (status, headers["content-type"], body) == (200, "application/json", {"by": "front"})
        assert "connection" not in headers
    assert [request.body for request in place.taken] == [b"0", b"1", b"2"]


async def test_a_batch_in_several_packets_is_put_together(open_place: Open) -> None:
    place = await open_place()
    caller = await place.dial()
    whole = batch(b"x" * 3000)
    for part in (whole[:10], whole[10:60], whole[60:200], whole[200:]):
        caller.writer.write(part)
        await caller.writer.drain()
        await asyncio.sleep(0.02)
    assert await caller.by() == "front"
    assert place.taken[0].body == b"x" * 3000
    assert place.in_flight.bytes == 0


async def test_the_bytes_of_a_part_are_in_flight_and_go_with_their_connection(open_place: Open) -> None:
    place = await open_place()
    caller = await place.dial()
    caller.writer.write(batch(b"x" * 3000)[:2000])
    await until(lambda: place.in_flight.bytes == 2000)
    caller.writer.close()
    await until(lambda: not (place.in_flight.bytes or place.front.connections))


async def test_what_does_not_come_whole_soon_is_aiohttps(open_place: Open) -> None:
    place = await open_place()
    caller = await place.dial()
    whole = batch(b"x" * 3000)
    caller.writer.write(whole[:2000])
    await until(place.is_with_aiohttp)
    assert place.in_flight.bytes == 0
    caller.writer.write(whole[2000:])
    assert (await caller.answer())[2] == {"by": "aiohttp", "bytes": 3000}


async def test_a_part_for_which_there_is_no_room_is_aiohttps_at_once(open_place: Open) -> None:
    place = await open_place()
    place.in_flight.bytes = 9000
    caller = await place.dial()
    whole = batch(b"x" * 3000)
    caller.writer.write(whole[:2000])
    await until(place.is_with_aiohttp, 0.9)
    caller.writer.write(whole[2000:])
    assert await caller.by() == "aiohttp"


@pytest.mark.parametrize(
    "strange",
    [b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", batch(b"{}", "Connection: close"), batch(b"{}", "X_Name: 1")],
)
async def test_a_strange_request_and_all_after_it_are_aiohttps(open_place: Open, strange: bytes) -> None:
    place = await open_place()
    caller = await place.dial()
    caller.writer.write(batch())
    assert await caller.by() == "front"
    caller.writer.write(strange)
    assert await caller.by() == "aiohttp"
    if b"close" not in strange:
        caller.writer.write(batch())
        assert await caller.by() == "aiohttp"
    assert len(place.taken) == 1


async def test_what_comes_before_the_answer_is_answered_after_it(open_place: Open) -> None:
    place = await open_place()
    place.go_on.clear()
    caller = await place.dial()
    caller.writer.write(batch())
    await until(lambda: bool(place.taken))
    caller.writer.write(batch() + batch())
    await asyncio.sleep(0.05)
    assert len(place.taken) == 1
    place.go_on.set()
    assert [await caller.by() for _ in range(3)] == ["front", "aiohttp", "aiohttp"]


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_failed_request_is_a_problem_and_counted(open_place: Open, at_once: bool) -> None:
    place = await open_place()
    place.at_once = at_once
    place.failure = SlowDown("too much", 7)
    caller = await place.dial()
    caller.writer.write(batch())
    status, headers, body = await caller.answer()
    assert (status, headers["content-type"], headers["retry-after"]) == (429, "application/problem+json", "7")
    assert (body["code"], body["status"]) == ("slow_down", 429)
    assert place.counted(429, "slow_down")
    place.failure = KeyError("a fault of ours")
    caller.writer.write(batch())
    assert (await caller.answer())[2]["code"] == "internal"
    place.failure = None
    caller.writer.write(batch())
    assert await caller.by() == "front"
    assert place.counted(200)


async def test_an_idle_connection_is_closed_and_one_in_use_is_not(open_place: Open) -> None:
    place = await open_place(idle_seconds=0.4)
    idle, used = await place.dial(), await place.dial()
    for _ in range(8):
        used.writer.write(batch())
        assert await used.by() == "front"
        await asyncio.sleep(0.1)
    async with asyncio.timeout(10):
        assert await idle.reader.read() == b""
    used.writer.write(batch())
    assert await used.by() == "front"


async def test_connections_here_count_for_the_doors_bound(open_place: Open) -> None:
    place = await open_place()
    first, second = await place.dial(), await place.dial()
    for caller in (first, second):
        caller.writer.write(batch())
        assert await caller.by() == "front"
    second.writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await second.by() == "aiohttp"
    assert (await (await place.dial()).answer())[0] == 503


async def test_leaving_answers_what_is_in_work_and_closes_the_rest(open_place: Open) -> None:
    place = await open_place()
    place.go_on.clear()
    busy, idle = await place.dial(), await place.dial()
    busy.writer.write(batch())
    await until(lambda: bool(place.taken) and len(place.front.connections) == 2)
    finishing = asyncio.create_task(place.front.finish(60))
    await asyncio.sleep(0.05)
    assert not finishing.done()
    place.go_on.set()
    status, headers, _ = await busy.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert await busy.reader.read() == await idle.reader.read() == b""
    await finishing


def test_it_is_the_same_on_uvloop_whose_transports_are_none_of_asyncios() -> None:
    async def all_of_it() -> None:
        place = Place()
        await place.open(60.0)
        first, second = await place.dial(), await place.dial()
        first.writer.write(batch())
        assert await first.by() == "front"
        first.writer.write(batch()[:40])
        await until(lambda: place.in_flight.bytes == 40)
        first.writer.write(batch()[40:])
        assert await first.by() == "front"
        second.writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await second.by() == "aiohttp"
        assert (await (await place.dial()).answer())[0] == 503
        await place.close()
        for caller in place.callers:
            await caller.writer.wait_closed()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(all_of_it())
