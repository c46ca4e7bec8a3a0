"""The warehouse consumer's process: the log on one side, ClickHouse on the other.

* Told to leave by its supervisor, it first reads the log to its end: the gateway is gone by then, so there is one. It
  gives up where that makes no progress (ClickHouse down); what is left waits on the log.
"""

import asyncio
import logging
from contextlib import AsyncExitStack, suppress
from typing import Final

from clickhouse_connect.driver.asyncclient import AsyncClient

from consumers.source import EmbeddedSource, Source
from consumers.warehouse import WarehouseSettings, run
from gateway.clickhouse_server import ADMIN, ServerError, connect, password_of, url_of
from gateway.config import Config
from gateway.supervisor.children import Told
from schemas.topics import TOPICS

_CONSUMER: Final = "warehouse"
# Of the grace: what a range in work may still take. The supervisor gives this process three tenths at least.
_STOP_SHARE: Final = 0.15
_LOOK_EVERY_SECONDS: Final = 0.2
_NO_PROGRESS_SECONDS: Final = 2.0
_CONNECT_AGAIN_SECONDS: Final = 0.5

_log = logging.getLogger(__name__)


async def fill_warehouse(config: Config, told: Told, *, catch_up: bool) -> None:
    """Consume the log until told to leave."""
    async with AsyncExitStack() as stack:
        source = await EmbeddedSource.open(config.directory / "log", _CONSUMER)
        stack.push_async_callback(source.close)
        client = await _connected(config, told)
        if client is None:
            return
        stack.push_async_callback(client.close)
        stop = asyncio.Event()
        stopping = asyncio.create_task(_tell(stop, told, source, catch_up=catch_up))
        stack.callback(stopping.cancel)
        await run(source, client, _settings(config), stop)


def _settings(config: Config) -> WarehouseSettings:
    return WarehouseSettings(
        range_records=config.warehouse_range_records,
        range_events=config.warehouse_range_events,
        range_bytes=config.warehouse_range_bytes,
        poll_seconds=config.warehouse_poll_seconds,
        retention_days=config.retention_days,
        stop_seconds=_STOP_SHARE * config.grace_seconds,
    )


async def _connected(config: Config, told: Told) -> AsyncClient | None:
    """Return a client as soon as ClickHouse answers; None when told to leave before that."""
    if config.clickhouse_url:
        place = (config.clickhouse_url, config.clickhouse_user, config.clickhouse_password)
    else:
        place = (url_of(config.clickhouse_port), ADMIN, password_of(config.directory / "clickhouse"))
    said = False
    while not told.leave.is_set():
        try:
            return await connect(*place, config.clickhouse_database)
        except ServerError as error:
            if not said:
                _log.warning("waiting for ClickHouse: %s", error)
            said = True
        with suppress(TimeoutError):
            await asyncio.wait_for(told.leave.wait(), _CONNECT_AGAIN_SECONDS)
    return None


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
