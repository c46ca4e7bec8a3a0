"""A real ClickHouse for the whole run (embedded, or `CLICKHOUSE_URL`), an own database for each test, and batches."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from clickhouse_connect.driver.asyncclient import AsyncClient

from consumers import migrations
from consumers.source import EmbeddedSource, Source
from consumers.warehouse import Progress, WarehouseSettings, run
from consumers.warehouse.tables import Tables
from gateway import clickhouse_server
from gateway.publish.embedded import EmbeddedLog
from gateway.supervisor.ports import free_port
from schemas.records import BatchHeaders, Record, StoredRecord, Told, batch_record
from schemas.topics import TOPICS

_SERVE = """
import sys
from pathlib import Path
from functools import partial
from gateway.clickhouse_server import serve
from gateway.supervisor.pulse import beat
lifeline, pulse = (int(word) if word else None for word in sys.argv[3:])
sys.exit(serve(Path(sys.argv[1]), int(sys.argv[2]), lifeline, partial(beat, pulse) if pulse else None))
"""


class Server:
    """A server process on a directory; what tests do to it is what happens to one."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._listen_on(free_port())
        self.process: subprocess.Popen[str] | None = None

    def _listen_on(self, port: int) -> None:
        self.port, self.url = port, clickhouse_server.url_of(port)

    def spawn(self, lifeline: int | None = None, pulse: int | None = None) -> "subprocess.Popen[str]":
        """Start a process, which may not come up."""
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                _SERVE,
                str(self.directory),
                str(self.port),
                "" if lifeline is None else str(lifeline),
                "" if pulse is None else str(pulse),
            ],
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=[fd for fd in (lifeline, pulse) if fd is not None],
        )
        return self.process

    def start(self) -> None:
        """Start it and wait until it answers; a new one goes to another port where somebody was faster."""
        fresh = not self.directory.exists()
        for _ in range(5):
            process = self.spawn()
            while process.poll() is None:
                with suppress(clickhouse_server.ServerError):
                    clickhouse_server.wait_until_ready(self.url, 1)
                    return
            _, said = process.communicate()
            assert fresh, said
            assert "is taken" in said, said
            self._listen_on(self.port + 1)
        pytest.fail(f"no port for ClickHouse: {said}")

    def end(self, number: int) -> tuple[int, str]:
        """Send the signal and return the exit status and what was said."""
        assert self.process is not None
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=30)
        code = self.process.returncode
        self.process = None
        return code, said

    def close(self) -> None:
        """Leave nothing behind."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate(timeout=30)
            self.process = None

    async def connect(self, database: str) -> AsyncClient:
        """Return an administrator's client."""
        password = clickhouse_server.password_of(self.directory)
        return await clickhouse_server.connect(self.url, clickhouse_server.ADMIN, password, database)


class Given:
    """A server that somebody else runs, in `CLICKHOUSE_URL`: what needs one that is ours is skipped."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def connect(self, database: str) -> AsyncClient:
        """Return a client of the user in `CLICKHOUSE_USER`, who may make and drop databases."""
        user, password = os.environ.get("CLICKHOUSE_USER", "default"), os.environ.get("CLICKHOUSE_PASSWORD", "")
        return await clickhouse_server.connect(self.url, user, password, database)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        pytest.skip(f"this needs the embedded server's {name}, and CLICKHOUSE_URL is set")


@pytest.fixture(scope="session")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server | Given]:
    if given := os.environ.get("CLICKHOUSE_URL"):
        yield Given(given)
        return
    server = Server(tmp_path_factory.mktemp("clickhouse"))
    server.start()
    yield server
    server.end(signal.SIGTERM)


@pytest.fixture
def new_clickhouse(tmp_path: Path) -> Iterator[Server]:
    """A server that the test may kill; not started yet."""
    server = Server(tmp_path / "own-clickhouse")
    yield server
    server.close()


@pytest.fixture
async def warehouse_client(clickhouse: Server | Given) -> AsyncIterator[AsyncClient]:
    """A client whose database is this test's own and does not exist yet."""
    client = await clickhouse.connect(f"test_{uuid.uuid4().hex}")
    yield client
    await client.command(f"DROP DATABASE IF EXISTS {client.database}", use_database=False)
    await client.close()


@pytest.fixture
async def tables(warehouse_client: AsyncClient) -> Tables:
    await migrations.apply(warehouse_client, 90)
    return Tables(warehouse_client, 30)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[EmbeddedLog]:
    opened = await EmbeddedLog.open(tmp_path / "log", max_bytes=1 << 30, max_pending_bytes=1 << 26)
    yield opened
    await opened.close()


NOW_MS = time.time_ns() // 1_000_000

BatchMaker = Callable[..., Record]


@pytest.fixture
def make_batch() -> BatchMaker:
    """Return a maker of batch records: some events of every type, or the given ones, or the given document."""
    dice = random.Random(7)  # noqa: S311 - test data

    def make(
        *,
        events: list[dict[str, Any]] | int = 5,
        device: str = "",
        batch: str = "",
        app: str = "shop",
        refused: tuple[int, ...] = (),
        received_at: int = NOW_MS,
        sent_at: int = NOW_MS,
        offer: dict[str, Told] | None = None,
        document: bytes | None = None,
        expected: int | None = None,
        encode: Callable[[bytes], tuple[bytes, str]] = lambda body: (body, "identity"),
        **context: Any,
    ) -> Record:
        device = device or str(uuid.UUID(int=dice.getrandbits(128)))
        batch = batch or str(uuid.UUID(int=dice.getrandbits(128)))
        given = [event(i) for i in range(events)] if isinstance(events, int) else events
        whole = {"device": device, "batch": batch, "seq": 1, "sent_at": sent_at, "sdk": "2.3.0", **context}
        whole["signals"] = context.get("signals", {"upsell": ["battery_level", "charging"]})
        body = msgspec.json.encode({**whole, "events": given}) if document is None else document
        body = body.replace(b"DEVICE", device.encode()).replace(b"BATCH", batch.encode())
        sent, encoding = encode(body)
        about = BatchHeaders(
            app=app,
            content_encoding=encoding,
            received_at=received_at,
            gateway="gw",
            batch=batch,
            events=len(given) if expected is None else expected,
            refused=refused,
            offer=offer or {},
        )
        return batch_record(device, sent, about)

    return make


def event(i: int) -> dict[str, Any]:
    """Return the i-th event of a batch: predictions mostly, some outcomes and updates."""
    t = NOW_MS - 1000 + i
    if i % 5 == 3:
        return {"type": "outcome", "id": i, "t": t, "model": "upsell", "outcome": "dismissed", "value": 0.0}
    if i % 5 == 4:
        return {"type": "model", "t": t, "model": "upsell", "release": 42, "state": "activated", "bytes": 7671, "ms": 4}
    told: dict[str, Any] = {"score": i / 1000 % 1, "decision": True, "latency_us": 312, "signals": [0.81, 1]}
    return {"type": "prediction", "id": i, "t": t, "model": "upsell", "release": 42, "source": "ota", **told}


@pytest.fixture
def make_event() -> Callable[[int], dict[str, Any]]:
    return event


@pytest.fixture
def stored() -> Callable[[Record, int], StoredRecord]:
    """Return a maker of records as a source hands them out."""

    def make(record: Record, offset: int) -> StoredRecord:
        return StoredRecord(record.topic, 0, offset, record.key, record.value, record.headers)

    return make


QUICK = WarehouseSettings(poll_seconds=0.01, linger_seconds=0, backoff_seconds=0.01, backoff_max_seconds=0.1)


@pytest.fixture
async def source(log: EmbeddedLog, tmp_path: Path) -> AsyncIterator[EmbeddedSource]:
    opened = await EmbeddedSource.open(tmp_path / "log", "warehouse")
    yield opened
    await opened.close()


@pytest.fixture
def drain() -> Callable[..., Any]:
    """Return a function that runs the consumer until it has stored what is on the log now."""

    async def run_until_stored(
        source: Source, client: AsyncClient, settings: WarehouseSettings = QUICK
    ) -> dict[str, Progress]:
        stop = asyncio.Event()
        progress: dict[str, Progress] = {}
        ends = {topic: await source.end(topic, 0) for topic in TOPICS}

        def observe(now: Progress) -> None:
            progress[now.topic] = now
            if all(topic in progress and progress[topic].next_offset >= end for topic, end in ends.items()):
                stop.set()

        async with asyncio.timeout(60):
            await run(source, client, settings, stop, observe)
        return progress

    return run_until_stored


@pytest.fixture
def ask() -> Callable[..., Any]:
    async def rows(client: AsyncClient, question: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in (await client.query(question)).result_rows]

    return rows


@pytest.fixture
def count() -> Callable[..., Any]:
    """Return a function that counts batches, events and dead letters."""

    async def counts(client: AsyncClient) -> tuple[Any, ...]:
        question = "(SELECT count() FROM batches), (SELECT count() FROM events), (SELECT count() FROM dead_letters)"
        return tuple((await client.query(f"SELECT {question}")).result_rows[0])

    return counts


@pytest.fixture
def each_once() -> Callable[..., Any]:
    """Return a function that checks that no batch and no event stands twice or half, and counts them."""

    async def check(client: AsyncClient) -> tuple[int, int]:
        """Return how many batches and events there are, having checked that none stands twice or half."""
        question = (
            "SELECT app, device, batch, b.copies, b.accepted, e.rows, e.distinct FROM "
            "(SELECT app, device, batch, count() AS copies, any(accepted) AS accepted FROM batches GROUP BY ALL) AS b "
            "FULL JOIN (SELECT app, device, batch, count() AS rows, uniqExact(`index`) AS distinct FROM events "
            "GROUP BY ALL) AS e USING (app, device, batch)"
        )
        found = (await client.query(question)).result_rows
        for *_, copies, accepted, rows, distinct in found:
            assert copies == 1
            assert accepted == rows == distinct
        return len(found), sum(row[5] for row in found)

    return check
