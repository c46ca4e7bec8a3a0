"""Lives with crashes and app updates: real clients go through them, and no event is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import TCPConnector, web

from gateway.app import create_app
from gateway.client.fleet.calendar import Calendar
from gateway.client.fleet.device import Device, Install
from gateway.client.fleet.life import Mishaps, Tally
from gateway.client.fleet.phones import NEXT_APP, phone
from gateway.client.fleet.radio import Meter
from gateway.client.fleet.run import FleetOptions, bundled_upsell, run_fleet
from gateway.client.runtimes.coreml import CoreMLRuntime
from gateway.config import Config
from gateway.publish.embedded import EmbeddedLog
from gateway.rehearsal.counted import count
from gateway.releases.apps import create_app as create_shop
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store

MODEL = Path(__file__).resolve().parents[2] / "models" / "upsell-1.mlmodel"


@dataclass(frozen=True)
class Served:
    """A gateway on the embedded log in `directory`, and an app's key."""

    url: str
    app_key: str
    directory: Path


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with AsyncExitStack() as stack:
        store = Store.open("memory://")
        key = await create_shop(store, "shop", 1)
        snapshots = SnapshotKeeper(store)
        await snapshots.refresh()
        log = await EmbeddedLog.open(tmp_path / "log", max_bytes=2**30, max_pending_bytes=2**26)
        stack.push_async_callback(log.close)
        runner = web.AppRunner(create_app(Config(), sink=log, snapshots=snapshots, store=store), auto_decompress=False)
        stack.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Served(f"http://127.0.0.1:{runner.addresses[0][1]}/", key, tmp_path)


async def test_a_fleet_goes_through_crashes_and_updates_without_losing_an_event(served: Served) -> None:
    options = FleetOptions(
        served.url,
        served.app_key,
        (bytes(32),),
        bundled_upsell(MODEL),
        served.directory / "devices",
        devices=20,
        seconds=4.0,
        day_seconds=1.0,
        mishaps=Mishaps(crashed_sessions=0.3, updated_launches=0.3),
    )
    report = await run_fleet(options, watch=lambda _: None, watch_seconds=0.1)
    assert report.crashes > 0
    assert report.updates > 0
    assert NEXT_APP in {each.app_version for each in report.each}
    assert (report.unsettled, report.queued) == (0, 0)
    counted = await count(served.directory / "log")
    assert counted.events + counted.refused == report.produced - sum(report.dropped.values())
    assert counted.doubled == 0


async def test_an_app_that_has_crashed_says_nothing_until_it_is_launched_again(served: Served) -> None:
    meter, bundled = Meter(), bundled_upsell(MODEL)
    install = Install(served.app_key, served.url, (bytes(32),), {"upsell": bundled}, CoreMLRuntime())
    a_year_a_second = Calendar(0, 1_795_334_400_000, 365 * 86_400.0)
    async with TCPConnector() as connector:
        place = served.directory / "device"
        device = Device(
            install, phone(1, 0), place, calendar=a_year_a_second, connector=connector, meter=meter, tally=Tally()
        )
        await device.open(1)
        try:
            device.client.predict("upsell", {"battery_level": 0.5})
            await device.end(for_update=True)
            sent = meter.flushes
            await asyncio.sleep(0.01)  # days for the device, and one that ran would have flushed after minutes
            report = device.report()
            assert (report.produced, report.app_version, meter.flushes) == (1, NEXT_APP, sent)
            client = await device.launch()
            assert await device.launch() is client
            await device.settle(3600.0, None)
            report = device.report()
            assert (report.queued, report.unsettled, client.ledger.produced) == (0, "", 1)
        finally:
            await device.close()
