"""The gateway's process: the log, the store's snapshot and the application on the socket that the supervisor holds.

* Told to leave, it takes no new connections, answers the requests in work, and closes the log last.
"""

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Final

from aiohttp import web

from consumers.source import SourceError
from gateway.app import FRONT, create_app
from gateway.config import Config
from gateway.fellows import Fellows
from gateway.front import IDLE_SECONDS
from gateway.publish import Unavailable
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store, StoreError
from gateway.strangers import connection_log
from gateway.supervisor.children import CannotGoOn
from gateway.supervisor.door import Door, most_connections
from gateway.supervisor.drain import Drain
from gateway.supervisor.log import open_log
from gateway.supervisor.memory import settle_memory
from gateway.supervisor.numbers import numbers_beside
from gateway.supervisor.workers import Place

# The supervisor gives the gateway half of the grace: requests must be over before that, so that the log can be closed.
_DRAIN_SHARE: Final = 0.38
# After the draining: for answers that are being written, and for stragglers that are cut off.
_CLOSE_SHARE: Final = 0.03


async def serve_devices(config: Config, place: Place, leave: asyncio.Event, pace: float = 1.0) -> None:
    """Answer devices, in this place among the workers, until `leave` is set. Raises `CannotGoOn`.

    `pace` is how much faster than this machine's clock the devices live.
    """
    try:
        await _serve(config, place, leave, pace)
    except (StoreError, Unavailable, SourceError) as error:
        raise CannotGoOn(str(error)) from error


async def _serve(config: Config, place: Place, leave: asyncio.Event, pace: float) -> None:
    async with AsyncExitStack() as stack:
        log = await open_log(config, worker=place.number)
        stack.push_async_callback(log.sink.close)
        store = Store.open(config.store_address)
        snapshots = await SnapshotKeeper.open(
            store,
            refresh_seconds=config.refresh_seconds,
            inline_bytes=config.inline_bytes,
            base_url=config.artifact_base_url,
        )
        stack.push_async_callback(snapshots.close)
        app = create_app(
            config,
            sink=log.sink,
            snapshots=snapshots,
            store=store,
            pressure=log.pressure,
            pace=pace,
            fellows=Fellows(place.number, place.inner_ports),
            beside=numbers_beside(config),
        )
        drain = Drain()
        app.middlewares.insert(0, drain.middleware)
        runner = web.AppRunner(
            app,
            auto_decompress=False,
            access_log=None,
            logger=connection_log(),
            keepalive_timeout=IDLE_SECONDS,
            shutdown_timeout=config.grace_seconds * _CLOSE_SHARE,
        )
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        front, dice = app[FRONT], random.Random()  # noqa: S311 - spreads devices
        site = Door(runner, place.listening(), most_connections(), dice, front)
        await site.start()
        if (inner := place.inner()) is not None:
            await web.SockSite(runner, inner).start()
        settle_memory()
        await leave.wait()
        await site.stop()
        within_seconds = config.grace_seconds * _DRAIN_SHARE
        await asyncio.gather(drain.finish(within_seconds), front.finish(within_seconds))
