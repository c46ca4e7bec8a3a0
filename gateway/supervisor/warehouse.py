"""The warehouse consumer's process: the log on one side, ClickHouse on the other.

* Told to leave by its supervisor, it first reads the log to its end: the gateway is gone by then, so there is one. It
  gives up where that makes no progress (ClickHouse down); what is left waits on the log.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, Final, TypeVar

from clickhouse_connect.driver.asyncclient import AsyncClient

from consumers.source import EmbeddedSource, Source, SourceError
from consumers.warehouse import WarehouseSettings, run
from gateway.clickhouse_server import ADMIN, ServerError, connect, password_of, url_of
from gateway.config import Config
from gateway.supervisor.children import CannotGoOn, Told
from schemas.topics import TOPICS

_CONSUMER: Final = "warehouse"
# Of the grace: what a range in work may still take. The supervisor gives this process three tenths at least.
_STOP_SHARE: Final = 0.15
_LOOK_EVERY_SECONDS: Final = 0.2
_NO_PROGRESS_SECONDS: Final = 2.0
_CONNECT_AGAIN_SECONDS: Final = 0.25
# The embedded server takes a second or two to start: that is no news.
_ATTEMPTS_IN_SILENCE: Final = 20

T = TypeVar("T")

_log = logging.getLogger(__name__)


async def fill_warehouse(config: Config, told: Told, *, catch_up: bool) -> None:
    """Consume the log until told to leave. Raises `CannotGoOn`."""
    try:
        await _fill(config, told, catch_up=catch_up)
    except SourceError as error:
        raise CannotGoOn(str(error)) from error


async def _fill(config: Config, told: Told, *, catch_up: bool) -> None:
    async with AsyncExitStack() as stack:
        source = await _unless(told.leave, EmbeddedSource.open(config.directory / "log", _CONSUMER))
        if source is None:
            return
        stack.push_async_callback(source.close)
        client = await _unless(told.leave, _connected(config))
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


async def _unless(leave: asyncio.Event, opening: Coroutine[Any, Any, T]) -> T | None:
    """Return what is opened; None when told to leave before it is."""
    task, leaving = asyncio.create_task(opening), asyncio.create_task(leave.wait())
    await asyncio.wait([task, leaving], return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.wait([task])
    return None


async def _connected(config: Config) -> AsyncClient:
    """Return a client as soon as ClickHouse answers."""
    if config.clickhouse_url:
        place = (config.clickhouse_url, config.clickhouse_user, config.clickhouse_password)
    else:
        place = (url_of(config.clickhouse_port), ADMIN, password_of(config.directory / "clickhouse"))
    attempts = 0
    while True:
        attempts += 1
        try:
            return await connect(*place, config.clickhouse_database)
        except ServerError as error:
            if attempts == _ATTEMPTS_IN_SILENCE:
                _log.warning("waiting for ClickHouse: %s", error)
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
