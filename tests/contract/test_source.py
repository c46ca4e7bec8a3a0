"""What every Source promises, whichever log is behind it."""

from typing import Any

import pytest

from consumers.source import Source, SourceError
from schemas.records import Record
from schemas.topics import BATCHES, DEAD_LETTERS, TOPICS

Log = Any  # tests/contract/conftest.py; test modules import nothing of each other
KEY = b"device-1"


async def fill(log: Log, *values: bytes, topic: str = BATCHES) -> None:
    """Publish records of one key, so that all are on one partition."""
    sink = await log.sink()
    await sink.publish([Record(topic, KEY, value) for value in values])


async def partition_of(source: Source, topic: str = BATCHES) -> int:
    """Return the partition that holds records."""
    ends = {partition: await source.end(topic, partition) for partition in source.partitions(topic)}
    return max(ends, key=lambda partition: ends[partition])


async def values(
    source: Source, partition: int, first: int, max_records: int = 100, max_bytes: int = 1 << 20
) -> list[bytes]:
    found = await source.read(BATCHES, partition, first, max_records=max_records, max_bytes=max_bytes)
    assert [record.offset for record in found] == list(range(first, first + len(found)))
    assert {(record.topic, record.partition) for record in found} <= {(BATCHES, partition)}
    return [record.value for record in found]


async def test_an_empty_log_ends_where_a_new_consumer_starts(log: Log) -> None:
    await log.sink()
    source = await log.source("reader")
    for topic in TOPICS:
        for partition in source.partitions(topic):
            assert await source.position(topic, partition) == 0
            assert await source.end(topic, partition) == 0
            assert await source.read(topic, partition, 0, max_records=10, max_bytes=1000) == []


async def test_reading_starts_at_any_offset_and_stops_at_the_end(log: Log) -> None:
    await fill(log, b"a", b"b", b"c")
    source = await log.source("reader")
    partition = await partition_of(source)
    assert await values(source, partition, 0) == [b"a", b"b", b"c"]
    assert await values(source, partition, 1) == [b"b", b"c"]
    assert await values(source, partition, 3) == []
    assert await source.end(BATCHES, partition) == 3


async def test_a_read_is_bounded_by_records_and_by_bytes(log: Log) -> None:
    await fill(log, *(b"x" * 100 for _ in range(10)))
    source = await log.source("reader")
    partition = await partition_of(source)
    assert len(await values(source, partition, 0, max_records=4)) == 4
    assert len(await values(source, partition, 0, max_bytes=350)) == 3


async def test_a_record_larger_than_the_bound_still_comes(log: Log) -> None:
    await fill(log, b"x" * 1000, b"y")
    source = await log.source("reader")
    partition = await partition_of(source)
    assert await values(source, partition, 0, max_bytes=10) == [b"x" * 1000]
    assert await values(source, partition, 1, max_bytes=10) == [b"y"]


async def test_topics_are_read_apart(log: Log) -> None:
    await fill(log, b"batch")
    await fill(log, b"letter", topic=DEAD_LETTERS)
    source = await log.source("reader")
    partition = await partition_of(source, DEAD_LETTERS)
    (letter,) = await source.read(DEAD_LETTERS, partition, 0, max_records=10, max_bytes=1000)
    assert (letter.topic, letter.value) == (DEAD_LETTERS, b"letter")


async def test_a_committed_position_outlives_the_source(log: Log) -> None:
    await fill(log, b"a", b"b", b"c")
    first = await log.source("reader")
    partition = await partition_of(first)
    await first.commit(BATCHES, partition, 2)
    assert await first.position(BATCHES, partition) == 2
    await first.close()
    again = await log.source("reader")
    assert await again.position(BATCHES, partition) == 2


async def test_consumers_keep_their_places_apart(log: Log) -> None:
    await fill(log, b"a", b"b", b"c")
    one, other = await log.source("one"), await log.source("other")
    partition = await partition_of(one)
    await one.commit(BATCHES, partition, 3)
    assert await other.position(BATCHES, partition) == 0
    assert await values(other, partition, 0) == [b"a", b"b", b"c"]


async def test_what_is_published_later_is_seen_by_an_open_source(log: Log) -> None:
    await fill(log, b"a")
    source = await log.source("reader")
    partition = await partition_of(source)
    assert await values(source, partition, 0) == [b"a"]
    await fill(log, b"b")
    assert await values(source, partition, 1) == [b"b"]


async def test_every_reader_sees_the_same_identity(log: Log) -> None:
    await log.sink()
    one, other = await log.source("one"), await log.source("other")
    for topic in TOPICS:
        assert one.identity_of(topic) == other.identity_of(topic)
        assert one.identity_of(topic)


async def test_a_closed_source_raises_its_own_error(log: Log) -> None:
    await fill(log, b"a")
    source = await log.source("reader")
    partition = await partition_of(source)
    await source.close()
    await source.close()
    with pytest.raises(SourceError):
        await source.read(BATCHES, partition, 0, max_records=1, max_bytes=1)
