"""A place to try points at: one gateway, one process that forks launches, one device at a time.

* The gateway and its releases are the conformance kit's. What a device was before its update is made once and copied.
"""

import asyncio
import base64
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
from aiohttp import web

from gateway.client.conformance.hostile import Hostile
from gateway.client.conformance.publisher import APP, INPUTS, MODEL, Publisher, script
from gateway.client.conformance.scripted import Fault as ModelFault
from schemas.releases import Release
from schemas.wire import Batch
from tests.crashes.operations import ENDED
from tests.crashes.phone import Launch, Life
from tests.crashes.points import KILLED, UPDATE, Fault, Point, Update
from tests.crashes.verdict import Story
from tests.crashes.ways import downloads, spoil

MOST_STARTS: Final = 3
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the directory in it is our own
_SECONDS: Final = 120.0
_LINE_BYTES: Final = 16 * 1024 * 1024
_HOUR_MS: Final = 3_600_000
_LATER_MS: Final = 26 * _HOUR_MS  # past every pause after a first failure, and a first quarantine
_BEFORE: Final = ["predict", "flush", "predict", "predict", "predict", "flush", "predict", "predict", "outcome"]
_STEPS: Final = ["predict", "flush", "predict", "outcome", "predict", "flush", "predict"]
_SHARED: Final = ["predict", "flush", "turn", "predict", "outcome", "flush", "turn", "predict", "flush", "predict"]
_FREED: Final = ["predict", "flush"]
_CRASHING_STARTS: Final = 4


_ARTIFACTS: Final = {41: script(41, size=20_000), 42: script(42, size=30_000)}


class Place:
    """Where points are tried, one after the other."""

    def __init__(self, home: Path, url: str, hostile: Hostile, process: asyncio.subprocess.Process) -> None:
        self._home, self._url, self._hostile, self._process = home, url, hostile, process
        self._publisher = hostile.publisher
        self._now_ms = time.time_ns() // 1_000_000
        self._device = home / "device"
        self._before: dict[int, tuple[dict[str, Batch], list[Life]]] = {}
        self._releases = {n: self._publisher.release(n, data) for n, data in _ARTIFACTS.items()}
        crash = ModelFault(at="load", does="crash")
        self._releases[43] = self._publisher.release(43, script(43, crash, size=10_000))

    async def operations(self, update: Update) -> int:
        """Return how many changes to files an update is that nothing disturbs; or up to the crash, if it crashes."""
        if update.crashes:
            return await self._changes_before_the_crash(update)
        await self._begin(update)
        return int((await self._launch(1, update)).said[-1]["operations"])

    async def _changes_before_the_crash(self, update: Update) -> int:
        least, most = 0, await self.operations(UPDATE)
        while least < most:
            middle = (least + most + 1) // 2
            await self._begin(update)
            if (await self._launch(1, update, Fault(KILLED, middle))).code == ENDED:
                least = middle
            else:
                most = middle - 1
        return least

    async def tell(self, point: Point) -> Story:
        """Try a point, and return what happened."""
        update = point.update
        before = await self._begin(update)
        faulted = []
        for hour, fault in enumerate(point.faults, 1):
            faulted.append(await self._launch(hour, update, fault))
        fresh: list[Life] = []
        for start in range(_CRASHING_STARTS if update.crashes else MOST_STARTS):
            ahead_ms = update.days_ahead * 24 * _HOUR_MS + (0 if update.crashes else start * _LATER_MS)
            after = update._replace(beside=False)
            fresh.append(await self._launch(len(point.faults) + 1 + start, after, ahead_ms=ahead_ms, sdk=update.sdk))
            if not update.crashes and _runs(fresh[-1]) == update.offered:
                break
        files = sorted(str(path.relative_to(self._device)) for path in self._device.rglob("*") if path.is_file())
        return Story(point, before, faulted, fresh, list(self._hostile.stored.values()), self._hostile.breaches, files)

    async def _begin(self, update: Update) -> list[Life]:
        """Make the device what it was before, and offer the update. Return what was said before."""
        if update.before not in self._before:
            await self._make(update.before)
        stored, lives = self._before[update.before]
        shutil.rmtree(self._device, ignore_errors=True)
        shutil.copytree(self._home / f"before-{update.before}", self._device)
        self._hostile.stored, self._hostile.breaches = dict(stored), []
        self._hostile.arrived.clear()
        self._hostile.fetches.clear()
        offered = self._releases[update.offered]
        if update.before and update.offered in _ARTIFACTS:
            base, data = _ARTIFACTS[update.before], _ARTIFACTS[update.offered]
            ways = downloads(self._publisher, update.way, base, data)
            offered = msgspec.structs.replace(offered, downloads=ways)
        self._offer(2, *(self._releases[n] for n in (update.before,) if n), offered)
        spoil(self._hostile, update.way, offered)
        return lives

    async def _make(self, before: int) -> None:
        shutil.rmtree(self._device, ignore_errors=True)
        self._device.mkdir()
        self._hostile.stored = {}
        lives = []
        if before:
            self._offer(1, self._releases[before])
            spoil(self._hostile, "whole", self._releases[before])
            lives.append(await self._started(Launch(self._start(self._now_ms), _BEFORE)))
        shutil.copytree(self._device, self._home / f"before-{before}")
        self._before[before] = dict(self._hostile.stored), lives

    def _offer(self, number: int, *releases: Release) -> None:
        self._hostile.offer(self._publisher.news(number, releases), releases[-1].release)

    async def _launch(
        self, hour: int, update: Update, fault: Fault | None = None, ahead_ms: int = 0, sdk: str = "2.3.0"
    ) -> Life:
        start = self._start(self._now_ms + hour * _HOUR_MS + ahead_ms) | {"sdk": sdk}
        launch = Launch(start, _SHARED if update.beside else _STEPS, beside=update.beside)
        if fault is not None:
            launch.mode, launch.at, launch.freed = fault.mode.number, fault.at, _FREED if fault.mode.freed else []
        return await self._started(launch)

    async def _started(self, launch: Launch) -> Life:
        if self._process.stdin is None or self._process.stdout is None:
            raise ValueError("the phone has no pipes")
        self._process.stdin.write(msgspec.json.encode(launch) + b"\n")
        async with asyncio.timeout(_SECONDS):
            line = await self._process.stdout.readline()
        return msgspec.json.decode(line, type=Life)

    def _start(self, now_ms: int) -> dict[str, Any]:
        bundle = {"release": 1, "content": base64.b64encode(script(1)).decode(), "inputs": INPUTS, "threshold": 0.5}
        return {
            "directory": str(self._device),
            "url": self._url,
            "app_key": f"{APP}.secret",
            "root_keys": [base64.b64encode(self._publisher.public).decode()],
            "models": {MODEL: bundle},
            "sdk": "2.3.0",
            "app_version": "5.1.0",
            "os": "iOS 19.1",
            "now_ms": now_ms,
        }


def _runs(life: Life) -> int:
    """Return which release ran at the end of a launch."""
    state = life.said[-1] if life.said else {}
    return int(state["models"][MODEL]["release"]) if state.get("did") == "state" else 0


@asynccontextmanager
async def opened(library: Path) -> AsyncIterator[Place]:
    """Build a place. In memory where that can be: only power can take what a process has written, synced or not."""
    hostile = Hostile(Publisher(time.time_ns() // 1_000_000))
    runner = web.AppRunner(hostile.app(), auto_decompress=False, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    with TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as home:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.crashes.phone"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # what the client logs of its disk, at every change
            limit=_LINE_BYTES,
            env={**os.environ, "LD_PRELOAD": str(library)},
        )
        try:
            yield Place(Path(home), f"http://{host}:{port}/", hostile, process)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            await process.wait()
            await runner.cleanup()
