"""One row's world: a device's directory, its app's processes, and the hostile gateway around them.

* `runs` is what really ran, told by the score and not by the driver's word.
* A launch takes a process that is there and idle, or a new one; `kill` is SIGKILL at whatever it is doing.
"""

import asyncio
import base64
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from gateway.client.conformance.hostile import Hostile, stalling
from gateway.client.conformance.process import DriverProcess
from gateway.client.conformance.publisher import APP, INPUTS, MODEL, SCORES, Publisher, script
from gateway.client.conformance.results import Failed, Skipped, require
from schemas.releases import Release
from schemas.wire import Use

KEY: Final = f"{APP}.secret"
_TOLERANCE: Final = 1e-6
# An app may flush by itself, beside the flush that it is told to; the kit waits until nothing happens any more.
_QUIET_SECONDS: Final = 0.04
_PATIENCE_SECONDS: Final = 2.0

# Makes a process: ready to be told to start; `locked` without root's right to read everything.
Starter = Callable[[bool], Awaitable[DriverProcess]]


class Phone:
    """An app process with a client that was started in it."""

    def __init__(self, process: DriverProcess, gateway: Hostile) -> None:
        self.process = process
        self._gateway = gateway

    async def answer(self, battery: float = 0.5) -> dict[str, Any]:
        """Predict, and return the whole answer."""
        return await self.process.call("predict", model=MODEL, signals={"battery": battery, "charging": 1.0})

    async def runs(self, battery: float = 0.5) -> int:
        """Predict, and return which release answered by its score; 0 for none."""
        score = (await self.answer(battery)).get("score")
        if not isinstance(score, int | float):
            raise Failed(f"a prediction was answered with the score {score!r}")
        return next((n for n, base in SCORES.items() if abs(base + battery / 100 - score) < _TOLERANCE), 0)

    async def flush(self) -> None:
        """Flush, and wait until nothing is asked of gateway and CDN any more."""
        await self.process.call("flush")
        await until(lambda: self._gateway.quiet(_QUIET_SECONDS))

    def flushing(self) -> asyncio.Task[None]:
        """Flush meanwhile. Nobody has to hear how that ends: the row may have failed before."""
        flush = asyncio.create_task(self.flush())
        flush.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return flush

    async def turn(self, seconds: float) -> None:
        """Let so many seconds pass for the device."""
        await self.process.call("turn", seconds=seconds)

    async def decide(self, times: int) -> list[int]:
        """Predict so many times; return the predictions' numbers."""
        return [(await self.answer())["prediction"] for _ in range(times)]


class World:
    """Everything around one device. `phone` is the process of the last launch."""

    def __init__(self, directory: Path, url: str, hostile: Hostile, take: Starter) -> None:
        self.home = directory
        self.directory = directory / "device"
        self.url = url
        self.gateway = hostile
        self.publisher = hostile.publisher
        self.ahead_ms = 0
        self.terms: dict[str, Any] = {
            "sdk": "2.3.0",
            "app_version": "5.1.0",
            "os": "iOS 19.1",
            "hardware": "iPhone15,3",
        }
        self.bundle = (1, script(1))
        self._take = take
        self._taken: list[DriverProcess] = []
        self.phone: Phone

    @property
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.ahead_ms

    async def launch(self, *, locked: bool = False, url: str | None = None, **terms: Any) -> Phone:
        """Let the app start; `terms` (sdk, os, app_version) stay as they are then."""
        process = await self._take(locked)
        self._taken.append(process)
        self.phone = Phone(process, self.gateway)
        await self._start(url, terms)
        return self.phone

    async def relaunch(self, *, url: str | None = None, **terms: Any) -> None:
        """Close the app and start it again, in the same process: what it needs must be on disk."""
        await self.phone.process.call("stop")
        await self._start(url, terms)

    async def _start(self, url: str | None, terms: dict[str, Any]) -> None:
        self.terms |= terms
        release, content = self.bundle
        told = {"release": release, "content": base64.b64encode(content).decode(), "inputs": INPUTS, "threshold": 0.5}
        await self.phone.process.call(
            "start",
            directory=str(self.directory),
            url=url or self.url,
            app_key=KEY,
            root_keys=[base64.b64encode(self.publisher.public).decode()],
            models={MODEL: told},
            now_ms=self.now_ms,
            **self.terms,
        )

    async def kill(self, phone: Phone | None = None) -> None:
        """Kill the app's process."""
        await (phone or self.phone).process.end()

    async def kill_in(self, flush: asyncio.Task[None]) -> None:
        """Kill the app's process in a flush, whatever that says of it. Raises `Skipped` where it cannot flush."""
        await self.kill()
        with suppress(Failed):
            await flush

    async def later(self, seconds: float) -> None:
        """Let time pass, on the device and in every launch to come."""
        self.ahead_ms += round(seconds * 1000)
        await self.phone.turn(seconds)

    def offer(self, number: int, *releases: Release, use: Use | None = None, **changes: Any) -> None:
        """Publish a catalogue and tell every device to use its last release, or something else."""
        told = releases[-1].release if use is None and releases else use
        self.gateway.offer(self.publisher.news(number, releases, **changes), told)

    async def install(self, *numbers: int) -> None:
        """Let the device get plain releases, one after the other."""
        releases = [self.publisher.release(number) for number in numbers]
        for count, number in enumerate(numbers, 1):
            self.offer(count, *releases[:count])
            await self.phone.flush()
            await self.expect(number, "after a download that nothing disturbed")

    async def expect(self, number: int, when: str) -> None:
        """Require that this release answers."""
        began = time.monotonic()
        while (found := await self.phone.runs()) != number:
            require(time.monotonic() - began < _PATIENCE_SECONDS, f"{when}: release {found} answered, not {number}")
            await asyncio.sleep(0.05)

    async def expect_report(self, number: int, *states: str) -> str:
        """Let the device say what it has to say; require one of these states of a release, and return its detail."""
        await self.later(2 * 86_400)
        await self.phone.flush()
        steps = self.gateway.steps(number)
        found = [detail for state, detail in steps if state in states]
        require(found, f"release {number} was never reported as {' or '.join(states)}: {steps}")
        return found[-1]

    def files(self) -> Iterator[Path]:
        """Every file that the device keeps."""
        return (path for path in self.directory.rglob("*") if path.is_file())

    def kept_bytes(self) -> int:
        """Return the size of all that it keeps; what vanishes meanwhile does not count."""
        total = 0
        with suppress(FileNotFoundError):
            for path in self.files():
                total += path.stat().st_size
        return total

    def snapshot(self) -> dict[str, int]:
        """Return the names and sizes of its files."""
        found: dict[str, int] = {}
        with suppress(FileNotFoundError):
            for path in self.files():
                found[str(path)] = path.stat().st_size
        return found

    def holding(self, content: bytes) -> list[Path]:
        """Return the files that hold these bytes, alone or inside of something."""
        return [path for path in self.files() if content in path.read_bytes()]

    def artifact_files(self, data: bytes) -> list[Path]:
        """Return the files that are this artifact."""
        digest = sha256(data).digest()
        return [path for path in self.files() if sha256(path.read_bytes()).digest() == digest]

    async def interrupt(self, number: int, data: bytes, *, after_bytes: int) -> None:
        """Offer a release and kill the app when it has that much of it on disk, or could have."""
        before, reached, over = self.kept_bytes(), asyncio.Event(), asyncio.Event()
        self.gateway.serve = stalling(after_bytes, over, reached)
        flush = self.phone.flushing()
        await until(lambda: reached.is_set() or (flush.done() and flush.exception()))
        if not reached.is_set() and flush.done():
            flush.result()  # why nothing was asked for, where the driver said so
        require(reached.is_set(), f"release {number} was never asked for")
        await until(lambda: self.kept_bytes() > before + after_bytes // 2, seconds=3.0)
        await self.kill_in(flush)
        over.set()
        self.gateway.serve = None
        require(not self.artifact_files(data), "what was not finished stands as an artifact")

    def move_home(self) -> None:
        """Move the device's directory, as an app update does on iOS."""
        moved = self.home / f"container-{time.monotonic_ns()}"
        shutil.move(self.directory, moved)
        self.directory = moved

    async def idle(self) -> DriverProcess | None:
        """Close the app and return its process, which is as good as new then; None if it is not."""
        process = self._taken[-1] if self._taken else None
        if process is None or process is not self.phone.process or not process.alive or process.locked:
            return None
        try:
            await process.call("stop")
        except (Failed, Skipped):
            return None
        self._taken.remove(process)
        return process

    async def close(self) -> None:
        """End every process."""
        for process in self._taken:
            await process.end()


@asynccontextmanager
async def opened(directory: Path, take: Starter) -> AsyncIterator[World]:
    """Build a world around a directory."""
    hostile = Hostile(Publisher(time.time_ns() // 1_000_000))
    runner = web.AppRunner(hostile.app(), auto_decompress=False, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    world = World(directory, f"http://{host}:{port}/", hostile, take)
    hostile.server_ms = lambda: world.now_ms
    try:
        yield world
    finally:
        await world.close()
        await runner.cleanup()


async def until(holds: Callable[[], object], seconds: float = 10.0) -> bool:
    """Wait until something holds; say whether it did in time."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > seconds:
            return False
        await asyncio.sleep(0.005)
    return True
