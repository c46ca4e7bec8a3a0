"""Processes that die in the middle of the traffic: the consumer, ClickHouse, and both."""

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

_CONSUME = """
import asyncio, sys
from pathlib import Path
from consumers.source import EmbeddedSource
from consumers.warehouse import WarehouseSettings, run
from gateway import clickhouse_server

async def main():
    source = await EmbeddedSource.open(Path(sys.argv[1]), "warehouse")
    password = clickhouse_server.password_of(Path(sys.argv[3]))
    client = await clickhouse_server.connect(sys.argv[2], "backhaul", password, "killed")
    settings = WarehouseSettings(range_records=7, poll_seconds=0.01, linger_seconds=0, backoff_max_seconds=0.2)
    await run(source, client, settings, asyncio.Event())

asyncio.run(main())
"""


def spawned(command: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(command, stderr=subprocess.DEVNULL)


def positioned_at(directory: Path, offset: int) -> None:
    """Wait until the consumer of another process has stored everything below the offset."""
    end = time.monotonic() + 60
    kept = directory / "positions" / "warehouse.json"
    while msgspec.json.decode(kept.read_bytes())["positions"]["batches"] < offset:
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("victim", ["consumer", "clickhouse", "both"])
async def test_kill_9_in_the_middle_of_the_traffic_loses_and_doubles_nothing(
    log: Any, source: Any, new_clickhouse: Any, make_batch: Any, tmp_path: Path, victim: str, drain: Any, each_once: Any
) -> None:
    dice = random.Random(victim)  # noqa: S311 - test data
    await asyncio.to_thread(new_clickhouse.start)
    command = [sys.executable, "-c", _CONSUME, str(tmp_path / "log"), new_clickhouse.url, str(new_clickhouse.directory)]
    worker = spawned(command)
    records: list[Any] = []
    try:
        for _ in range(4):
            for _ in range(20):
                fresh = [make_batch(events=10) for _ in range(3)]
                records += fresh
                await log.publish([*fresh, *dice.choices(records, k=1)])
                await asyncio.sleep(dice.uniform(0, 0.05))
            if victim in ("consumer", "both"):
                worker.kill()
                worker.wait()
            if victim in ("clickhouse", "both"):
                await asyncio.to_thread(new_clickhouse.close)
                await asyncio.to_thread(new_clickhouse.start)
            if worker.poll() is not None:
                worker = spawned(command)
        client = await new_clickhouse.connect("killed")
        await asyncio.to_thread(positioned_at, tmp_path / "log", await source.end("batches", 0))
    finally:
        worker.kill()
        worker.wait()
    await drain(source, client)
    assert await each_once(client) == (len(records), len(records) * 10)
    await client.close()
