"""Hold a campaign: `python -m tests.campaign --faults 200 --seed 1`; exit status 0 when nothing was lost or doubled."""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import aiohttp
from clickhouse_connect.driver.exceptions import ClickHouseError
from rich.console import Console
from rich.table import Table

from deploy.local_kafka import missing
from gateway.clickhouse_server import ServerError, connect, url_of
from tests.campaign.journal import Journal
from tests.campaign.plants import PLANTS, plant
from tests.campaign.schedule import Fault, schedule
from tests.campaign.system import ROOT, CampaignError, Layout, System
from tests.campaign.verdict import Stored, Verdict, judge, stored

_DEVICES_SECONDS: Final = 240.0
_POLL_SECONDS: Final = 1.0
# A spool that drains late or a consumer that repeats itself would show within this.
_SETTLED_SECONDS: Final = 8.0

console: Final = Console()


async def hold(given: argparse.Namespace, layout: Layout, source: Path, directory: Path) -> Verdict:
    """Start the system, hit it, let it come to rest and judge it. Raises `CampaignError`."""
    system = System(directory, layout, given.seed, given.devices, source)
    try:
        await system.start()
        planned = schedule(system.targets(), given.faults, given.seed)
        await _hit_all(system, planned)
        console.print("the faults are over; the devices say all they have")
        await system.finish_devices(_DEVICES_SECONDS)
        verdict = await _judged(system, given.quiet_seconds)
    except* CampaignError as several:
        raise CampaignError("; ".join(map(str, several.exceptions))) from several
    finally:
        await system.stop()
    _show(planned, verdict, system.notes)
    return verdict


async def _hit_all(system: System, planned: list[Fault]) -> None:
    began = time.monotonic()
    async with asyncio.TaskGroup() as together:
        for number, fault in enumerate(planned, 1):
            await asyncio.sleep(fault.pause_seconds)
            together.create_task(system.hit(fault))
            if number % 20 == 0 or number == len(planned):
                console.print(f"{number} of {len(planned)} faults after {time.monotonic() - began:.0f} s")


async def _judged(system: System, quiet_seconds: float) -> Verdict:
    """Judge again and again until all is there, or nothing has come for a while."""
    journal = Journal(system.journal)
    sent, resends = journal.all(), journal.resends()
    journal.close()
    verdict, progress, since, good_since = None, -1, time.monotonic(), None
    while time.monotonic() - since < quiet_seconds:
        found = await _found(system)
        if found is not None:
            verdict = judge(sent, resends, found)
            rows = found.event_rows.total() + found.letter_rows.total()
            if rows != progress:
                progress, since, good_since = rows, time.monotonic(), None
            if verdict.good and await system.spooled_records() == 0:
                good_since = good_since or time.monotonic()
                if time.monotonic() - good_since > _SETTLED_SECONDS:
                    return verdict
        await asyncio.sleep(_POLL_SECONDS)
    if verdict is None:
        raise CampaignError("the warehouse did not come back")
    if verdict.good:
        raise CampaignError("the spools did not drain, or do not say so")
    return verdict


async def _found(system: System) -> Stored | None:
    """Return what the warehouse holds; None while it does not answer."""
    try:
        client = await connect(url_of(system.clickhouse_port), "backhaul", system.clickhouse_password(), "backhaul")
        try:
            return await stored(client)
        finally:
            await client.close()
    except (ClickHouseError, aiohttp.ClientError, ServerError, OSError):
        logging.getLogger(__name__).info("the warehouse does not answer yet", exc_info=True)
        return None


def _show(planned: list[Fault], verdict: Verdict, notes: list[str]) -> None:
    hits = Table("target", "faults", "kinds", title="Faults")
    for target in sorted({fault.target for fault in planned}):
        kinds = [fault.kind for fault in planned if fault.target == target]
        counted = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
        hits.add_row(target, str(len(kinds)), counted)
    console.print(hits)
    counts = Table("what", "count", title="What came of it")
    counts.add_row("batches acknowledged", str(verdict.batches))
    counts.add_row("events acknowledged", str(verdict.events))
    counts.add_row("events refused", str(verdict.refused))
    counts.add_row("events lost", str(verdict.lost))
    counts.add_row("rows doubled", str(verdict.doubled))
    counts.add_row("dead letters lost, doubled", f"{verdict.letters_lost}, {verdict.letters_doubled}")
    counts.add_row("resends answered, otherwise", f"{verdict.resends}, {verdict.answered_otherwise}")
    counts.add_row("longest wait of a batch for its answer", f"{verdict.longest_wait_seconds:.1f} s")
    console.print(counts)
    for note in notes:
        console.print(f"note: {note}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--devices", type=int, default=24)
    parser.add_argument("--quiet-seconds", type=float, default=60.0, help="how long nothing new may come at the end")
    parser.add_argument("--layout", choices=("kafka", "embedded"), help="default: kafka where Java is there")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="break our own code on purpose: it must fail then")
    return parser.parse_args()


def main() -> int:
    """Do what the command line says."""
    given = _options()
    lacking = missing()
    layout: Layout = given.layout or ("embedded" if lacking else "kafka")
    console.print(f"layout {layout}{f' ({lacking})' if lacking else ''}, {given.faults} faults, seed {given.seed}")
    directory = Path(tempfile.mkdtemp(prefix="backhaul-campaign-"))
    source = plant(given.plant, ROOT, directory / "planted") if given.plant else ROOT
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        verdict = asyncio.run(hold(given, layout, source, directory))
    except CampaignError as error:
        console.print(f"the campaign could not be held: {error}")
        return 2
    finally:
        console.print(f"logs are in {directory}")
    console.print(verdict.line(), soft_wrap=True)
    return 0 if verdict.good else 1


if __name__ == "__main__":
    sys.exit(main())
