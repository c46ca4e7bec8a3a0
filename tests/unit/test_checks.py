"""Update checks behind their answers: what is bounded, what is counted, and what a stop waits for."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from gateway.checks import Checks
from gateway.publish import Sink, Unavailable
from gateway.publish.embedded import EmbeddedLog
from schemas.records import Record
from schemas.topics import BATCHES

ROOM = 1_000_000
TOGETHER = 64 * 1024


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


class FirstRefused(Log):
    """A log whose pending bytes are full for what comes first."""

    async def publish(self, records: Sequence[Record]) -> None:
        await super().publish(records)
        if len(self.calls) == 1:
            raise Unavailable("bytes wait for the disk", 1.0)


def check(value: bytes) -> Record:
    return Record(BATCHES, b"device", value)


async def test_what_comes_together_is_published_together_in_order_and_a_stop_waits_for_it() -> None:
    log = Log()
    checks = Checks(log, ROOM, TOGETHER)
    for number in range(3):
        assert checks.take(check(b"%d" % number))
    finishing = asyncio.create_task(checks.finish(20))
    async with asyncio.timeout(10):
        while not log.calls:  # noqa: ASYNC110 - the log is another's
            await asyncio.sleep(0.001)
    assert not finishing.done()
    log.go.set()
    await finishing
    assert log.calls == [[b"0", b"1", b"2"]]
    assert (checks.pending_bytes, checks.lost) == (0, 0)


async def test_past_its_bound_or_with_the_log_in_trouble_nothing_is_taken() -> None:
    log = Log()
    checks = Checks(log, 10_000, TOGETHER)
    log.says = "away"
    assert not checks.take(check(b"x"))
    log.says = None
    assert not Checks(log, ROOM, TOGETHER).take(check(b"x" * 40_000))
    assert [checks.take(check(b"x" * 1000)) for _ in range(5)] == [True, True, True, False, False]
    assert checks.pending_bytes <= 10_000
    log.go.set()
    await checks.finish(20)
    assert checks.take(check(b"x" * 1000))
    await checks.finish(20)
    assert log.calls == [[b"x" * 1000] * 3, [b"x" * 1000]]


@pytest.mark.parametrize("failure", [Unavailable("the disk is full", 1.0), ZeroDivisionError("the disk is full")])
async def test_what_the_log_does_not_take_is_counted_and_told_once(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log()
    log.go.set()
    now = 0.0
    checks = Checks(log, ROOM, TOGETHER, lambda: now)
    for log.failure in (failure, failure, None, failure):
        now += 1.0
        assert checks.take(check(b"1"))
        assert checks.take(check(b"2"))
        await checks.finish(20)
    assert (checks.lost, checks.pending_bytes) == (6, 0)
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 2, "once until it goes well again"
    assert all("the disk is full" in record.getMessage() for record in told)
    assert all((not record.exc_info) == isinstance(failure, Unavailable) for record in told)


async def test_after_a_refusal_checks_wait_for_a_log_without_trouble_for_as_long_as_it_said() -> None:
    log = Log()
    log.go.set()
    now = 100.0
    checks = Checks(log, ROOM, TOGETHER, lambda: now)
    log.failure = Unavailable("bytes wait for the disk", 5.0)
    assert checks.take(check(b"lost"))
    await checks.finish(20)
    assert log.trouble() is None
    log.failure = None
    now = 104.9
    assert not checks.take(check(b"answered by the log itself"))
    now = 105.0
    assert checks.take(check(b"taken"))
    await checks.finish(20)
    assert (log.calls, checks.lost) == ([[b"lost"], [b"taken"]], 1)


async def test_a_success_that_was_under_way_does_not_end_the_wait() -> None:
    log = FirstRefused()
    log.go.set()
    checks = Checks(log, ROOM, TOGETHER, lambda: 0.0)
    for number in range(4):
        assert checks.take(check(b"%d" % number * 30_000))
    await checks.finish(20)
    assert (len(log.calls), checks.lost) == (2, 2)
    assert not checks.take(check(b"x"))


async def test_one_publish_is_never_more_than_may_go_together() -> None:
    log = Log()
    log.go.set()
    checks = Checks(log, 10 * ROOM, TOGETHER)
    values = [b"%d" % (number % 10) * (100 * number) for number in range(1, 300)]
    assert all(checks.take(check(value)) for value in values)
    await checks.finish(20)
    assert [value for call in log.calls for value in call] == values
    assert max(sum(map(len, call)) for call in log.calls) <= TOGETHER
    assert len(log.calls) < len(values)


async def test_a_log_that_is_full_without_trouble_loses_some_of_one_burst_and_no_more(tmp_path: Path) -> None:
    log = await EmbeddedLog.open(tmp_path, max_bytes=2**26, max_pending_bytes=TOGETHER)
    checks = Checks(log, ROOM, TOGETHER // 4, lambda: 0.0)
    assert all(checks.take(check(b"x" * 1000)) for _ in range(300))
    await checks.finish(20)
    assert 0 < checks.lost < 300
    assert (checks.pending_bytes, log.trouble()) == (0, None)
    assert not any(checks.take(check(b"x" * 1000)) for _ in range(300))
    await log.close()


async def test_a_stop_does_not_wait_for_a_log_that_hangs_and_tells_what_it_leaves(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = Log()
    checks = Checks(log, ROOM, TOGETHER)
    checks.take(check(b"1"))
    checks.take(check(b"2"))
    await checks.finish(0.05)
    assert "2 update checks" in caplog.text
    log.failure = Unavailable("the gateway is stopping", 1.0)
    log.go.set()
    await checks.finish(20)
    assert (checks.lost, checks.pending_bytes) == (2, 0)
