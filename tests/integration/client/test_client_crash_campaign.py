"""A slice of the crash campaign (`make crashes`), and its verdict on what it must not let pass."""

from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path

import msgspec
import pytest

from tests.crashes import operations, place, points
from tests.crashes.__main__ import plan, try_all
from tests.crashes.place import Place
from tests.crashes.points import FULL, INSTALL, KILLED, UPDATE, Fault, Mode, Point
from tests.crashes.table import table, verdict
from tests.crashes.verdict import RULES, Story, judge


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[Place]:
    library, why = operations.library(tmp_path)
    if library is None:
        pytest.skip(why)
    async with place.opened(library) as opened:
        yield opened


async def test_ended_torn_or_refused_at_changes_all_over_an_update_the_client_keeps_all_its_promises(
    device: Place,
) -> None:
    planned = await plan(device, every=1, again=16, then=16)
    every = {*points.UPDATES, *points.PACKED, *points.TROUBLED, points.SHARED}
    assert {point.update for point in planned} == every
    tried = await try_all([device], planned[:40])  # they are shuffled
    assert sum(each.reached for each in tried) > len(tried) * 0.6
    assert [check for each in tried for check in each.wrong] == []
    assert (
        table(tried, len(tried), 0)[-1] == f"PASSED: {len(tried) * len(RULES)} checks at {len(tried)} points, 0 failed"
    )


@pytest.mark.parametrize("first", [FULL, KILLED])
async def test_neither_a_full_disk_nor_kills_around_its_load_take_the_bundled_model_away(
    device: Place, first: Mode
) -> None:
    # In the first start and in the one after it: from the file that was just opened to the first prediction's event.
    around = product(range(46, 54, 2), range(13, 25, 2))
    tried = await try_all([device], [Point(INSTALL, (Fault(first, at), Fault(KILLED, then))) for at, then in around])
    assert [check for each in tried for check in each.wrong] == []


async def test_the_verdict_sees_what_was_planted(device: Place) -> None:
    story = await device.tell(Point(UPDATE, (Fault(KILLED, 60),)))
    assert story.reached
    assert wrong(story) == set()
    assert "no recorded event is lost" in wrong(story._replace(stored=story.stored[:-1]))
    assert "the ledger adds up" in wrong(story._replace(stored=story.stored[:-1]))
    again = msgspec.structs.replace(story.stored[-1], batch="another")
    assert "no event arrives twice" in wrong(story._replace(stored=[*story.stored, again]))
    assert "nothing is left behind" in wrong(story._replace(files=["models/1.new"]))
    elsewhere = UPDATE._replace(offered=43)
    assert "the new release is reached" in wrong(story._replace(point=Point(elsewhere, story.point.faults)))
    assert "no launch ends but by the fault" in wrong(story._replace(fresh=story.faulted))
    assert "a fresh start has a model" in wrong(story._replace(fresh=story.faulted[:0]))
    stranger = story.before[0]
    stranger = msgspec.structs.replace(stranger, said=[said | {"score": 0.9} for said in stranger.said])
    assert "what answers is vouched for" in wrong(story._replace(before=[stranger]))


def wrong(story: Story) -> set[str]:
    return {check.rule for check in judge(story) if check.wrong}


def test_a_campaign_that_reached_nothing_proves_nothing() -> None:
    assert verdict([]) == "FAILED: 0 checks at 0 points, 0 failed"
