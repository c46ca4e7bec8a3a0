"""Run the demonstration from start to verdict."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
from clickhouse_connect.driver.exceptions import ClickHouseError
from msgspec.structs import replace

from gateway.client.fleet import FleetOptions, FleetReport, KeyRefused, bundled_upsell, run_fleet
from gateway.client.fleet.files import allow_open_files
from gateway.demo.live import Progress
from gateway.demo.memory import resident_bytes
from gateway.demo.result import Result, print_result, stopped
from gateway.demo.served import DemoError, Served, serving
from gateway.demo.stage import Stage, model_file, set_up
from gateway.demo.stored import Warehouse
from gateway.demo.verdict import faults, right_release
from gateway.releases.store import Store

# The fleet lives through so many days: enough for offline spells to begin and end.
_DAYS: Final = 3
_PATIENCE_SECONDS: Final = 20.0
_LOOK_EVERY_SECONDS: Final = 1.0


@dataclass(frozen=True)
class DemoOptions:
    """What to show. `data` is a directory that does not exist yet or is empty; None: a temporary one.

    `command` starts backhaul from any shell; what is printed to be pasted begins with it.
    """

    devices: int = 200
    seconds: float = 60.0
    seed: int = 1
    keep: bool = False
    json: bool = False
    data: Path | None = None
    command: str = "backhaul"

    @property
    def keeps_data(self) -> bool:
        """Whether what it writes stays, when all goes well."""
        return self.keep or self.data is not None


async def run_demo(options: DemoOptions) -> int:
    """Run the demonstration; return 0 when all is well, else 1, having said why."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    if task is not None:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)  # so that nothing is left running behind us
    try:
        allow_open_files(options.devices)
        directory = _empty_directory(options.data)
        try:
            code = await _run(options, directory)
        except asyncio.CancelledError:
            _forget(directory, unless=options.data is not None)
            raise
        except DemoError as error:
            raise DemoError(f"{error}\nwhat it wrote is kept in {directory}") from error
        _forget(directory, unless=options.keeps_data or code != 0)  # after a failure it stays, to be looked at
        return code
    except (DemoError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) and not error.filename else error
        sys.stderr.write(f"backhaul demo: {reason}\n")
        return 1
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _run(options: DemoOptions, directory: Path) -> int:
    with Progress(options.seconds) as progress:
        progress.say("starting the gateway, the log, ClickHouse and the warehouse")
        async with serving(directory) as served:
            result = await _show(options, served, progress)
            progress.close()
            if options.keep:
                interrupted = _interrupt()
                _print(options, replace(result, data=str(directory), url=served.url))
                await interrupted.wait()
            code = await served.stop()
    if code:
        result = replace(result, faults=[*result.faults, f"backhaul serve left with exit code {code}"])
    if options.keep:
        late = f"WRONG: {result.faults[-1]}\n" if code else ""
        sys.stderr.write(f"{late}{stopped(str(directory), options.command)}\n")
    else:
        # After a failure it stays, to be looked at.
        stays = options.keeps_data or bool(result.faults)
        _print(options, replace(result, data=str(directory)) if stays else result)
    return 1 if result.faults else 0


async def _show(options: DemoOptions, served: Served, progress: Progress) -> Result:
    directory = served.config.directory
    progress.say("publishing release 1")
    stage = await set_up(directory, Store.open(served.config.store_address))
    warehouse = await Warehouse.open(served.config)
    try:
        fleet = await _act(_fleet_options(options, served, stage), stage, warehouse, progress)
        progress.fleet(fleet)
        progress.say("waiting for the warehouse")
        arriving = fleet.produced - fleet.queued - sum(fleet.dropped.values())
        stored = await warehouse.caught_up(arriving, _PATIENCE_SECONDS, progress.stored)
    finally:
        await warehouse.close()
    return Result(
        faults=faults(fleet, stored),
        fleet=fleet,
        requests_per_device_day=fleet.requests_per_device_day,
        usual_requests_per_device_day=fleet.usual_requests_per_device_day,
        bytes_per_event=fleet.bytes_sent / max(1, stored.events + stored.refused),
        stored=stored,
        history=progress.history,
        memory_bytes=resident_bytes(served.processes() | {"fleet": os.getpid()}),
    )


async def _act(options: FleetOptions, stage: Stage, warehouse: Warehouse, progress: Progress) -> FleetReport:
    """Run the fleet and publish release 2 when half of its time is over."""
    began = asyncio.Event()

    def watch(report: FleetReport) -> None:
        began.set()
        progress.fleet(report)

    async def publish_midway() -> None:
        await began.wait()
        progress.say("release 1 is in the app, and runs everywhere")
        await asyncio.sleep(options.seconds / 2)
        await stage.publish(2)
        progress.say("release 2 is out; devices learn of it in the replies to their flushes")
        await asyncio.sleep(options.seconds / 2)
        progress.say("every device says what it still has to say")

    progress.say(f"making {options.devices} devices")
    async with asyncio.TaskGroup() as beside:
        watching = beside.create_task(_watch(warehouse, progress))
        publishing = beside.create_task(publish_midway())
        try:
            report: FleetReport | KeyRefused = await run_fleet(options, watch)
        except KeyRefused as error:  # raised here, the group would wrap it
            report = error
        watching.cancel()
        publishing.cancel()
    if isinstance(report, KeyRefused):
        raise DemoError(str(report)) from report
    return report


async def _watch(warehouse: Warehouse, progress: Progress) -> None:
    while True:
        with suppress(ClickHouseError):
            progress.stored(await warehouse.totals())
        await asyncio.sleep(_LOOK_EVERY_SECONDS)


def _interrupt() -> asyncio.Event:
    """Make Ctrl-C and SIGTERM an event: here they are how the demonstration is meant to end.

    They stay one to the end: a second Ctrl-C must not cut the orderly stop short.
    """
    loop, interrupted = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    return interrupted


def _print(options: DemoOptions, result: Result) -> None:
    if options.json:
        sys.stdout.write(msgspec.json.encode(result).decode() + "\n")
    else:
        print_result(result, options.command)
    sys.stdout.flush()


def _forget(directory: Path, *, unless: bool) -> None:
    if not unless:
        shutil.rmtree(directory, ignore_errors=True)


def _empty_directory(data: Path | None) -> Path:
    if data is None:
        return Path(tempfile.mkdtemp(prefix="backhaul-demo-"))
    data.mkdir(parents=True, exist_ok=True)
    if any(data.iterdir()):
        raise DemoError(f"{data} is not empty: the counts at the end would not be this demonstration's")
    return data


def _fleet_options(options: DemoOptions, served: Served, stage: Stage) -> FleetOptions:
    return FleetOptions(
        url=served.url,
        app_key=stage.app_key,
        root_keys=(stage.public_key,),
        bundled=bundled_upsell(model_file(1)),
        directory=served.config.directory / "devices",
        devices=options.devices,
        seconds=options.seconds,
        seed=options.seed,
        day_seconds=options.seconds / _DAYS,
        right_release=right_release,
    )
