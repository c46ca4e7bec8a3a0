"""Reading ahead of what is stored: it saves a wait, and changes nothing of what is read."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from consumers.source import EmbeddedSource, SourceError
from consumers.warehouse.batches import Batches
from consumers.warehouse.plans import Lane
from consumers.warehouse.ranges import Ranges
from tests.warehouse_steps import SETTINGS, consumer


class Watched:
    """A source that tells where it was read; `shared` by other lanes of its topic, or not."""

    def __init__(self, source: EmbeddedSource, *, shared: bool = False) -> None:
        self._source, self._shared = source, shared
        self.reads: list[int] = []
        self.looked = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def partitions(self, topic: str) -> Sequence[int]:
        return (0, 1) if self._shared else self._source.partitions(topic)

    async def end(self, topic: str, partition: int) -> int:
        end = await self._source.end(topic, partition)
        self.looked.set()
        return end

    async def read(self, topic: str, partition: int, first: int, **bounds: int) -> Any:
        self.reads.append(first)
        return await self._source.read(topic, partition, first, **bounds)


def ranges(source: Any) -> Ranges:
    return Ranges(Lane(source.identity, "batches", 0), source, Batches(), SETTINGS)


async def offsets(of: Ranges, first: int, *, safe: bool = False) -> list[int]:
    taken = await of.take(first, safe=safe)
    items: Sequence[Any] = [] if taken is None else taken.items
    assert all(item.strict != safe for item in items)
    return [item.origin.offset for item in items]


async def test_the_next_range_is_read_once_ahead_or_not(log: Any, source: Any, make_batch: Any) -> None:
    await log.publish([make_batch() for _ in range(9)])
    watched = Watched(source)
    reading = ranges(watched)
    assert await offsets(reading, 0) == [0, 1, 2, 3]
    reading.look_ahead(4, 4)
    await asyncio.sleep(0)
    assert await offsets(reading, 4) == [4, 5, 6, 7]
    assert watched.reads == [0, 4]
    assert await offsets(reading, 8) == [8]
    assert await offsets(reading, 9) == []


async def test_what_was_read_ahead_is_dropped_where_another_range_is_next_or_it_must_be_rendered_anew(
    log: Any, source: Any, make_batch: Any
) -> None:
    await log.publish([make_batch() for _ in range(12)])
    reading = ranges(source)
    reading.look_ahead(4, 4)
    assert await offsets(reading, 2) == [2, 3, 4, 5]
    reading.look_ahead(6, 4)
    assert await offsets(reading, 6, safe=True) == [6, 7, 8, 9]


async def test_a_lane_that_has_nearly_caught_up_waits_for_company(log: Any, source: Any, make_batch: Any) -> None:
    await log.publish([make_batch() for _ in range(6)])
    watched = Watched(source)
    reading = ranges(watched)
    reading.look_ahead(4, 4)
    await asyncio.wait_for(watched.looked.wait(), 10)
    assert watched.reads == []
    await log.publish([make_batch()])
    assert await offsets(reading, 4) == [4, 5, 6]


async def test_a_lane_that_shares_its_consumer_reads_nothing_ahead(log: Any, source: Any, make_batch: Any) -> None:
    await log.publish([make_batch() for _ in range(8)])
    watched = Watched(source, shared=True)
    reading = ranges(watched)
    reading.look_ahead(4, 4)
    await reading.forget()
    assert watched.reads == []


async def test_a_failure_ahead_is_met_by_whoever_reads_there(log: Any, make_batch: Any, tmp_path: Path) -> None:
    await log.publish([make_batch() for _ in range(8)])
    source = await EmbeddedSource.open(tmp_path / "log", "another")
    reading = ranges(source)
    await source.close()
    reading.look_ahead(4, 4)
    with pytest.raises(SourceError):
        await reading.take(4, safe=False)
    reading.look_ahead(4, 4)
    await reading.forget()  # and by nobody else


async def test_the_next_range_is_read_while_one_is_being_written(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any, each_once: Any
) -> None:
    await log.publish([make_batch(events=2) for _ in range(12)])
    watched = Watched(source)

    class Slow:
        """Answers an insert once the next range is being read."""

        def __getattr__(self, name: str) -> Any:
            return getattr(tables, name)

        async def insert(self, plan: Any, *rest: Any) -> None:
            async with asyncio.timeout(30):
                while plan.last + 1 not in watched.reads and plan.last < 11:  # noqa: ASYNC110 - a list tells
                    await asyncio.sleep(0.001)
            await tables.insert(plan, *rest)

    worker = consumer(watched, Slow(), settings=replace(SETTINGS, linger_seconds=0.0))
    offset = await worker.resume()
    while offset < 12:
        offset, _ = await worker.advance(offset)
    assert watched.reads == [0, 4, 8]
    assert await each_once(warehouse_client) == (12, 24)
