"""Run the campaign and print what came of it: `make crashes`, a few minutes.

* The last line is the verdict, and the exit code says the same: 0 passed, 1 failed, 2 not possible here.
* `--write` keeps the table in `results`, under the day.
"""

import asyncio
import math
import random
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Final

from tests.crashes import operations, place, points
from tests.crashes.points import Point
from tests.crashes.table import Tried, table

RESULTS: Final = Path(__file__).parent / "results"
_IMPOSSIBLE: Final = 2


def main() -> int:
    """Try every point, two at a time."""
    parser = ArgumentParser(prog="python -m tests.crashes", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="try every so many-th change of an update")
    parser.add_argument("--again", type=int, default=16, help="try the recovery after every so many-th change")
    parser.add_argument("--then", type=int, default=16, help="and there every so many-th change")
    parser.add_argument("--places", type=int, default=2, help="how many devices at once")
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no point after so long; the table says so")
    parser.add_argument("--write", action="store_true", help="keep the table in the tree")
    return asyncio.run(_run(parser.parse_args()))


async def _run(told: Namespace) -> int:
    with TemporaryDirectory() as scratch:
        library, why = operations.library(Path(scratch))
        if library is None:
            sys.stderr.write(f"nothing was tried: {why}\n")
            return _IMPOSSIBLE
        began = monotonic()
        async with AsyncExitStack() as stack:
            places = [await stack.enter_async_context(place.opened(library)) for _ in range(told.places)]
            planned = await plan(places[0], told.every, told.again, told.then)
            tried = await try_all(places, planned, began + told.seconds)
    lines = table(tried, len(planned), round(monotonic() - began))
    text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if told.write:
        _write(text)
    return 0 if lines[-1].startswith("PASSED") else 1


def _write(text: str) -> None:
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{datetime.now(UTC):%Y-%m-%d}.txt").write_text(text)


async def plan(at: place.Place, every: int, again: int, then: int) -> list[Point]:
    """Return what is to be tried, by the changes that an undisturbed update makes; 0 leaves the recovery alone."""
    planned: list[Point] = []
    for update in points.UPDATES:
        operations = await at.operations(update)
        planned += points.once(update, operations, every)
        if again and update is not points.CRASHING:
            planned += points.again(update, operations, again, then)
        elif again:
            planned += points.again(update, operations, 2 * again, then)
    for update, times in [(each, 2) for each in points.PACKED] + [(each, 5) for each in points.TROUBLED]:
        planned += points.once(update, await at.operations(update), times * every)
    ends = [mode for mode in points.MODES if mode.ends]
    # How many changes each of two processes makes depends on who comes first: one that sends and installs makes all.
    planned += points.once(points.SHARED, await at.operations(points.UPDATE), every, ends)
    random.Random(1).shuffle(planned)  # noqa: S311 - a run that is cut short has then seen some of everything
    return planned


async def try_all(places: Sequence[place.Place], planned: Sequence[Point], until: float = math.inf) -> list[Tried]:
    """Try the points at all places at once, until that time at most; tell of what fails as it fails."""
    left, tried = iter(planned), list[Tried]()

    async def work(at: place.Place) -> None:
        while monotonic() < until and (point := next(left, None)) is not None:
            story = await at.tell(point)
            tried.append(Tried.of(story))
            for check in tried[-1].wrong:
                sys.stderr.write(f"{point.name}: {check.rule}: {check.wrong}\n")

    async with asyncio.TaskGroup() as group:
        for each in places:
            group.create_task(work(each))
    return tried


if __name__ == "__main__":
    sys.exit(main())
