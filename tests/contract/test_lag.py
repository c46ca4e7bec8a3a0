"""How far a consumer is behind shows from outside, whichever log it reads and whether or not it runs."""

from collections.abc import Sequence
from typing import Any

from consumers.lag import Lag
from schemas.records import BatchHeaders, DeadLetter, Record, batch_record, dead_letter_record
from schemas.topics import BATCHES, DEAD_LETTERS

Log = Any  # tests/contract/conftest.py; test modules import nothing of each other
FIRST_MS = 1_795_334_400_000


def batch(number: int) -> Record:
    about = BatchHeaders(
        app="shop", content_encoding="identity", received_at=FIRST_MS + number, gateway="gw", batch="b", events=0
    )
    return batch_record("device-1", b"{}", about)


def of(lags: Sequence[Lag], topic: str) -> Lag:
    """Return the lag of the partition that has records."""
    return max((lag for lag in lags if lag.topic == topic), key=lambda lag: lag.end)


async def test_a_consumer_that_was_never_there_is_behind_by_all_that_there_is(log: Log) -> None:
    sink = await log.sink()
    await sink.publish([batch(number) for number in range(3)])
    lag = of(await log.lags("reader"), BATCHES)
    assert (lag.records, lag.gone, lag.oldest_ms, lag.known) == (3, 0, FIRST_MS, False)
    assert all(lag.records == 0 and lag.oldest_ms is None for lag in await log.lags("reader") if lag.end == 0)


async def test_what_is_committed_waits_no_more_and_the_next_record_tells_since_when(log: Log) -> None:
    sink = await log.sink()
    await sink.publish([batch(number) for number in range(3)])
    source = await log.source("reader")
    partition = of(await log.lags("reader"), BATCHES).partition
    await source.commit(BATCHES, partition, 2)
    lag = of(await log.lags("reader"), BATCHES)
    assert (lag.position, lag.end, lag.records, lag.oldest_ms, lag.known) == (2, 3, 1, FIRST_MS + 2, True)
    await source.commit(BATCHES, partition, 3)
    await source.close()
    lag = of(await log.lags("reader"), BATCHES)
    assert (lag.records, lag.oldest_ms, lag.known) == (0, None, True)


async def test_dead_letters_tell_since_when_they_wait_and_what_cannot_be_read_does_not(log: Log) -> None:
    letter = DeadLetter(
        app="shop", received_at=FIRST_MS, device="d", batch="b", index=1, reason="r", encoding="json", body="{}"
    )
    sink = await log.sink()
    await sink.publish([dead_letter_record(letter), Record(BATCHES, b"device-1", b"not one of ours")])
    lags = await log.lags("reader")
    assert of(lags, DEAD_LETTERS).oldest_ms == FIRST_MS
    assert (of(lags, BATCHES).records, of(lags, BATCHES).oldest_ms) == (1, None)
