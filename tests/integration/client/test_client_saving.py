"""What a device leaves undone while power is low or the network expensive, and that it is done afterwards."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec
import pytest

from gateway.client import Limits

if TYPE_CHECKING:
    from tests.integration.client.conftest import World

SIGNALS = {"battery": 0.5, "charging": 1.0}
LIMITS = Limits(jitter_seconds=0.0, expensive_download_bytes=20_000)
# As hexadecimal text it packs to half.
NOISE = random.Random(4).randbytes(12_000).hex()  # noqa: S311 - a seeded draw, no secret


async def test_with_low_power_only_the_background_flushes(world: World) -> None:
    client = await world.open()
    client.low_power(True)
    await client.foreground()
    for _ in range(60):
        client.predict("upsell", SIGNALS)
    world.clock.turn(400)
    await world.settle()
    assert world.gateway.bodies == [], "neither the launch, nor the count, nor the age"
    await client.background()
    assert [len(batch.events) for batch in world.gateway.batches] == [60]


async def test_what_became_due_with_low_power_is_flushed_when_that_is_over(world: World) -> None:
    client = await world.open()
    client.low_power(True)
    client.predict("upsell", SIGNALS)
    world.clock.turn(400)
    await world.settle()
    assert world.gateway.bodies == []
    client.low_power(False)
    await world.settle()
    assert len(world.gateway.events("prediction")) == 1


async def test_with_low_power_the_app_may_still_flush_itself(world: World) -> None:
    client = await world.open()
    client.low_power(True)
    client.predict("upsell", SIGNALS)
    assert await client.flush() == "sent"


async def test_an_expensive_network_flushes_as_ever(world: World) -> None:
    client = await world.open()
    client.expensive_network(True)
    await client.foreground()
    for _ in range(50):
        client.predict("upsell", SIGNALS)
    await world.settle()
    assert [len(batch.events) for batch in world.gateway.batches] == [0, 50]


@pytest.mark.parametrize("hook", ["expensive_network", "low_power"])
async def test_a_large_download_waits_for_better_times_without_being_held_against_the_release(
    world: World, hook: str
) -> None:
    world.offer_42(world.artifact(0.8, pad=NOISE))
    client = world.client(limits=LIMITS)
    getattr(client, hook)(True)  # the app may know before it opens the client
    async with client:
        for _ in range(3):
            await client.flush()
        assert world.gateway.fetches == []
        assert world.runs(client) == (1, "bundled", "bundled")
        getattr(client, hook)(False)
        await client.flush()
        assert world.runs(client) == (42, "ota", 42)
        steps = [(state, detail) for _, state, detail in await world.steps(client)]
    assert steps == [("offered", ""), ("failed", "deferred"), ("downloaded", ""), ("verified", ""), ("activated", "")]


async def test_a_small_way_to_a_large_release_is_taken_on_an_expensive_network(world: World) -> None:
    world.offer_42(world.artifact(0.8, pad=NOISE), packed=True)
    client = await world.open(limits=LIMITS)
    client.expensive_network(True)
    await client.flush()
    assert world.runs(client)[0] == 42
    assert len(world.gateway.fetches) == 1


async def test_a_small_way_that_fails_does_not_lead_to_the_large_one_on_an_expensive_network(world: World) -> None:
    world.offer_42(world.artifact(0.8, pad=NOISE), packed=True)
    entry = msgspec.json.decode(world.gateway.catalogues["upsell"].document)["releases"][0]
    world.publisher.artifacts[entry["downloads"][1]["path"].rpartition("/")[2]] = b"not xz"
    client = await world.open(limits=LIMITS)
    client.expensive_network(True)
    await client.flush()
    await client.flush()
    assert len(world.gateway.fetches) == 1, "and it is not asked for again before the pause is over"
    client.expensive_network(False)
    world.clock.turn(61)
    await client.flush()
    assert world.runs(client)[0] == 42


async def test_an_urgent_release_is_downloaded_however_expensive(world: World) -> None:
    world.offer_42(world.artifact(0.8, pad=NOISE), urgent=True)
    client = await world.open(limits=LIMITS)
    client.expensive_network(True)
    client.low_power(True)
    await client.flush()
    assert world.runs(client) == (42, "ota", 42)


async def test_bytes_that_come_with_the_reply_cost_no_download(world: World) -> None:
    data = world.offer_42(world.artifact(0.8, pad=NOISE))
    world.gateway.inline = {world.publisher.put(data): data}
    client = await world.open(limits=LIMITS)
    client.expensive_network(True)
    await client.flush()
    assert world.runs(client)[0] == 42
