"""Serve our own gateway as `backhaul serve` does in its gateway's process, with the log that is asked for.

    PORT=... STORE=... DATA=... BOOTSTRAP=... python -m tests.bench.ours kafka|embedded|nothing|nothing-twice|workers

* `kafka`: acks=all with the spool ready behind it. `embedded`: fsynced in SQLite. `nothing`: told durable at once,
  which no installation has; it shows what the log costs. `nothing-twice`: two such processes on one address.
  `workers`: as `kafka`, two processes under a supervisor.
"""

import asyncio
import gc
import os
import random
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import uvloop
from aiohttp import web

from gateway.app import FRONT, create_app
from gateway.config import Config, to_environment
from gateway.publish import Sink
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store
from gateway.supervisor.door import Door, most_connections
from gateway.supervisor.gateway import serve_devices
from gateway.supervisor.lifeline import watch
from gateway.supervisor.workers import Place, Workers
from schemas.records import Record

BATCHES_PREFIX: Final = "bench."
PARTITIONS: Final = 8


class Nothing(Sink):
    """Keeps nothing and says so to nobody."""

    async def publish(self, records: Sequence[Record]) -> None:
        """Forget the records."""

    def trouble(self) -> str | None:
        return None

    def gauges(self) -> Mapping[str, float]:
        return {}

    async def close(self) -> None:
        """Do nothing."""


def configuration(log: str) -> Config:
    """Return how ours is configured, by the environment that every program is given."""
    on_kafka = log in ("kafka", "workers")
    return Config(
        data=os.environ["DATA"],
        listen=f"127.0.0.1:{os.environ['PORT']}",
        workers=2 if log == "workers" else 1,
        store_url=Path(os.environ["STORE"]).as_uri(),
        kafka_bootstrap=os.environ["BOOTSTRAP"] if on_kafka else "",
        kafka_topic_prefix=BATCHES_PREFIX,
        kafka_partitions=PARTITIONS,
        kafka_replication=1,
        warehouse="off" if on_kafka else "on",
    )


async def serve(log: str, listening: socket.socket | None) -> None:
    """Answer until SIGTERM; on the socket and without a log where one is given."""
    leave = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave.set)
    config = configuration(log)
    if listening is not None:
        await _serve_without_log(config, listening, leave)
    else:
        listening = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
        await serve_devices(config, Place(1, listening.detach()), leave)


async def _serve_without_log(config: Config, listening: socket.socket, leave: asyncio.Event) -> None:
    store = Store.open(config.store_address)
    snapshots = await SnapshotKeeper.open(store, refresh_seconds=config.refresh_seconds)
    app = create_app(config, sink=Nothing(), snapshots=snapshots, store=store)
    runner = web.AppRunner(app, auto_decompress=False, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    dice = random.Random()  # noqa: S311 - no secret
    await Door(runner, listening, most_connections(), dice, app[FRONT]).start()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    await leave.wait()
    await runner.cleanup()
    await snapshots.close()


def _sockets(log: str) -> socket.socket | None:
    """Return the socket of a process without a log; of two, one is forked here, and ends when the other one does."""
    if not log.startswith("nothing"):
        return None
    first, *others = Workers.listen("127.0.0.1", int(os.environ["PORT"]), 2 if log == "nothing-twice" else 1).listening
    for other in others:
        reading, writing = os.pipe()
        if not os.fork():
            os.close(writing)
            first.close()
            watch(reading, lambda: os._exit(0), 0)
            return other
        other.close()
    return first


if __name__ == "__main__":
    Path(os.environ["DATA"]).mkdir(parents=True, exist_ok=True)
    if sys.argv[1] == "workers":
        command = [sys.executable, "-m", "gateway.cli", "serve"]
        os.execve(sys.executable, command, os.environ | to_environment(configuration("workers")))  # noqa: S606 - ours
    uvloop.run(serve(sys.argv[1], _sockets(sys.argv[1])))
