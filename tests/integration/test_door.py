"""The gateway's door: full, half-open, and open again."""

import asyncio
import json
import random
import resource
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from gateway.supervisor.door import Door, most_connections

Open = Callable[..., Awaitable[tuple[str, int]]]
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def open_door() -> AsyncIterator[Open]:
    runners: list[web.AppRunner] = []

    async def healthz(_: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def begin(most: int, idle_seconds: float = 60.0) -> tuple[str, int]:
        app = web.Application()
        app.router.add_get("/healthz", healthz)
        runner = web.AppRunner(app, keepalive_timeout=idle_seconds, access_log=None)
        await runner.setup()
        runners.append(runner)
        listening = socket.create_server(("127.0.0.1", 0))
        await Door(runner, listening, most, random.Random(1)).start()  # noqa: S311 - no secret
        host, port = listening.getsockname()
        return host, port

    yield begin
    for runner in runners:
        await runner.cleanup()


async def test_a_connection_above_the_bound_is_told_so_and_closed(open_door: Open) -> None:
    place = await open_door(most=2)
    held = [await asyncio.open_connection(*place) for _ in range(2)]
    for reader, writer in held:
        writer.write(REQUEST)
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
    reader, writer = await asyncio.open_connection(*place)
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nRetry-After: " in head
    assert b"\r\nContent-Type: application/problem+json\r\n" in head + b"\r\n"
    assert json.loads(body)["code"] == "unavailable"
    for _, writer in held:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(10):
        while not await answers(place):
            pass


async def answers(place: tuple[str, int]) -> bool:
    reader, writer = await asyncio.open_connection(*place)
    writer.write(REQUEST)
    line = await reader.readline()
    writer.close()
    return line.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sent", [b"", b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_headers_that_do_not_come_end_the_connection(open_door: Open, sent: bytes) -> None:
    place = await open_door(most=2, idle_seconds=0.2)
    reader, writer = await asyncio.open_connection(*place)
    writer.write(sent)
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()


def test_the_bound_leaves_descriptors_for_all_else() -> None:
    most = most_connections()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert 0 < most < soft
