"""Lives with crashes and app updates: real clients go through them, and no event is lost."""

from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from gateway.app import create_app
from gateway.client.fleet.life import Mishaps
from gateway.client.fleet.phones import NEXT_APP
from gateway.client.fleet.run import FleetOptions, bundled_upsell, run_fleet
from gateway.config import Config
from gateway.publish.embedded import EmbeddedLog
from gateway.rehearsal.counted import count
from gateway.releases.apps import create_app as create_shop
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store

MODEL = Path(__file__).resolve().parents[2] / "models" / "upsell-1.mlmodel"


async def test_a_fleet_goes_through_crashes_and_updates_without_losing_an_event(tmp_path: Path) -> None:
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
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        bundled = bundled_upsell(MODEL)
        options = FleetOptions(
            url,
            key,
            (bytes(32),),
            bundled,
            tmp_path / "devices",
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
    counted = await count(tmp_path / "log")
    assert counted.events + counted.refused == report.produced - sum(report.dropped.values())
    assert counted.doubled == 0
