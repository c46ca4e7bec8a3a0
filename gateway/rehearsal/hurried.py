"""A real gateway whose flush control lives at the devices' pace: the process that a rehearsal kills and starts again.

* `python -m gateway.rehearsal.hurried DATA PORT PACE`: it says "ready" once it could serve, serves when it is sent a
  line, says so, and leaves when its input ends. So one that waits can take over within milliseconds.
* What it keeps is under DATA; its settings are the variables of `backhaul serve`.
"""

import asyncio
import os
import random
import sys
from contextlib import AsyncExitStack
from typing import Final

from aiohttp import web

from gateway.app import FRONT, create_app
from gateway.config import load
from gateway.publish.embedded import EmbeddedLog
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store
from gateway.supervisor.door import Door, most_connections
from gateway.supervisor.ports import listen

_FINISH_SECONDS: Final = 5.0


async def _serve(data: str, port: int, pace: float) -> None:
    config = load({"data": data}, os.environ)
    print("ready", flush=True)  # noqa: T201 - the parent reads it
    if not await asyncio.to_thread(sys.stdin.readline):
        return
    async with AsyncExitStack() as stack:
        log = await EmbeddedLog.open(
            config.directory / "log", max_bytes=config.log_max_bytes, max_pending_bytes=config.log_pending_max_bytes
        )
        stack.push_async_callback(log.close)
        store = Store.open(config.store_address)
        snapshots = await SnapshotKeeper.open(
            store,
            refresh_seconds=config.refresh_seconds,
            inline_bytes=config.inline_bytes,
            base_url=config.artifact_base_url,
        )
        stack.push_async_callback(snapshots.close)
        app = create_app(config, sink=log, snapshots=snapshots, store=store, pace=pace)
        runner = web.AppRunner(app, auto_decompress=False, access_log=None)
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        front, dice = app[FRONT], random.Random()  # noqa: S311 - spreads devices
        site = Door(runner, listen("127.0.0.1", port, "port"), most_connections(), dice, front)
        await site.start()
        print("serving", flush=True)  # noqa: T201 - the parent reads it
        while await asyncio.to_thread(sys.stdin.readline):
            pass
        await site.stop()
        await front.finish(_FINISH_SECONDS)


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
