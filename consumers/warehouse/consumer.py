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
from consumers.warehouse.lane import Cargo, LaneConsumer, Observer, until
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
    migrating = asyncio.create_task(_migrate(client, settings, stop))
    try:
        await _stopped_or(migrating, stop)
        await _wind_up([migrating], settings.stop_seconds)
    finally:
        migrating.cancel()
    if stop.is_set():
        return
    lanes = _Lanes(source, Tables(client, settings.timeout_seconds), settings, observe or (lambda _: None))
    try:
        while not stop.is_set():
            lanes.follow([(topic, partition) for topic in TOPICS for partition in source.partitions(topic)])
            await until(stop, _PARTITIONS_SECONDS)
    finally:
        await lanes.stop()


async def _migrate(client: AsyncClient, settings: WarehouseSettings, stop: asyncio.Event) -> None:
    seconds = settings.backoff_seconds
    while not stop.is_set():
        try:
            async with answered(settings.timeout_seconds):
                await migrations.apply(client, settings.retention_days)
            return
        except (Away, Rejected) as reason:
            _log.warning("the warehouse's tables cannot be made, trying again in %.1f s: %s", seconds, reason)
            await until(stop, seconds)
            seconds = min(seconds * 2, settings.backoff_max_seconds)


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
                    Lane(self._source.identity_of(topic), topic, partition),
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
        for stop, _ in self._running.values():
            stop.set()
        await _wind_up([task for _, task in self._running.values()], self._settings.stop_seconds)


async def _stopped_or(task: asyncio.Task[None], stop: asyncio.Event) -> None:
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()


async def _wind_up(tasks: Sequence[asyncio.Task[None]], seconds: float) -> None:
    """Wait for the tasks, cancel the late ones. Raises what one died of: that is a bug, not an outage."""
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=seconds)
    for task in late:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended
