"""Run a fleet: open its devices, let them live for a while, settle them, add up.

* Killed and started again on the same directory, it goes on with the same devices in the same device time.
* One connector serves all devices, with so many connections at most: what a load test asks of this machine is bounded.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp
from msgspec.structs import replace

from gateway.client.bundled import Bundled
from gateway.client.fleet.calendar import go_on
from gateway.client.fleet.device import Device, Install
from gateway.client.fleet.files import allow_open_files
from gateway.client.fleet.life import USUAL, Mishaps, Tally
from gateway.client.fleet.loaded import LoadedOnce
from gateway.client.fleet.phones import phone
from gateway.client.fleet.radio import Meter
from gateway.client.fleet.reports import FleetReport, fleet_report
from gateway.client.fleet.shoppers import MODEL, SIGNALS
from gateway.client.runtimes import BadModel
from gateway.client.runtimes.coreml import CoreMLRuntime
from schemas.releases import Parameters

_OPENED_AT_ONCE: Final = 8
_SETTLED_AT_ONCE: Final = 64
_LOOK_EVERY_SECONDS: Final = 0.1


@dataclass(frozen=True)
class FleetOptions:
    """What to run. A device-day takes `day_seconds` of real time; `seconds` and `settle_seconds` are real time too.

    `right_release` says which release a device of an SDK must run in the end, where the caller knows.
    """

    url: str
    app_key: str
    root_keys: tuple[bytes, ...]
    bundled: Bundled
    directory: Path
    devices: int = 200
    seconds: float = 60.0
    seed: int = 1
    day_seconds: float = 20.0
    settle_seconds: float = 30.0
    connections: int = 64
    right_release: Callable[[str], int] | None = None
    mishaps: Mishaps = USUAL


Watcher = Callable[[FleetReport], None]


class KeyRefused(Exception):
    """The gateway refuses the app key, so no device of the fleet would ever be answered."""


async def run_fleet(options: FleetOptions, watch: Watcher | None = None, watch_seconds: float = 1.0) -> FleetReport:
    """Run a fleet from start to finish and report; `watch` is given a report now and then meanwhile.

    Raises `KeyRefused`, and OSError where there is no room for the devices' files.
    """
    async with AsyncExitStack() as stack:
        connector = await stack.enter_async_context(aiohttp.TCPConnector(limit=options.connections))
        fleet = Fleet(options, connector)
        stack.push_async_callback(fleet.close)
        await fleet.open()
        running = asyncio.create_task(fleet.run())
        try:
            await _observed(running, fleet, watch, watch_seconds)
        finally:
            running.cancel()
            await asyncio.wait((running,))
        return fleet.report()


async def _observed(running: asyncio.Task[None], fleet: "Fleet", watch: Watcher | None, watch_seconds: float) -> None:
    """Wait for the end and tell how it goes. Raises `KeyRefused`."""
    until_report = 0.0
    while not running.done():
        if fleet.key_refused:
            raise KeyRefused(f"the gateway refuses this app key: {fleet.key_refused}")
        if watch is not None and until_report <= 0:
            watch(fleet.report())
            until_report = watch_seconds
        until_report -= _LOOK_EVERY_SECONDS
        await asyncio.wait((running,), timeout=min(_LOOK_EVERY_SECONDS, watch_seconds))
    await running


class Fleet:
    """Devices that share a process, a calendar and their connections."""

    def __init__(self, options: FleetOptions, connector: aiohttp.BaseConnector) -> None:
        allow_open_files(options.devices)
        options.directory.mkdir(parents=True, exist_ok=True)
        self._options = options
        self._calendar = go_on(options.directory, options.day_seconds)
        self._meter, self._tally = Meter(), Tally()
        self._began = self._ended = 0.0
        self._lived: Meter | None = None
        install = Install(
            options.app_key, options.url, options.root_keys, {MODEL: options.bundled}, LoadedOnce(CoreMLRuntime())
        )
        self.devices = [
            Device(
                install,
                phone(options.seed, number),
                options.directory / f"{number:06d}",
                calendar=self._calendar,
                connector=connector,
                meter=self._meter,
                tally=self._tally,
                mishaps=options.mishaps,
            )
            for number in range(options.devices)
        ]

    async def open(self) -> None:
        """Open every device; from now on time counts."""
        await _each(self.devices, lambda device: device.open(self._options.seed), _OPENED_AT_ONCE)
        self._began = time.monotonic()

    @property
    def key_refused(self) -> str:
        """How the gateway refuses the app key; empty while it does not."""
        return self._meter.key_refused

    async def run(self) -> None:
        """Let every device live for as long as was asked, then settle."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._options.seconds), asyncio.TaskGroup() as lives:
                for device in self.devices:
                    lives.create_task(device.live())
        await self.settle()

    async def settle(self) -> None:
        """Let every device say what it still has to say; the time this takes does not count."""
        self._ended, self._lived = time.monotonic(), replace(self._meter)
        patience_seconds = self._options.settle_seconds * self._calendar.rate
        right = self._options.right_release
        await _each(self.devices, lambda device: device.settle(patience_seconds, right), _SETTLED_AT_ONCE)

    async def close(self) -> None:
        """Close every device."""
        for device in self.devices:
            await device.close()

    def report(self) -> FleetReport:
        """Add up, as of now."""
        lived_seconds = (self._ended or time.monotonic()) - self._began
        device_days = len(self.devices) * lived_seconds / self._options.day_seconds
        devices = [device.report() for device in self.devices]
        return fleet_report(devices, device_days, self._tally, self._meter, self._lived)


async def _each(devices: Iterable[Device], do: Callable[[Device], Awaitable[object]], at_once: int) -> None:
    room = asyncio.Semaphore(at_once)

    async def one(device: Device) -> None:
        async with room:
            await do(device)

    async with asyncio.TaskGroup() as tasks:
        for device in devices:
            tasks.create_task(one(device))


def bundled_upsell(file: Path) -> Bundled:
    """Read the example model as bundled release 1, with the parameters that the file names. Raises `BadModel`."""
    data = file.read_bytes()
    about = CoreMLRuntime().load(data).metadata
    try:
        parameters = Parameters(threshold=float(about["threshold"]), explore=float(about["explore"]))
        return Bundled(1, data, parameters, about["inputs"].split(","), SIGNALS)
    except (KeyError, ValueError) as error:
        raise BadModel(f"{file} does not say its inputs, threshold and explore") from error
