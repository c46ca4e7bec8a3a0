"""What a device sends, and when."""

from __future__ import annotations

import asyncio
import gzip
from typing import TYPE_CHECKING

import msgspec
import pytest

from gateway.client import Bundled, Limits
from schemas.releases import Parameters

if TYPE_CHECKING:
    from tests.integration.client.conftest import World

SIGNALS = {"battery": 0.5, "charging": 1.0}
DAY_SECONDS = 86_400


async def test_a_batch_carries_what_the_contract_says(world: World) -> None:
    client = await world.open(app_version="5.1.0", os="iOS 19.1", hardware="iPhone15,3", locale="de_AT")
    made = client.predict("upsell", {"battery": 0.5, "unknown": 3.0})
    assert await client.flush() == "sent"
    [batch] = world.gateway.batches
    assert (batch.seq, batch.sdk, batch.app_version, batch.locale) == (1, "2.3.0", "5.1.0", "de_AT")
    assert batch.device == client.status().device
    assert msgspec.to_builtins(batch.have) == {"upsell": {"catalogue": 0, "use": "bundled"}}
    assert batch.signals == {"upsell": ["battery", "charging"]}
    assert (batch.ledger.produced, batch.ledger.dropped) == (1, {})
    [event] = world.gateway.events("prediction")
    assert event["id"] == made.id == 1
    assert event["signals"] == [0.5, None]
    assert (event["release"], event["source"], event["decision"]) == (1, "bundled", False)
    assert event["score"] == pytest.approx(0.205)
    assert client.status().queued_events == 0


async def test_a_score_is_decided_with_whole_and_recorded_in_six_digits(world: World) -> None:
    client = await world.open()
    made = client.predict("upsell", {"battery": 1 / 3})
    await client.flush()
    [event] = world.gateway.events("prediction")
    assert made.score != event["score"] == round(made.score, 6)


async def test_an_outcome_rides_in_its_prediction_while_that_waits_and_alone_after(world: World) -> None:
    client = await world.open()
    first, second = client.predict("upsell", SIGNALS), client.predict("upsell", SIGNALS)
    client.outcome(first.id, "upsell", "purchased", 1.5)
    await client.flush()
    client.outcome(second.id, "upsell", "dismissed")
    await client.flush()
    known, open_ = world.gateway.events("prediction")
    assert (known["outcome"], known["value"]) == ("purchased", 1.5)
    assert "outcome" not in open_
    [late] = world.gateway.events("outcome")
    assert (late["id"], late["outcome"]) == (second.id, "dismissed")
    assert client.ledger.produced == 3


async def test_an_outcome_of_a_prediction_in_flight_is_sent_alone(world: World) -> None:
    client = await world.open()
    made = client.predict("upsell", SIGNALS)

    async def decide_now() -> None:
        client.outcome(made.id, "upsell", "purchased", 1.0)

    world.gateway.before_answer = decide_now
    await client.flush()
    world.gateway.before_answer = None
    await client.flush()
    assert "outcome" not in world.gateway.events("prediction")[0]
    assert world.gateway.events("outcome")[0]["id"] == made.id


async def test_a_flush_comes_by_count(world: World) -> None:
    client = await world.open()
    for _ in range(49):
        client.predict("upsell", SIGNALS)
    await world.settle()
    assert world.gateway.batches == []
    client.predict("upsell", SIGNALS)
    await world.settle()
    assert [len(batch.events) for batch in world.gateway.batches] == [50]


async def test_the_first_policy_is_the_apps_to_set(world: World) -> None:
    client = await world.open(limits=Limits(first_flush_events=2, jitter_seconds=0.0))
    client.predict("upsell", SIGNALS)
    await world.settle()
    assert world.gateway.batches == []
    client.predict("upsell", SIGNALS)
    await world.settle()
    assert [len(batch.events) for batch in world.gateway.batches] == [2]


async def test_a_flush_comes_by_age_whatever_the_wall_clock_does(world: World) -> None:
    client = await world.open()
    client.predict("upsell", SIGNALS)
    await world.settle()
    world.clock.wall_ms += 10**10
    world.clock.turn(299)
    await world.settle()
    assert world.gateway.batches == []
    world.clock.turn(1)
    await world.settle()
    assert len(world.gateway.batches) == 1
    assert client.status().queued_events == 0


async def test_devices_woken_together_do_not_call_together(world: World) -> None:
    client = await world.open(limits=Limits(jitter_seconds=10.0))
    launch = asyncio.ensure_future(client.foreground())
    await world.settle()
    assert world.gateway.batches == [], "whoever is woken by a push waits for its own moment first"
    world.clock.turn(10)
    await launch
    assert len(world.gateway.batches) == 1


async def test_devices_that_began_together_do_not_flush_together(world: World) -> None:
    client = await world.open(limits=Limits(jitter_seconds=10.0))
    client.predict("upsell", SIGNALS)
    await world.settle()
    world.clock.turn(300)
    await world.settle()
    assert world.gateway.batches == [], "at the age of the policy and something more"
    world.clock.turn(10)
    await world.settle()
    assert len(world.gateway.batches) == 1


async def test_the_policy_of_the_last_reply_rules_also_after_a_restart(world: World) -> None:
    world.gateway.flush = msgspec.structs.replace(world.gateway.flush, events=2, seconds=10, lease_seconds=60)
    async with world.client() as client:
        await client.flush()
    client = await world.open()
    client.predict("upsell", SIGNALS)
    client.predict("upsell", SIGNALS)
    await world.settle()
    assert len(world.gateway.batches) == 2


async def test_the_background_flushes_what_waits_and_stops_the_timer(world: World) -> None:
    client = await world.open()
    await client.flush()
    await client.background()
    assert len(world.gateway.batches) == 1
    client.predict("upsell", SIGNALS)
    await client.background()
    assert len(world.gateway.batches) == 2
    client.predict("upsell", SIGNALS)
    world.clock.turn(400)
    await world.settle()
    assert len(world.gateway.batches) == 2


async def test_a_launch_calls_only_when_something_waits_or_the_lease_is_over(world: World) -> None:
    client = await world.open()
    await client.foreground()
    assert len(world.gateway.batches) == 1, "never called before"
    world.clock.turn(21_599)
    await client.foreground()
    assert len(world.gateway.batches) == 1
    world.clock.turn(1)
    await client.foreground()
    assert len(world.gateway.batches) == 2
    client.predict("upsell", SIGNALS)
    await client.foreground()
    assert len(world.gateway.batches) == 3
    world.clock.wall_ms -= 10**9
    await client.foreground()
    assert len(world.gateway.batches) == 4, "a contact in the future tells nothing"


async def test_two_flushes_at_once_send_one_batch(world: World) -> None:
    client = await world.open()
    client.predict("upsell", SIGNALS)
    await asyncio.gather(client.flush(), client.background())
    assert len(world.gateway.events("prediction")) == 1
    assert len({batch.seq for batch in world.gateway.batches}) == len(world.gateway.bodies)


async def test_a_long_queue_goes_in_several_batches_of_one_flush(world: World) -> None:
    client = await world.open(limits=Limits(queue_events=100, batch_events=30, jitter_seconds=0))
    for _ in range(45):
        client.predict("upsell", SIGNALS)
    await client.flush()
    assert [len(batch.events) for batch in world.gateway.batches] == [30, 15]


async def test_events_of_two_app_versions_never_share_a_batch_with_other_signals(world: World) -> None:
    async with world.client() as client:
        client.predict("upsell", SIGNALS)
    names = ["charging", "battery", "hour"]
    newer = Bundled(1, world.bundle.data, Parameters(), ["battery", "charging"], names)
    client = await world.open(bundled={"upsell": newer})
    client.predict("upsell", {**SIGNALS, "hour": 9.0})
    await client.flush()
    assert [batch.signals["upsell"] for batch in world.gateway.batches] == [["battery", "charging"], names]
    assert [event["signals"] for event in world.gateway.events("prediction")] == [[0.5, 1.0], [1.0, 0.5, 9.0]]


async def test_signals_that_are_no_numbers_are_null_and_never_break_the_batch(world: World) -> None:
    client = await world.open()
    client.predict("upsell", {"battery": float("nan"), "charging": float("inf")})
    client.predict("upsell", {"battery": 10**400})
    await client.flush()
    event, huge = world.gateway.events("prediction")
    assert huge["signals"] == [None, None]
    assert event["signals"] == [None, None]
    assert event["score"] == pytest.approx(0.2)


async def test_an_outcome_that_the_wire_cannot_carry_is_the_callers_error(world: World) -> None:
    client = await world.open()
    made = client.predict("upsell", SIGNALS)
    with pytest.raises(ValueError, match="not an outcome"):
        client.outcome(made.id, "upsell", "x" * 65)
    with pytest.raises(ValueError, match="not an outcome"):
        client.outcome(made.id, "upsell", "purchased", float("nan"))
    with pytest.raises(ValueError, match="not an outcome"):
        client.outcome(made.id, "upsell", "")
    with pytest.raises(KeyError):
        client.outcome(made.id, "upsel", "purchased")


async def test_the_body_is_compressed_and_its_header_has_no_time(world: World) -> None:
    client = await world.open()
    for _ in range(20):
        client.predict("upsell", SIGNALS)
    await client.flush()
    body = world.gateway.bodies[0]
    assert body[4:8] == bytes(4)
    assert len(body) < len(gzip.decompress(body)) / 3
