"""Run the warehouse consumer: migrate, then one task for every lane of the log, until told to stop."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

from clickhouse_connect.driver.asyncclient import AsyncClient

from consumers import migrations
from consumers.ending import until, wind_up
from consumers.source import Source
from consumers.warehouse.batches import Batches
from consumers.warehouse.cargo import Cargo
from consumers.warehouse.lane import LaneConsumer, Observer
from consumers.warehouse.letters import Letters
from consumers.warehouse.plans import Lane
from consumers.warehouse.settings import Progress, WarehouseSettings
from consumers.warehouse.shards import Connect, Shards, find
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
    connect: Connect | None = None,
) -> None:
    """Store the log's records until `stop` is set, then finish the ranges under way, within `stop_seconds`.

    `observe` is called with a lane's progress whenever it changes; `connect` reaches the other servers of a cluster.
    """
    async with AsyncExitStack() as stack:
        if settings.cluster and connect is None:
            raise ValueError(f"a way to connect to the servers of the cluster {settings.cluster!r} is needed")
        tables = await _opened(stack, client, settings, stop, connect)
        if not stop.is_set():
            await _consume(_Lanes(source, tables, settings, observe or (lambda _: None)), source, stop)


async def _opened(
    stack: AsyncExitStack,
    client: AsyncClient,
    settings: WarehouseSettings,
    stop: asyncio.Event,
    connect: Connect | None,
) -> Callable[[Lane], Tables]:
    """Bring the server or the cluster to this version; return where a lane's tables are."""
    if connect is None or not settings.cluster:
        await _until_done(lambda: migrations.apply(client, settings.retention_days), settings, stop)
        alone = Tables(client, settings.timeout_seconds)
        return lambda _: alone
    found: list[Shards] = []

    async def reach_shards() -> None:
        if not found:
            cluster = await find(client, settings.cluster)
            found.append(Shards(cluster, str(client.database), connect, settings))
            stack.push_async_callback(found[0].close)
        await found[0].open()

    await _until_done(reach_shards, settings, stop)
    if found:
        reaching = asyncio.create_task(found[0].keep_reaching(stop))
        stack.callback(reaching.cancel)
        return found[0].tables
    return lambda _: Tables(client, settings.timeout_seconds)  # stopped: nobody asks


async def _until_done(bring: Callable[[], Awaitable[None]], settings: WarehouseSettings, stop: asyncio.Event) -> None:
    """Try until it works or until the stop."""
    bringing = asyncio.create_task(_try_again(bring, settings, stop))
    try:
        await _stopped_or(bringing, stop)
        await wind_up([bringing], settings.stop_seconds)
    finally:
        bringing.cancel()


async def _consume(lanes: "_Lanes", source: Source, stop: asyncio.Event) -> None:
    try:
        while not stop.is_set():
            lanes.follow([(topic, partition) for topic in TOPICS for partition in source.partitions(topic)])
            await until(stop, _PARTITIONS_SECONDS)
    finally:
        await lanes.stop()


async def _try_again(bring: Callable[[], Awaitable[None]], settings: WarehouseSettings, stop: asyncio.Event) -> None:
    seconds = settings.backoff_seconds
    while not stop.is_set():
        try:
            async with answered(settings.timeout_seconds):
                await bring()
            return
        except (Away, Rejected) as reason:
            _log.warning("the warehouse's tables cannot be made, trying again in %.1f s: %s", seconds, reason)
            await until(stop, seconds)
            seconds = min(seconds * 2, settings.backoff_max_seconds)


class _Lanes:
    """The tasks of all lanes, started and stopped as the log hands partitions out."""

    def __init__(
        self, source: Source, tables: Callable[[Lane], Tables], settings: WarehouseSettings, observe: Observer
    ) -> None:
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
                lane = Lane(self._source.identity_of(topic), topic, partition)
                consumer = LaneConsumer(
                    lane,
                    self._source,
                    self._tables(lane),
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
        await wind_up([task for _, task in self._running.values()], self._settings.stop_seconds)


async def _stopped_or(task: asyncio.Task[None], stop: asyncio.Event) -> None:
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((task, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
