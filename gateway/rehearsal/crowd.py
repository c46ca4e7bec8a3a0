"""A process of real clients: opened, told when to begin, and asked in the end what they saw.

* Half of the devices or so: one process's Python is one core's.
"""

import asyncio
import os
import resource
import signal
import time
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Final

import aiohttp
from msgspec import Struct

from gateway.client.bundled import Bundled
from gateway.client.fleet.calendar import Calendar
from gateway.client.fleet.device import Device, Install
from gateway.client.fleet.files import allow_open_files
from gateway.client.fleet.life import Tally
from gateway.client.fleet.loaded import LoadedOnce
from gateway.client.fleet.phones import phone
from gateway.client.fleet.radio import Meter
from gateway.client.fleet.reports import DeviceReport
from gateway.client.fleet.shoppers import MODEL
from gateway.client.runtimes.coreml import CoreMLRuntime
from gateway.rehearsal.actor import Acted, Actor, Stage, each
from gateway.rehearsal.plan import Plan
from gateway.rehearsal.script import sessions_of
from gateway.rehearsal.witness import Witness
from gateway.supervisor.memory import settle_memory

_OPENED_AT_ONCE: Final = 8
_SETTLED_AT_ONCE: Final = 32
_CONNECTIONS: Final = 64
_MIB: Final = 1024  # getrusage counts in KiB on Linux


@dataclass(frozen=True)
class Part:
    """The devices `first` to `last` of a plan, and where they call."""

    plan: Plan
    first: int
    last: int
    url: str
    app_key: str
    root_keys: tuple[bytes, ...]
    bundled: Bundled
    directory: Path
    settle_seconds: float


class Played(Struct):
    """What a process's devices did, in the order of their numbers, and what the process took."""

    acted: list[Acted]
    reports: list[DeviceReport]
    processor_seconds: float
    resident_mib: float


def perform(part: Part, line: Connection) -> None:
    """Open the devices, say so, begin at the moment that is sent back, and send what came of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends us
    line.send(asyncio.run(_perform(part, line)))


async def _perform(part: Part, line: Connection) -> Played:
    async with AsyncExitStack() as stack:
        _leave_when_orphaned()
        crowd = await stack.enter_async_context(Crowd(part))
        settle_memory()
        line.send("ready")
        began = await asyncio.to_thread(line.recv)
        return await crowd.play(began)


def _leave_when_orphaned() -> None:
    """End the process when its parent was killed: nobody would ever ask what came of it."""
    parent = parent_process()
    if parent is not None:
        asyncio.get_running_loop().add_reader(parent.sentinel, os._exit, 1)


class Crowd:
    """The devices of one process."""

    def __init__(self, part: Part) -> None:
        allow_open_files(part.last - part.first)
        self._part = part
        self._meter = Meter()
        self._stage = Stage(time.time(), part.plan.pace, time.time)
        self._witnesses = [Witness(self._now) for _ in range(part.first, part.last)]
        self._devices: list[Device] = []

    async def __aenter__(self) -> "Crowd":
        self._connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
        install = Install(
            self._part.app_key,
            self._part.url,
            self._part.root_keys,
            {MODEL: self._part.bundled},
            LoadedOnce(CoreMLRuntime()),
        )
        now_ms = time.time_ns() // 1_000_000
        calendar = Calendar(now_ms, now_ms, self._part.plan.pace)
        for number, witness in enumerate(self._witnesses, self._part.first):
            device = Device(
                install,
                phone(self._part.plan.seed, number),
                self._part.directory / f"{number:06d}",
                calendar=calendar,
                connector=self._connector,
                meter=self._meter,
                tally=Tally(),
                witness=witness,
            )
            witness.radio = device.radio
            self._devices.append(device)
        await each(len(self._devices), lambda at: self._devices[at].open(self._part.plan.seed), _OPENED_AT_ONCE)
        return self

    async def __aexit__(self, *_: object) -> None:
        for device in self._devices:
            await device.close()
        await self._connector.close()

    async def play(self, began: float) -> Played:
        """Live the lives from that moment on, then let every device say what it still has to say."""
        used = time.process_time()
        plan, first = self._part.plan, self._part.first
        self._stage = Stage(began, plan.pace, time.time)
        lives = plan.lives()
        actors = [
            Actor(device, sessions_of(lives, number), self._stage, Random(f"actor {plan.seed} {number}"))  # noqa: S311
            for number, device in enumerate(self._devices, first)
        ]
        with suppress(TimeoutError):  # what is under way at the end is cut off, as in the simulation
            async with (
                asyncio.timeout(began + plan.days * plan.day_seconds - time.time()),
                asyncio.TaskGroup() as tasks,
            ):
                for actor in actors:
                    tasks.create_task(actor.act())
        await self._stage.until(plan.seconds)
        used = time.process_time() - used
        for actor, witness in zip(actors, self._witnesses, strict=True):
            actor.acted.sent, actor.acted.refused = list(witness.sent), witness.refused
        patience = self._part.settle_seconds * plan.pace
        await each(len(actors), lambda at: self._devices[at].settle(patience, None), _SETTLED_AT_ONCE)
        return Played(
            acted=[actor.acted for actor in actors],
            reports=[device.report() for device in self._devices],
            processor_seconds=used,
            resident_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MIB,
        )

    def _now(self) -> float:
        return self._stage.now()
