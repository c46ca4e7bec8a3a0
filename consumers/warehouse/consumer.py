"""Run the warehouse consumer: migrate, then one task for every lane of the log, until told to stop."""

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Final

from clickhouse_connect.driver.asyncclient import AsyncClient

from consumers import migrations
from consumers.source import Source
from consumers.warehouse.batches import Batches
from consumers.warehouse.lane import Cargo, LaneConsumer, Observer
from consumers.warehouse.letters import Letters
from consumers.warehouse.plans import Lane
from consumers.warehouse.settings import Progress, WarehouseSettings
from consumers.warehouse.tables import Away, Rejected, Tables, answered
from schemas.topics import BATCHES, DEAD_LETTERS, TOPICS

_log = logging.getLogger(__name__)

_CARGO: Final[dict[str, Cargo]] = {BATCHES: Batches(), DEAD_LETTERS: Letters()}
# How soon a partition that the log hands to this consumer, or takes away, is noticed.
_PARTITIONS_SECONDS: Final = 1.0
_LAG_LOG_SECONDS: Final = 30.0


async def run(
    source: Source,
    client: AsyncClient,
    settings: WarehouseSettings,
    stop: asyncio.Event,
    observe: Observer | None = None,
) -> None:
    """Store the log's records until `stop` is set, then finish the ranges under way, within `stop_seconds`.

    `observe` is called with a lane's progress whenever it changes.
    """
    if not await _migrate(client, settings, stop):
        return
    lanes = _Lanes(source, Tables(client, settings.timeout_seconds), settings, observe or (lambda _: None))
    try:
        while not stop.is_set():
            lanes.follow([(topic, partition) for topic in TOPICS for partition in source.partitions(topic)])
            await _until(stop, _PARTITIONS_SECONDS)
    finally:
        await lanes.stop()


async def _migrate(client: AsyncClient, settings: WarehouseSettings, stop: asyncio.Event) -> bool:
    """Return whether the tables are there; False where the stop came first."""
    seconds = settings.backoff_seconds
    while not stop.is_set():
        try:
            async with answered(settings.timeout_seconds):
                await migrations.apply(client, settings.retention_days)
            return True
        except (Away, Rejected) as reason:
            _log.warning("the warehouse's tables cannot be made, trying again in %.1f s: %s", seconds, reason)
            await _until(stop, seconds)
            seconds = min(seconds * 2, settings.backoff_max_seconds)
    return False


class _Lanes:
    """The tasks of all lanes, started and stopped as the log hands partitions out."""

    def __init__(self, source: Source, tables: Tables, settings: WarehouseSettings, observe: Observer) -> None:
        self._source, self._tables, self._settings, self._observe = source, tables, settings, observe
        self._running: dict[tuple[str, int], tuple[asyncio.Event, asyncio.Task[None]]] = {}
        self._said_at = time.monotonic()

    def follow(self, wanted: Sequence[tuple[str, int]]) -> None:
        """Run exactly the wanted lanes. Raises what a lane died of: that is a bug, not an outage."""
        for place, (stop, task) in list(self._running.items()):
            if place not in wanted:
                stop.set()
            if task.done():
                del self._running[place]
                task.result()
        for topic, partition in wanted:
            if (topic, partition) not in self._running:
                stop = asyncio.Event()
                consumer = LaneConsumer(
                    Lane(self._source.identity, topic, partition),
                    self._source,
                    self._tables,
                    _CARGO[topic],
                    self._settings,
                    self._heard,
                )
                self._running[topic, partition] = (stop, asyncio.create_task(consumer.run(stop)))

    def _heard(self, progress: Progress) -> None:
        self._observe(progress)
        if progress.lag and time.monotonic() - self._said_at > _LAG_LOG_SECONDS:
            self._said_at = time.monotonic()
            _log.info("%s/%d lags by %d records", progress.topic, progress.partition, progress.lag)

    async def stop(self) -> None:
        """Let every lane finish its range, for a while; a range cut short is finished at the next start."""
        tasks = [task for _, task in self._running.values()]
        for stop, _ in self._running.values():
            stop.set()
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=self._settings.stop_seconds)
        for task in late:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended


async def _until(stop: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        pass
