"""Serve our own gateway, composed as `backhaul serve` composes it, with the log that is asked for: one process.

    PORT=... STORE=... DATA=... BOOTSTRAP=... python -m tests.bench.ours kafka|embedded|nothing

* `kafka`: acks=all with the spool ready behind it. `embedded`: fsynced in SQLite. `nothing`: told durable at once,
  which no installation has; it shows what the log costs.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import uvloop
from aiohttp import web

from consumers.source import EmbeddedSource
from gateway.app import create_app
from gateway.config import Config
from gateway.publish import Sink
from gateway.publish.embedded import EmbeddedLog
from gateway.publish.kafka import KafkaSink, KafkaSinkSettings
from gateway.publish.spool import Spool, SpoolSettings
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store
from gateway.supervisor.drain import Drain
from gateway.supervisor.gateway import _settle_memory
from schemas.kafka import GIB, MIB, KafkaSettings, TopicSettings
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


@asynccontextmanager
async def opened(kind: str, directory: Path) -> AsyncIterator[Sink]:
    """Open the log, and close it in the end."""
    sink: Sink = Nothing()
    if kind == "kafka":
        sink = await Spool.open(directory / "spool", await _kafka(), SpoolSettings(), EmbeddedSource.open)
    elif kind == "embedded":
        sink = await EmbeddedLog.open(directory / "log", max_bytes=8 * GIB, max_pending_bytes=64 * MIB)
    try:
        yield sink
    finally:
        await sink.close()


async def _kafka() -> KafkaSink:
    kafka = KafkaSettings(bootstrap=os.environ["BOOTSTRAP"], topic_prefix=BATCHES_PREFIX)
    topics = TopicSettings(partitions=PARTITIONS, replication=1)
    return await KafkaSink.open(kafka, topics, KafkaSinkSettings(), wait_seconds=20.0)


async def serve(kind: str) -> None:
    """Answer until SIGTERM."""
    leave = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leave.set)
    store = Store.open(f"file://{os.environ['STORE']}")
    snapshots = await SnapshotKeeper.open(store, refresh_seconds=2.0)
    async with opened(kind, Path(os.environ["DATA"])) as sink:
        app = create_app(Config(), sink=sink, snapshots=snapshots, store=store)
        app.middlewares.insert(0, Drain().middleware)
        runner = web.AppRunner(app, auto_decompress=False, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"])).start()
        _settle_memory()
        await leave.wait()
        await runner.cleanup()
    await snapshots.close()


if __name__ == "__main__":
    Path(os.environ["DATA"]).mkdir(parents=True, exist_ok=True)
    uvloop.run(serve(sys.argv[1]))
