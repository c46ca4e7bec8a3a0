"""A real gateway whose flush control lives at the devices' pace: the process that a rehearsal kills and starts again.

* `python -m gateway.rehearsal.hurried DATA PORT PACE`: it says "ready" once it could serve, serves when it is sent a
  line, and leaves when its input ends. So one that waits can take over within milliseconds.
* What it keeps is under DATA; its settings are the variables of `backhaul serve`.
"""

import asyncio
import os
import sys

from gateway.config import load
from gateway.supervisor.gateway import serve_devices
from gateway.supervisor.ports import listen
from gateway.supervisor.workers import Place


async def _serve(data: str, port: int, pace: float) -> None:
    config = load({"data": data}, os.environ)
    print("ready", flush=True)  # noqa: T201 - the parent reads it
    if not await asyncio.to_thread(sys.stdin.readline):
        return
    leave = asyncio.Event()
    ending = asyncio.create_task(_leave_at_end(leave))
    await serve_devices(config, Place(1, listen("127.0.0.1", port, "port").detach()), leave, pace)
    await ending


async def _leave_at_end(leave: asyncio.Event) -> None:
    await asyncio.to_thread(sys.stdin.read)
    leave.set()


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
