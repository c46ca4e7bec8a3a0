"""What anybody can make the gateway write to its own output, without a key."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import pytest
from aiohttp import web

from gateway.strangers import QUIET_SECONDS, Strangers, connection_log

NO_HTTP = [
    b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
    b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
    b"POST /v1/batches HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    b"GET http://[::1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
]


class Hand:
    """A clock that only moves when told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hand() -> Iterator[Hand]:
    hand = Hand()
    logger = connection_log()
    before, logger.filters = logger.filters, [Strangers(hand)]
    yield hand
    logger.filters = before


@pytest.fixture
async def address() -> AsyncIterator[tuple[str, int]]:
    async def fail(_: web.Request) -> web.Response:
        raise RuntimeError("ours")

    app = web.Application()
    app.router.add_get("/fail", fail)
    runner = web.AppRunner(app, access_log=None, logger=connection_log())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][:2]
    await runner.cleanup()


async def send(address: tuple[str, int], text: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(text)
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_thousand_requests_that_are_no_http_are_one_short_line(
    address: tuple[str, int], hand: Hand, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    for _ in range(20):
        for text in NO_HTTP:
            assert b" 400 " in await send(address, text)
    [record] = caplog.records
    assert (record.levelno, record.exc_info) == (logging.INFO, None)
    assert len(record.getMessage()) < 300
    hand.now = QUIET_SECONDS
    await send(address, NO_HTTP[1])
    assert "(119 more " in caplog.messages[-1]
    assert "\n" not in "".join(caplog.messages)


async def test_an_error_of_ours_is_told_each_time_with_its_traceback(
    address: tuple[str, int], hand: Hand, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        assert b" 500 " in await send(address, b"GET /fail HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "RuntimeError: ours" in caplog.text
