"""The warehouse consumer taken apart into its steps, so that a test can end it between any two of them."""

import asyncio
from collections.abc import Sequence
from typing import Any

from consumers.source import Source
from consumers.warehouse.batches import Batches
from consumers.warehouse.lane import LaneConsumer
from consumers.warehouse.letters import Letters
from consumers.warehouse.plans import Lane, Plan
from consumers.warehouse.settings import WarehouseSettings
from consumers.warehouse.tables import Tables
from schemas.records import StoredRecord

SETTINGS = WarehouseSettings(
    range_records=4, poll_seconds=0.01, linger_seconds=0, backoff_seconds=0.01, backoff_max_seconds=0.05
)


class Crash(Exception):
    """The process ends here, as far as the consumer can tell."""


class Fuse:
    """Calls through to a real thing, and crashes before or after its n-th call (of those that the world can see)."""

    steps = ("claim", "insert", "commit", "newest_plan", "batch_origins")

    def __init__(self, at: int, after: bool) -> None:
        self.left, self.after = at, after

    def around(self, thing: Any) -> Any:
        return _Fused(thing, self)

    async def burn(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Crash
        answer = await call(*args, **kwargs)
        if self.left == 0:
            raise Crash
        return answer


class _Fused:
    def __init__(self, thing: Any, fuse: Fuse) -> None:
        self._thing, self._fuse = thing, fuse

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._thing, name)
        if name not in Fuse.steps:
            return attribute
        return lambda *args, **kwargs: self._fuse.burn(attribute, *args, **kwargs)


def consumer(source: Any, tables: Any, cargo: Any = None, settings: WarehouseSettings = SETTINGS) -> LaneConsumer:
    topic = "dead_letters" if isinstance(cargo, Letters) else "batches"
    lane = Lane(source.identity_of(topic), topic, 0)
    return LaneConsumer(lane, source, tables, cargo or Batches(), settings, lambda _: None)


async def finish(source: Source, tables: Any, cargo: Any = None) -> LaneConsumer:
    """Do what a consumer that nothing disturbs does, until the log is stored."""
    worker = consumer(source, tables, cargo)
    offset = await worker.resume()
    while offset < await source.end(worker.progress.topic, 0):
        offset, _ = await worker.advance(offset)
    return worker


async def caught_up(source: Source) -> None:
    """Wait until the consumer that runs has stored what is on the log."""
    async with asyncio.timeout(60):
        while await source.position("batches", 0) < await source.end("batches", 0):  # noqa: ASYNC110 - a file tells
            await asyncio.sleep(0.02)


async def planned(source: Any, tables: Tables) -> tuple[Plan, list[Any]]:
    records: Sequence[StoredRecord] = await source.read("batches", 0, 0, max_records=100, max_bytes=1 << 24)
    lane = Lane(source.identity_of("batches"), "batches", 0)
    plan = await tables.claim(Plan(lane, 0, records[-1].offset))
    return plan, [Batches().read(lane, record, False, 0) for record in records]


async def pruned(tables: Tables, lane: Lane, keep: int) -> None:
    """Prune, and wait until the server has done it."""
    await tables.prune(lane, keep)
    question = "SELECT count() FROM system.mutations WHERE database = currentDatabase() AND NOT is_done"
    client = tables._client
    async with asyncio.timeout(30):
        while (await client.query(question)).result_rows != [(0,)]:  # noqa: ASYNC110 - a server is asked
            await asyncio.sleep(0.02)
