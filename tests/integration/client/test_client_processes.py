"""Two clients on one device: one sends, and what one is told the other obeys."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

if TYPE_CHECKING:
    from tests.integration.client.conftest import World

SIGNALS = {"battery": 0.5, "charging": 1.0}
DAY_SECONDS = 86_400


def artifact(score: float, **told: Any) -> bytes:
    return msgspec.json.encode({"score": score, **told})


async def test_two_processes_share_the_queue_and_one_sends(world: World) -> None:
    world.offer(17, [world.publisher.release(42, artifact(0.8))], 42)
    one, two = await world.open(), await world.open()
    entered, leave = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        entered.set()
        await leave.wait()

    world.gateway.before_answer = hold
    ids = {client.predict("upsell", SIGNALS).id for client in (one, two, one, two)}
    assert ids == {1, 2, 3, 4}
    sending = asyncio.create_task(one.flush())
    await entered.wait()
    assert await two.flush() == "busy"
    two.predict("upsell", SIGNALS)
    leave.set()
    world.gateway.before_answer = None
    assert await sending == "sent"
    world.clock.turn(31)
    assert two.status().models["upsell"].release == 1
    assert await two.flush() == "sent"
    assert two.status().models["upsell"].release == 42, "follows what the other has installed"
    assert sorted(event["id"] for event in world.gateway.events("prediction")) == [1, 2, 3, 4, 5]
    assert len(world.gateway.fetches) == 1
    assert one.ledger == two.ledger


async def test_a_report_of_one_process_leaves_what_another_one_has_written(world: World) -> None:
    world.offer(17, [world.publisher.release(42, artifact(0.8))], 42)
    one = await world.open()
    await one.flush()
    two = await world.open()
    both = [world.publisher.release(42, artifact(0.8)), world.publisher.release(43, artifact(0.9))]
    world.offer(18, both, 43)
    await one.flush()
    assert world.runs(two)[0] == 42, "it may run until the next flush"
    two._slots["upsell"].kept.report(42, "as told")
    world.clock.turn(DAY_SECONDS)
    third = await world.open()
    assert world.runs(third) == (43, "ota", 43)
    await two.flush()
    assert world.runs(two) == (43, "ota", 43)


@pytest.mark.parametrize("by", ["catalogue", "floor", "use"])
async def test_what_another_process_was_told_to_stop_stops_at_the_next_prediction(world: World, by: str) -> None:
    world.offer_42()
    here, beside = await world.open(), await world.open()
    await here.flush()
    await beside.flush()
    assert world.runs(beside) == world.runs(here) == (42, "ota", 42)
    here.low_power(True)  # it flushes no more by itself
    if by == "catalogue":
        world.offer(18, [world.publisher.release(43, artifact(0.9))], "bundled")
    elif by == "floor":
        world.offer(18, [world.publisher.release(42, artifact(0.8))], "bundled", floor=43)
    else:
        world.gateway.use["upsell"] = "none"
    world.clock.turn(DAY_SECONDS)
    await beside.flush()
    found = here.predict("upsell", SIGNALS)
    assert (found.release, found.source) == ((0, "none") if by == "use" else (1, "bundled"))
    assert world.runs(here) == world.runs(beside)


async def test_a_prediction_does_not_wait_for_a_load_of_what_another_process_switched_to(world: World) -> None:
    here, beside = await world.open(), await world.open()
    world.offer_42()
    await beside.flush()
    loads = len(world.runtime.loads)
    assert here.predict("upsell", SIGNALS).release == 1
    assert len(world.runtime.loads) == loads
    loop_thread = threading.get_ident()
    loaded_by = []
    world.runtime.on_load = lambda told: loaded_by.append(threading.get_ident())
    await here.flush()
    assert world.runs(here) == (42, "ota", 42)
    assert len(loaded_by) == 1
    assert loop_thread not in loaded_by
