"""Rows 13-16, 18, 28 and 29: what is on the device's disk, whoever kills, damages, moves, locks or shares it."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from aiohttp import web

from gateway.client.conformance.hostile import honest
from gateway.client.conformance.process import step
from gateway.client.conformance.publisher import script
from gateway.client.conformance.results import Failed, Rows, Skipped, require
from gateway.client.conformance.world import World

ROWS: Final = Rows[World]()
_HOUR: Final = 3600.0
_SIZE: Final = 100_000
_KILLS: Final = 8
# Two releases with what was compiled of each, and something else.
_MOST_KEPT: Final = 5
# Below the ten seconds and more after which clients give up waiting for a network; on a slow machine, so many times
# what the same takes with a network.
_FIRST_SECONDS, _SLOWER = 8.0, 5.0


@ROWS.row(13, "killed between any two file operations: the old or the new model answers, it converges, nothing leaks")
async def survives_kills(w: World) -> None:
    """The copied sample, killed between two moves, runs the bundle or the old model from then on."""
    await w.launch()
    await w.install(41)
    listed, running = [w.publisher.release(41)], 41
    for change in range(1, _KILLS + 1):
        number = 42 + change % 2
        target = w.publisher.release(number, script(number, size=_SIZE + change))
        w.offer(1 + change, *listed, target)
        await _killed(w, change)
        await w.launch()
        found = await w.phone.runs()
        when = f"killed at change {change} to its files, in the update from {running} to {number}"
        require(found in (running, number), f"{when}: release {found} answered")
        await w.phone.flush()
        await w.expect(number, when)
        listed, running = [target], number
    await w.phone.flush()
    kept = sum(path.stat().st_size for path in w.holding(b"x" * 4096))
    require(kept < _MOST_KEPT * _SIZE, f"after {_KILLS} kills there are {kept} bytes of models, of {_SIZE} each")


async def _killed(w: World, change: int) -> None:
    """Kill the app at that change to its files in an update; or when it is done, if there are fewer."""
    over = threading.Event()
    stepping = asyncio.create_task(asyncio.to_thread(step, w.phone.process, w.snapshot, change, over))
    flush = w.phone.flushing()
    flush.add_done_callback(lambda _: over.set())
    await stepping
    await w.kill_in(flush)


@ROWS.row(14, "state corrupt: the last good one or the bundle answers, and it converges")
async def survives_damage(w: World) -> None:
    """Flash forgets, and a write is torn where the battery ends."""
    data = script(42)
    for name, damage in _DAMAGES.items():
        await w.launch()
        w.offer(1, w.publisher.release(42, data))
        await w.later(_HOUR)
        await w.phone.flush()
        await w.expect(42, "before the damage")
        await w.kill()
        for path in w.files():
            path.write_bytes(damage(path.read_bytes()))
        await w.launch()
        found = await w.phone.runs()
        require(found in (1, 42), f"with every file {name}, release {found} answered")
        await w.phone.flush()
        await w.expect(42, f"after a flush with every file {name}")
        await w.kill()


_DAMAGES: Final[dict[str, Callable[[bytes], bytes]]] = {
    "overwritten": lambda data: b"\xa5" * len(data),
    "cut in half": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
}


@ROWS.row(
    15, "store purged, backup restored, container moved by an app update: relative names; missing: bundle, refetch"
)
async def survives_moves(w: World) -> None:
    """iOS moves an app's container at every update, and may empty its caches."""
    data = script(42)
    await w.launch()
    await w.install(41)
    w.offer(2, w.publisher.release(41), w.publisher.release(42, data))
    await w.phone.flush()
    await w.expect(42, "before the move")
    fetched = w.gateway.fetched()
    await w.phone.process.call("stop")
    w.move_home()
    await w.launch()
    await w.expect(42, "after the container was moved")
    require(w.gateway.fetched() == fetched, "the move cost a download")

    await w.phone.process.call("stop")
    for path in w.artifact_files(data):
        path.unlink()
    await w.launch()
    require(await w.phone.runs() in (1, 41, 42), "after its file was purged, nothing of the app's answered")
    await w.later(_HOUR)
    await w.phone.flush()
    await w.expect(42, "after its file was purged and fetched again")

    await w.kill()
    for path in w.files():
        path.unlink()
    await w.launch()
    await w.expect(1, "after everything was purged")
    await w.phone.flush()
    await w.expect(42, "after everything was purged and fetched again")


@ROWS.row(16, "before first unlock (file protection): unreadable is not corrupt: bundle for now, nothing is deleted")
async def waits_for_the_unlock(w: World) -> None:
    """A push may start the app before the user unlocks the phone once. (Played with permissions.)"""
    await w.launch(locked=True)
    w.offer(1, w.publisher.release(42))
    await w.phone.flush()
    await w.expect(42, "before the lock")
    for name in ("directory", "files"):
        await w.phone.process.call("stop")
        paths = [w.directory] if name == "directory" else list(w.files())
        modes = {path: path.stat().st_mode for path in paths}
        _lock(paths)
        try:
            await w.launch(locked=True)
            found = await w.phone.runs()
            require(found in (1, 42), f"with the {name} locked, release {found} answered")
            await w.phone.process.call("stop")
        finally:
            for path, mode in modes.items():
                path.chmod(mode)
        fetched = w.gateway.fetched()
        await w.launch(locked=True)
        await w.expect(42, f"after the {name} were unlocked")
        require(w.gateway.fetched() == fetched, "what had been unreadable was fetched again")


def _lock(paths: list[Path]) -> None:
    for path in paths:
        path.chmod(0)


@ROWS.row(18, "several processes or extensions of one app: one updates and sends, the others follow, nobody loses")
async def shares_one_directory(w: World) -> None:
    """In the copied sample two checks at once delete each other's model: none is left."""
    app = await w.launch()
    extension = await w.launch()
    phones = (app, extension)
    w.offer(1, w.publisher.release(42, script(42, size=_SIZE)))
    numbers = [number for phone in phones for number in await phone.decide(3)]
    require(len(set(numbers)) == len(numbers), f"two predictions have one number: {sorted(numbers)}")
    w.gateway.serve = _slowly
    await asyncio.gather(*(phone.flush() for phone in phones))
    fetched = w.gateway.fetched()
    require(fetched == 1, f"the artifact was fetched {fetched} times")
    for _ in range(2):
        for phone in phones:
            await phone.turn(_HOUR)
            await phone.flush()
    for name, phone in zip(("app", "extension"), phones, strict=True):
        found = await phone.runs()
        require(found == 42, f"in the {name} release {found} answered at last, not 42")
    sent = [event["id"] for event in w.gateway.events("prediction")]
    require(sorted(sent) == sorted(numbers), f"predictions {sorted(numbers)} were made, {sorted(sent)} arrived")


async def _slowly(request: web.Request, data: bytes) -> web.Response:
    """Give the other process the time to ask, too."""
    await asyncio.sleep(0.3)
    return await honest(request, data)


@ROWS.row(28, "first launch offline: the bundle at once, no waiting for the network on any path")
async def never_waits(w: World) -> None:
    """The first decision of a new install is the one that a user sees."""

    over = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await over.wait()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        began = time.monotonic()
        await w.launch()
        await w.expect(1, "at a first launch")
        most = max(_FIRST_SECONDS, (time.monotonic() - began) * _SLOWER)
        for name, url in (("nobody listens", "http://127.0.0.1:9/"), ("nobody answers", f"http://127.0.0.1:{port}/")):
            began = time.monotonic()
            await w.launch(url=url)
            await w.expect(1, f"at a first launch where {name}")
            took = time.monotonic() - began
            require(took < most, f"where {name} the first answer took {took:.1f} s")
            flush = w.phone.flushing()
            await asyncio.sleep(0.2)
            began = time.monotonic()
            await w.expect(1, f"in a flush where {name}")
            took = time.monotonic() - began
            require(took < most, f"where {name} a prediction in a flush took {took:.1f} s")
            await w.kill_in(flush)
    finally:
        over.set()
        server.close()
        await server.wait_closed()


@ROWS.row(29, "an artifact damaged at rest is not run after an update of the app or the OS")
async def checks_what_it_kept(w: World) -> None:
    """A damaged model still parses and predicts otherwise."""
    data = script(42)
    await w.launch()
    w.offer(1, w.publisher.release(42, data))
    await w.phone.flush()
    await w.expect(42, "before the damage")
    await w.phone.process.call("stop")
    found = w.artifact_files(data)
    if not found:
        raise Skipped("this client keeps artifacts in a form that cannot be told from outside")
    for path in found:
        path.write_bytes(data.replace(b"0.8", b"0.9"))
    await w.launch(app_version="5.2.0", os="iOS 19.2")
    answered = await w.phone.runs()
    if answered not in (1, 42):
        raise Failed("a model whose bytes were changed on disk answered")
    await w.later(_HOUR)
    await w.phone.flush()
    await w.expect(42, "after it was fetched again")
