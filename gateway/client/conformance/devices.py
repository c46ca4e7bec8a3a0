"""Run the kit's rows against a driver, several at once, each in a world of its own.

* Processes are started ahead of need, so that a row does not wait for an interpreter; one that outlived its row without
  a fault serves the next.
"""

import asyncio
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Final

from gateway.client.conformance import process
from gateway.client.conformance.process import ANSWER_SECONDS, DriverProcess
from gateway.client.conformance.results import Failed, Result, Row, Skipped
from gateway.client.conformance.rows import ROWS
from gateway.client.conformance.world import World, opened

ROW_SECONDS: Final = 240.0
_READY: Final = 3
_LAST_LINES: Final = 3


class Garage:
    """Driver processes that are started before somebody needs them."""

    def __init__(self, command: Sequence[str], log: IO[bytes] | int, ready: int, answer_seconds: float) -> None:
        self._start = partial(process.start, command, log, answer_seconds=answer_seconds)
        self._ready = ready
        self._starting: list[asyncio.Task[DriverProcess]] = []
        self._idle: list[DriverProcess] = []

    async def take(self, locked: bool) -> DriverProcess:
        """Return a fresh process. Raises `Failed` where the command cannot be started."""
        if locked:
            return await self._start(locked=True)
        if self._idle:
            return self._idle.pop()
        while len(self._starting) <= self._ready:
            self._starting.append(asyncio.create_task(self._start()))
        return await self._starting.pop(0)

    def give(self, idle: DriverProcess) -> None:
        """Take back one in which nothing is started."""
        self._idle.append(idle)

    async def close(self) -> None:
        for idle in self._idle:
            await idle.end()
        for task in self._starting:
            with suppress(Failed):
                await (await task).end()


async def judge(
    command: Sequence[str],
    *,
    log: IO[bytes] | int = asyncio.subprocess.DEVNULL,
    only: Iterable[str] = (),
    at_once: int = 4,
    answer_seconds: float = ANSWER_SECONDS,
    watch: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Judge a driver by every row, or by those with these names; in the table's order. It has to answer in time."""
    chosen = set(only)
    rows = [row for row in ROWS.rows if not chosen or row.name in chosen]
    garage, room = Garage(command, log, _READY, answer_seconds), asyncio.Semaphore(at_once)

    async def one(row: Row[World]) -> Result:
        async with room:
            result = await _run(row, garage)
        watch(result)
        return result

    try:
        return list(await asyncio.gather(*map(one, rows)))
    finally:
        await garage.close()


async def greet(command: Sequence[str], answer_seconds: float = ANSWER_SECONDS) -> None:
    """Start the driver and let it predict once: what fails here would fail in every row.

    Raises `Failed` with its last words, `Skipped`.
    """
    with tempfile.TemporaryFile() as words, tempfile.TemporaryDirectory(prefix="backhaul-kit-") as directory:
        garage = Garage(command, words, 0, answer_seconds)
        try:
            async with opened(Path(directory), garage.take) as world:
                await world.launch()
                await world.phone.runs()
        except Failed as failed:
            words.seek(0)
            last = " / ".join(words.read().decode(errors="replace").strip().splitlines()[-_LAST_LINES:])
            raise Failed(f"{failed}; its stderr ends: {last}" if last else str(failed)) from failed
        finally:
            await garage.close()


async def _run(row: Row[World], garage: Garage) -> Result:
    if row.check is None:
        return Result(row.name, row.sentence, "skipped", row.skipped_because)
    with tempfile.TemporaryDirectory(prefix="backhaul-kit-", ignore_cleanup_errors=True) as directory:
        try:
            async with asyncio.timeout(ROW_SECONDS), opened(Path(directory), garage.take) as world:
                await row.check(world)
                if world.gateway.breaches:
                    raise Failed(world.gateway.breaches[0])
                if (idle := await world.idle()) is not None:
                    garage.give(idle)
        except Failed as failed:
            return Result(row.name, row.sentence, "failed", str(failed))
        except Skipped as skipped:
            return Result(row.name, row.sentence, "skipped", str(skipped))
        except TimeoutError:
            return Result(row.name, row.sentence, "failed", f"not done within {ROW_SECONDS:g} s")
        except Exception as error:  # the boundary: what a driver answers may break a row in any way
            return Result(row.name, row.sentence, "failed", f"the row could not go on: {error!r}")
    return Result(row.name, row.sentence, "passed")
