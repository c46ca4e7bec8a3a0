"""Read a lane's ranges of the log and make their records ready: the next one while the last is being stored.

* Reading changes nothing, so it may run ahead of the plans; what was read for another range than the next is dropped.
* A lane that shares its consumer with others of its topic does not read ahead: they work while it waits, and each
  would hold twice as much. Nor does one that has nearly caught up: a range read early would be a small one.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple

from consumers.source import Source
from consumers.warehouse.cargo import Cargo, Item
from consumers.warehouse.plans import Lane, Plan
from consumers.warehouse.settings import WarehouseSettings
from schemas.records import StoredRecord


class Taken(NamedTuple):
    """The log from one offset on, as far as a range may go; `full` says that there is more, as far as is known."""

    items: list[Item]
    last: int
    full: bool


class Ranges:
    """Where a lane's ranges come from."""

    def __init__(self, lane: Lane, source: Source, cargo: Cargo, settings: WarehouseSettings) -> None:
        self._lane, self._source, self._cargo, self._settings = lane, source, cargo, settings
        self._ahead: tuple[int, asyncio.Task[Taken | None]] | None = None

    async def take(self, first: int, *, safe: bool) -> Taken | None:
        """Return what a range from `first` on may hold; None where there is nothing. Raises `SourceError`."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == first and not safe:
            taken = await ahead[1]
            if taken is not None and taken.full:
                return taken
        await _dropped(ahead)
        return await self._read(first, safe=safe)

    def look_ahead(self, first: int, records: int) -> None:
        """Begin to take the range from `first` on, to be asked for next, if there are so many records."""
        if len(self._source.partitions(self._lane.topic)) == 1:
            task = asyncio.create_task(self._read_if_there(first, records))
            task.add_done_callback(_seen)
            self._ahead = (first, task)

    async def planned(self, plan: Plan, *, safe: bool) -> list[Item]:
        """Return exactly the plan's range. What the log no longer has is left out. Raises `SourceError`."""
        items: list[Item] = []
        first = plan.first
        while first <= plan.last:
            found = await self._records(first, min(plan.last - first + 1, self._settings.range_records))
            planned = [record for record in found if record.offset <= plan.last]
            items += await asyncio.to_thread(self._ready, planned, safe=safe, bounded=False)
            first = planned[-1].offset + 1 if planned else plan.last + 1
        return items

    async def forget(self) -> None:
        """Drop what was read ahead."""
        ahead, self._ahead = self._ahead, None
        await _dropped(ahead)

    async def _read_if_there(self, first: int, records: int) -> Taken | None:
        end = await self._source.end(self._lane.topic, self._lane.partition)
        return await self._read(first, safe=False) if end - first >= records else None

    async def _read(self, first: int, *, safe: bool) -> Taken | None:
        records = await self._records(first, self._settings.range_records)
        if not records:
            return None
        items = await asyncio.to_thread(self._ready, records, safe=safe, bounded=True)
        full = len(items) < len(records) or len(records) == self._settings.range_records
        return Taken(items, records[len(items) - 1].offset, full)

    async def _records(self, first: int, max_records: int) -> list[StoredRecord]:
        place = (self._lane.topic, self._lane.partition, first)
        return await self._source.read(*place, max_records=max_records, max_bytes=self._settings.range_bytes)

    def _ready(self, records: Sequence[StoredRecord], *, safe: bool, bounded: bool) -> list[Item]:
        """Make records ready, in order; where bounded, stop before they are more than a range may hold."""
        items: list[Item] = []
        size_bytes = events = 0
        now_ms = time.time_ns() // 1_000_000
        for record in records:
            item: Item = self._cargo.read(self._lane, record, safe, now_ms)
            size_bytes += item.size_bytes
            events += item.expected
            over = size_bytes > self._settings.range_bytes or events > self._settings.range_events
            if bounded and over and items:
                break
            items.append(item)
        return items


def _seen(task: "asyncio.Task[Taken | None]") -> None:
    """Look at a failure, which nobody may ask for any more: who reads the place again meets it again."""
    if not task.cancelled():
        task.exception()


async def _dropped(ahead: "tuple[int, asyncio.Task[Taken | None]] | None") -> None:
    if ahead is not None:
        ahead[1].cancel()
        await asyncio.wait([ahead[1]])
