"""Kill everything, again and again, in the middle of the traffic, and count what is left."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import msgspec
import pytest

from gateway.client.fleet import FleetReport
from gateway.demo.served import Served, serving
from gateway.demo.stage import Stage, model_file, set_up
from gateway.demo.stored import Stored, Warehouse
from gateway.demo.verdict import faults
from gateway.releases.store import Store

pytest.importorskip("chdb", reason="the embedded ClickHouse is an extra")

DEVICES = 12
VICTIMS = ("gateway", "devices", "clickhouse", "devices", "warehouse", "gateway", "devices", "clickhouse")


async def start_devices(served: Served, stage: Stage, seconds: float) -> Process:
    directory = served.config.directory
    options = ["--url", served.url, "--app-key", stage.app_key, "--public-key", str(directory / "release.pem.pub")]
    options += ["--bundled", str(model_file(1)), "--data", str(directory / "devices"), "--day-seconds", "3"]
    options += ["--devices", str(DEVICES), "--seconds", str(seconds), "--json"]
    command = [sys.executable, "-P", "-m", "gateway.cli", "fleet", "run", *options]
    return await asyncio.create_subprocess_exec(*command, stdout=PIPE)


async def wait_for_traffic(warehouse: Warehouse, more_than: int) -> Stored:
    """Return once the warehouse has rows that it had not: then everything on the way to it is at work."""
    async with asyncio.timeout(60):
        while (stored := await warehouse.totals()).events <= more_than:  # noqa: ASYNC110 - another process works
            await asyncio.sleep(0.1)
    return stored


async def reopened(warehouse: Warehouse, served: Served) -> Warehouse:
    await warehouse.close()
    return await Warehouse.open(served.config)


async def test_killing_devices_gateway_clickhouse_and_consumer_loses_and_doubles_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path) as served:
        stage = await set_up(tmp_path, Store.open(served.config.store_address))
        warehouse = await Warehouse.open(served.config)
        devices = await start_devices(served, stage, 300)
        events = 0
        for number, victim in enumerate(VICTIMS):
            events = (await wait_for_traffic(warehouse, events)).events
            if victim == "devices":
                devices.kill()
                await devices.communicate()
                devices = await start_devices(served, stage, 300)
            else:
                os.kill(served.processes()[victim], signal.SIGKILL)
                warehouse = await reopened(warehouse, served)
            if number == len(VICTIMS) // 2:
                await stage.publish(2)
        devices.kill()
        await devices.communicate()
        report = await settled(await start_devices(served, stage, 2))
        stored = await warehouse.caught_up(report.produced - sum(report.dropped.values()), 20.0, lambda _: None)
        await warehouse.close()
        assert faults(report, stored) == []
        assert stored.events > events > 0
        assert len(list((tmp_path / "devices").glob("0*"))) == DEVICES
        assert await served.stop() == 0


async def settled(devices: Process) -> FleetReport:
    printed, _ = await devices.communicate()
    assert devices.returncode == 0
    return msgspec.json.decode(printed, type=FleetReport)
