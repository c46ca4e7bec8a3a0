"""Update checks behind their answers: what is bounded, what is counted, and what a stop waits for."""

import asyncio
import logging
from collections.abc import Mapping, Sequence

import pytest

from gateway.checks import Checks
from gateway.publish import Sink, Unavailable
from schemas.records import Record
from schemas.topics import BATCHES

ROOM = 1_000_000


class Log(Sink):
    """A log in memory that answers when it is let go, and fails when it is told to."""

    def __init__(self) -> None:
        self.calls: list[list[bytes]] = []
        self.go = asyncio.Event()
        self.failure: Exception | None = None
        self.says: str | None = None

    async def publish(self, records: Sequence[Record]) -> None:
        self.calls.append([record.value for record in records])
        await self.go.wait()
        if self.failure is not None:
            raise self.failure

    def trouble(self) -> str | None:
        return self.says

    def gauges(self) -> Mapping[str, float]:
        return {}

    async def close(self) -> None:
        self.says = "closed"


def check(value: bytes) -> Record:
    return Record(BATCHES, b"device", value)


async def test_what_comes_together_is_published_together_in_order_and_a_stop_waits_for_it() -> None:
    log = Log()
    checks = Checks(log, ROOM)
    for number in range(3):
        assert checks.take(check(b"%d" % number))
    finishing = asyncio.create_task(checks.finish())
    async with asyncio.timeout(10):
        while not log.calls:  # noqa: ASYNC110 - the log is another's
            await asyncio.sleep(0.001)
    assert checks.take(check(b"3"))
    assert not finishing.done()
    log.go.set()
    await finishing
    assert log.calls == [[b"0", b"1", b"2"], [b"3"]]
    assert (checks.pending_bytes, checks.lost) == (0, 0)


async def test_past_its_bound_or_with_the_log_in_trouble_nothing_is_taken() -> None:
    log = Log()
    checks = Checks(log, 10_000)
    log.says = "away"
    assert not checks.take(check(b"x"))
    log.says = None
    assert not Checks(log, ROOM).take(check(b"x" * 40_000))
    assert [checks.take(check(b"x" * 1000)) for _ in range(5)] == [True, True, True, False, False]
    assert checks.pending_bytes <= 10_000
    log.go.set()
    await checks.finish()
    assert checks.take(check(b"x" * 1000))
    await checks.finish()
    assert log.calls == [[b"x" * 1000] * 3, [b"x" * 1000]]


@pytest.mark.parametrize("failure", [Unavailable("the disk is full", 1.0), ZeroDivisionError("the disk is full")])
async def test_what_the_log_does_not_take_is_counted_and_told_once(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log()
    log.go.set()
    checks = Checks(log, ROOM)
    for log.failure in (failure, failure, None, failure):
        checks.take(check(b"1"))
        checks.take(check(b"2"))
        await checks.finish()
    assert (checks.lost, checks.pending_bytes) == (6, 0)
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 2, "once until it goes well again"
    assert all("the disk is full" in record.getMessage() for record in told)
    assert all((not record.exc_info) == isinstance(failure, Unavailable) for record in told)
