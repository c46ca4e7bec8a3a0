"""The warehouse consumer's process: the log on one side, ClickHouse on the other.

* Told to leave by its supervisor, it first reads a log that is a file to its end: the gateway is gone by then, so there
  is one. It gives up where that makes no progress (ClickHouse down); what is left waits on the log.
"""

import asyncio
import logging
import socket
import urllib.parse
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from clickhouse_connect.driver.asyncclient import AsyncClient

from consumers import standing as parts
from consumers.ending import cancelled_after
from consumers.kafka import KafkaSource
from consumers.lag import Lag, file_lags
from consumers.source import EmbeddedSource, Source, SourceError
from consumers.standing import Standing, keep_looking, keep_looking_at_kafka
from consumers.warehouse import Away, Connect, WarehouseSettings, run
from gateway.clickhouse_server import ADMIN, ServerError, connect, password_of, url_of
from gateway.config import Config
from gateway.supervisor.children import CannotGoOn, Told
from gateway.supervisor.log import WAREHOUSE
from gateway.supervisor.members import unless, work_as_member
from gateway.supervisor.memory import settle_memory
from gateway.supervisor.numbers import showing
from schemas.kafka import KafkaSettings
from schemas.topics import TOPICS

# Of the grace: what a range in work may still take. The supervisor gives this process three tenths at least.
_STOP_SHARE: Final = 0.15
_GROUP_FILE: Final = "warehouse-group"
_LOOK_EVERY_SECONDS: Final = 0.2
_NO_PROGRESS_SECONDS: Final = 2.0
_CONNECT_AGAIN_SECONDS: Final = 0.25
# The embedded server takes a second or two to start: that is no news.
_ATTEMPTS_IN_SILENCE: Final = 20

_log = logging.getLogger(__name__)


async def fill_warehouse(config: Config, told: Told, held: socket.socket | None, *, catch_up: bool) -> None:
    """Consume the log until told to leave; show numbers at the socket, if one is held. Raises `CannotGoOn`."""
    settle_memory()
    standing, kafka = Standing(WAREHOUSE), config.kafka
    async with showing(standing, config, held):
        if kafka is not None:
            await _from_kafka(config, kafka, told, standing)
            return
        try:
            await _from_file(config, told, standing, catch_up=catch_up)
        except SourceError as error:
            raise CannotGoOn(str(error)) from error


async def _from_file(config: Config, told: Told, standing: Standing, *, catch_up: bool) -> None:
    directory = config.directory / "log"

    async def lags() -> Sequence[Lag]:
        return await asyncio.to_thread(file_lags, directory, WAREHOUSE)

    async with AsyncExitStack() as stack:
        # Before all else: from now on nothing is trimmed that was not read.
        source = await unless(told.leave, EmbeddedSource.open(directory, WAREHOUSE))
        if source is None:
            return
        stack.push_async_callback(source.close)
        stack.enter_context(cancelled_after(keep_looking(standing, lags, told.leave)))
        client = await unless(told.leave, _connected(config, standing))
        if client is None:
            return
        stack.push_async_callback(client.close)
        stop = asyncio.Event()
        stopping = asyncio.create_task(_tell(stop, told, source, catch_up=catch_up))
        stack.callback(stopping.cancel)
        await run(source, client, _settings(config), stop, standing.observe, _beside(config))


async def _from_kafka(config: Config, kafka: KafkaSettings, told: Told, standing: Standing) -> None:
    """Fill the warehouse as one of its group. Others write on, so a stop has no end of the log to wait for."""
    group = group_of(config)
    with cancelled_after(keep_looking_at_kafka(standing, kafka, group, TOPICS, told.leave)):
        # Before it joins: a member that cannot store would keep its partitions from those that can.
        client = await unless(told.leave, _connected(config, standing))
        if client is None:
            return

        async def fill(source: KafkaSource, stop: asyncio.Event) -> None:
            await run(source, client, _settings(config), stop, standing.observe, _beside(config))

        try:
            await work_as_member(config, kafka, group, reads=TOPICS, leave=told.leave, work=fill, standing=standing)
        finally:
            await client.close()


def group_of(config: Config) -> str:
    """Return the name of the group of consumers that fill this warehouse.

    An embedded server is a warehouse of its own: in a group with others it would get some of the partitions only.
    """
    if (known := known_group_of(config)) is not None:
        return known
    kept = config.directory / _GROUP_FILE
    beside = kept.with_suffix(".new")
    beside.write_text(f"{WAREHOUSE}-{uuid.uuid4()}")
    beside.replace(kept)
    return kept.read_text()


def known_group_of(config: Config) -> str | None:
    """Return the group's name; None where an embedded server has not chosen one yet."""
    if config.kafka_group or config.clickhouse_url or config.warehouse == "off":
        return config.kafka_group or WAREHOUSE
    kept = config.directory / _GROUP_FILE
    return kept.read_text() if kept.exists() else None


def _settings(config: Config) -> WarehouseSettings:
    return WarehouseSettings(
        range_records=config.warehouse_range_records,
        range_events=config.warehouse_range_events,
        range_bytes=config.warehouse_range_bytes,
        poll_seconds=config.warehouse_poll_seconds,
        cluster=config.clickhouse_cluster,
        retention_days=config.retention_days,
        timeout_seconds=config.clickhouse_timeout_seconds,
        stop_seconds=_STOP_SHARE * config.grace_seconds,
    )


def _beside(config: Config) -> Connect:
    """Return the way to the other servers of a cluster: all listen where the configured one does, on their hosts."""
    place = urllib.parse.urlsplit(config.clickhouse_url)
    port = f":{place.port}" if place.port else ""

    async def to(host: str, database: str) -> AsyncClient:
        url = f"{place.scheme}://{f'[{host}]' if ':' in host else host}{port}"
        about = (config.clickhouse_user, config.clickhouse_password, database)
        try:
            return await connect(url, *about, ca_file=config.clickhouse_ca_file)
        except ServerError as error:
            raise Away(str(error)) from error

    return to


async def _connected(config: Config, standing: Standing) -> AsyncClient:
    """Return a client as soon as ClickHouse answers."""
    if config.clickhouse_url:
        place = (config.clickhouse_url, config.clickhouse_user, config.clickhouse_password)
    else:
        place = (url_of(config.clickhouse_port), ADMIN, password_of(config.directory / "clickhouse"))
    attempts = 0
    while True:
        attempts += 1
        try:
            client = await connect(*place, config.clickhouse_database, ca_file=config.clickhouse_ca_file)
        except ServerError as error:
            standing.wait_for(parts.WAREHOUSE, str(error))
            if attempts == _ATTEMPTS_IN_SILENCE:
                _log.warning("waiting for ClickHouse: %s", error)
        else:
            standing.wait_for(parts.WAREHOUSE, "")
            return client
        await asyncio.sleep(_CONNECT_AGAIN_SECONDS)


async def _tell(stop: asyncio.Event, told: Told, source: Source, *, catch_up: bool) -> None:
    """Set `stop` when told to leave; with `catch_up` only at the log's end, or where progress ends."""
    await told.leave.wait()
    try:
        if catch_up:
            await _caught_up(source, told)
    finally:
        stop.set()


async def _caught_up(source: Source, told: Told) -> None:
    """Return at the log's end, where progress ends, or when told to leave now."""
    least, still_seconds = await _behind(source), 0.0
    while least > 0 and still_seconds < _NO_PROGRESS_SECONDS and not told.now.is_set():
        await asyncio.sleep(_LOOK_EVERY_SECONDS)
        behind = await _behind(source)
        still_seconds = 0.0 if behind < least else still_seconds + _LOOK_EVERY_SECONDS
        least = min(least, behind)


async def _behind(source: Source) -> int:
    """Return how many records are not consumed yet."""
    places = [(topic, partition) for topic in TOPICS for partition in source.partitions(topic)]
    return sum([await source.end(*place) - await source.position(*place) for place in places])
