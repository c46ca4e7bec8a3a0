"""How a device comes to run another release, and how it goes back."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gateway.client import Bundled
from schemas.releases import Parameters

if TYPE_CHECKING:
    from tests.integration.client.conftest import World

SIGNALS = {"battery": 0.5, "charging": 1.0}


async def test_a_release_is_fetched_proven_and_used_in_the_same_session(world: World) -> None:
    data = world.offer_42()
    client = await world.open()
    assert world.runs(client) == (1, "bundled", "bundled")
    await client.flush()
    assert world.runs(client) == (42, "ota", 42)
    made = client.predict("upsell", SIGNALS)
    assert (made.release, made.source, made.decision) == (42, "ota", True)
    assert await world.steps(client) == [
        (42, "offered", ""),
        (42, "downloaded", ""),
        (42, "verified", ""),
        (42, "activated", ""),
    ]
    assert world.gateway.events("model")[1]["bytes"] == len(data)
    assert msgspec.to_builtins(world.gateway.batches[-1].have["upsell"]) == {"catalogue": 17, "use": 42}
    await client.flush()
    assert len(world.gateway.fetches) == 1


async def test_the_release_is_there_at_the_next_launch_without_network(world: World) -> None:
    world.offer_42()
    async with world.client() as client:
        await client.flush()
    client = await world.open()
    assert world.runs(client) == (42, "ota", 42)
    assert len(world.gateway.fetches) == 1


async def test_a_release_that_this_app_cannot_run_is_refused_and_said_once(world: World) -> None:
    entries: dict[str, dict[str, Any]] = {
        "sdk_unsupported": {"sdk": ">=3"},
        "format_unsupported": {"format": "onnx"},
        "inputs_unsupported": {"inputs": ["battery", "heart_rate"]},
        "os_unsupported": {"os": "iOS >=18"},
    }
    client = await world.open(os="iOS 17.7")
    for number, (code, changes) in enumerate(entries.items()):
        world.offer(17 + number, [world.publisher.release(42 + number, world.artifact(0.8), **changes)], 42 + number)
        await client.flush()
        await client.flush()
        assert world.gateway.steps(42 + number) == [("failed", code)]
    assert world.gateway.fetches == []


async def test_a_release_that_asks_something_of_another_system_runs(world: World) -> None:
    world.offer_42(os="iOS >=18")
    client = await world.open(os="Linux 6.8")
    await client.flush()
    assert world.runs(client) == (42, "ota", 42)


async def test_a_use_that_the_catalogue_does_not_list_is_not_obeyed(world: World) -> None:
    client = await world.open()
    world.gateway.use = {"upsell": 42}
    await client.flush()
    await client.flush()
    assert world.gateway.steps() == [(42, "failed", "not_listed")]
    world.offer(17, [world.publisher.release(42, world.artifact(0.8))], 42, floor=43)
    await client.flush()
    assert world.runs(client) == (1, "bundled", "bundled")


async def test_the_app_gets_the_previous_release_back_without_a_download(world: World) -> None:
    old, new = world.publisher.release(41, world.artifact(0.7)), world.publisher.release(42, world.artifact(0.8))
    client = await world.open()
    world.offer(17, [old, new], 41)
    await client.flush()
    world.gateway.use["upsell"] = 42
    await client.flush()
    await client.flush()
    assert msgspec.to_builtins(world.gateway.batches[-1].have["upsell"]) == {
        "catalogue": 17,
        "use": 42,
        "previous": 41,
    }
    world.gateway.use["upsell"] = 41
    await client.flush()
    assert world.runs(client) == (41, "ota", 41)
    assert len(world.gateway.fetches) == 2
    assert (await world.steps(client))[-2:] == [(42, "reverted", "told_41"), (41, "activated", "")]
    assert {file.name for file in (world.directory / "models").glob("*")} == {old.sha256, new.sha256}


@pytest.mark.parametrize("told", ["bundled", "none"])
async def test_the_gateway_can_hold_a_device_on_the_bundle_or_on_nothing(world: World, told: str) -> None:
    world.offer_42()
    async with world.client() as client:
        await client.flush()
        world.gateway.use["upsell"] = told  # type: ignore[assignment]
        await client.flush()
        made = client.predict("upsell", {"battery": 40.0})
        if told == "bundled":
            assert (made.release, made.source, made.decision) == (1, "bundled", True)
        else:
            assert (made.release, made.source, made.decision, made.score) == (0, "none", False, 0.0)
    client = await world.open()
    assert world.runs(client)[2] == told
    assert (42, "reverted", f"told_{told}") in await world.steps(client)
    world.gateway.use["upsell"] = 42
    await client.flush()
    assert world.runs(client) == (42, "ota", 42)
    assert len(world.gateway.fetches) == 1, "coming back costs no download"


async def test_the_bundle_under_its_own_number_needs_no_download_and_takes_the_signed_terms(world: World) -> None:
    entry = world.publisher.release(1, world.artifact(0.2), parameters=Parameters(threshold=0.1))
    world.offer(17, [entry], 1)
    async with world.client() as client:
        assert not client.predict("upsell", SIGNALS).decision
        await client.flush()
        assert world.runs(client) == (1, "bundled", 1)
        assert client.predict("upsell", SIGNALS).decision
        await client.flush()
    assert msgspec.to_builtins(world.gateway.batches[-1].have["upsell"])["use"] == 1
    client = await world.open()
    assert world.runs(client) == (1, "bundled", 1)
    assert client.predict("upsell", SIGNALS).decision
    assert world.gateway.fetches == []


async def test_an_app_update_with_a_newer_bundle_wins_over_an_older_download(world: World) -> None:
    world.offer_42()
    async with world.client() as client:
        await client.flush()
        assert world.runs(client)[0] == 42
    newer = {"upsell": Bundled(50, world.artifact(0.3), Parameters(), ["battery", "charging"])}
    async with world.client(bundled=newer) as client:
        assert world.runs(client) == (50, "bundled", "bundled")
        await client.flush()
        assert world.runs(client) == (42, "ota", 42), "the gateway says otherwise"
    client = await world.open(bundled=newer)
    assert world.runs(client) == (42, "ota", 42)


async def test_an_sdk_downgrade_drops_what_it_cannot_run(world: World) -> None:
    world.offer_42(sdk=">=2.3")
    async with world.client() as client:
        await client.flush()
        assert world.runs(client)[0] == 42
    client = await world.open(sdk="2.2.9")
    assert world.runs(client) == (1, "bundled", "bundled")
    assert (42, "failed", "sdk_unsupported") in await world.steps(client)


async def test_exploration_says_so_and_states_the_chance_of_what_was_decided(world: World) -> None:
    world.bundle = Bundled(1, world.artifact(0.8), Parameters(threshold=0.5, explore=0.4), ["battery", "charging"])
    client = await world.open(dice=random.Random(5))  # noqa: S311 - a seeded draw, no secret
    made = [client.predict("upsell", SIGNALS) for _ in range(400)]
    await client.flush()
    explored = [one for one in made if one.explored]
    assert 120 < len(explored) < 200
    assert 50 < sum(one.decision for one in explored) < 110
    assert all(one.decision for one in made if not one.explored)
    for event in world.gateway.events("prediction"):
        assert event["propensity"] == pytest.approx(0.8 if event["decision"] else 0.2)


async def test_a_catalogue_that_changes_only_the_terms_changes_them_at_once(world: World) -> None:
    data = world.artifact(0.8)
    client = await world.open()
    world.offer(17, [world.publisher.release(42, data)], 42)
    await client.flush()
    assert client.predict("upsell", SIGNALS).decision
    world.offer(18, [world.publisher.release(42, data, parameters=Parameters(threshold=0.9))], 42)
    await client.flush()
    assert not client.predict("upsell", SIGNALS).decision
    assert len(world.gateway.fetches) == 1
