"""Hold a campaign: `python -m tests.campaign --faults 200 --seed 1`; exit status 0 when nothing was lost or doubled."""

import argparse
import asyncio
import logging
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
from aiokafka.errors import KafkaError
from clickhouse_connect.driver.exceptions import ClickHouseError
from rich.console import Console

from deploy.local_kafka import LocalKafkaError, missing
from gateway.clickhouse_server import ServerError
from tests.campaign import readback, table
from tests.campaign.journal import Journal
from tests.campaign.plants import PLANTS, plant
from tests.campaign.processes import ROOT, CampaignError
from tests.campaign.readback import Spans
from tests.campaign.schedule import Fault, schedule
from tests.campaign.system import RESEND_WINDOW_RECORDS, Layout, System
from tests.campaign.verdict import Stored, Unpacked, Verdict, judge

_DEVICES_SECONDS: Final = 240.0
_POLL_SECONDS: Final = 0.5
# A spool that drains late or a consumer that repeats itself would show within this.
_SETTLED_SECONDS: Final = 3.0
_AWAY: Final = (ClickHouseError, KafkaError, ServerError, aiohttp.ClientError, sqlite3.Error, OSError, ValueError)

console: Final = Console(soft_wrap=True)


async def hold(given: argparse.Namespace, layout: Layout, source: Path, directory: Path) -> Verdict:
    """Start the system, hit it, let it come to rest and judge it. Raises `CampaignError`."""
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)  # type: ignore[union-attr]
    system = System(directory, layout, given.seed, given.devices, source)
    good = False
    try:
        await system.start()
        planned = schedule(system.targets(given.only), given.faults, given.seed)
        await _hit_all(system, planned)
        console.print("the faults are over; the devices say all they have")
        await system.finish_devices(_DEVICES_SECONDS)
        found, seen = await _at_rest(system, given.quiet_seconds)
        verdict = _judged(system, found)
        if verdict.good and await system.start_over():
            console.print(
                f"so far {verdict.line()}; now a consumer that lost every position and plan reads it all again"
            )
            found, again = await _at_rest(system, given.quiet_seconds)
            verdict = _judged(system, found)
            seen = msgspec.structs.replace(seen, received_days=again.received_days)
        if layout == "kafka":
            unpacked, seen = await _unpacked(system, seen)
            verdict = _judged(system, msgspec.structs.replace(found, unpacked=unpacked))
        good = verdict.good
    except* (CampaignError, LocalKafkaError) as several:
        raise CampaignError("; ".join(map(str, several.exceptions))) from several
    finally:
        await system.stop(keep_disks=not good and not given.plant)
    console.print(table.faults(planned))
    console.print(table.outcome(verdict, seen, unpacked=layout == "kafka"))
    for note in system.notes:
        console.print(f"note: {note}")
    return verdict


async def _hit_all(system: System, planned: list[Fault]) -> None:
    began = time.monotonic()
    async with asyncio.TaskGroup() as together:
        running: set[asyncio.Task[None]] = set()
        for number, fault in enumerate(planned, 1):
            await asyncio.sleep(fault.pause_seconds)
            if fault.alone and running:
                await asyncio.wait(running)
            running = {task for task in running if not task.done()}
            running.add(together.create_task(system.hit(fault)))
            if fault.alone:
                await asyncio.wait(running)
            if number % 20 == 0 or number == len(planned):
                console.print(f"{number} of {len(planned)} faults after {time.monotonic() - began:.0f} s")


async def _at_rest(system: System, quiet_seconds: float) -> tuple[Stored, Spans]:
    """Wait until all is taken, then read it. Where nothing moves for so long, read it as it is: `left` tells."""
    left, moved, at_rest_since = -1, time.monotonic(), None
    while time.monotonic() - moved < quiet_seconds:
        await asyncio.sleep(_POLL_SECONDS)
        try:
            now_left = await system.left()
        except _AWAY:
            logging.getLogger(__name__).info("the log does not answer yet", exc_info=True)
            continue
        if now_left != left:
            left, moved, at_rest_since = now_left, time.monotonic(), None
        if left == 0:
            at_rest_since = at_rest_since or time.monotonic()
            if time.monotonic() - at_rest_since > _SETTLED_SECONDS:
                break
    else:
        console.print(f"nothing has moved for {quiet_seconds:.0f} s")
    try:
        client = await system.warehouse()
        try:
            found = await readback.stored(client)
            return msgspec.structs.replace(found, left=abs(left)), await readback.spans(client)
        finally:
            await client.close()
    except _AWAY as error:
        raise CampaignError(f"the warehouse did not come back: {error}") from error


async def _unpacked(system: System, seen: Spans) -> tuple[Unpacked, Spans]:
    try:
        unpacked, appended_hours = await readback.unpacked(system.bootstrap, RESEND_WINDOW_RECORDS)
    except KafkaError as error:
        raise CampaignError(f"Kafka did not come back: {error!r}") from error
    return unpacked, msgspec.structs.replace(seen, appended_hours=appended_hours)


def _judged(system: System, found: Stored) -> Verdict:
    journal = Journal(system.journal)
    try:
        return judge(journal.all(), journal.resends(), found)
    finally:
        journal.close()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--devices", type=int, default=24)
    parser.add_argument("--only", default="*", help="faults that match, as TARGET:KIND: 'A.*:kill', '*:disk_full'")
    parser.add_argument("--quiet-seconds", type=float, default=90.0, help="how long nothing may move at the end")
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
    line, status = "", 2
    try:
        verdict = asyncio.run(hold(given, layout, source, directory))
        line, status = verdict.line(), 0 if verdict.good else 1
    except CampaignError as error:
        line = f"NOT HELD: {error}"
    except Exception:  # the boundary: a fault of the campaign's own is no verdict
        console.print_exception()
        line = "NOT HELD: by an error of the campaign's own"
    if status == 0:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        console.print(f"logs are in {directory}")
    console.print(line)
    return status


if __name__ == "__main__":
    sys.exit(main())
