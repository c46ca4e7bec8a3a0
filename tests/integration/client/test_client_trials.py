"""What keeps a device from running a release that does not work on it, and what answers instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.client import Bundled
from schemas.releases import Parameters, Probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.client.conftest import World

SIGNALS = {"battery": 0.5, "charging": 1.0}
DAY_SECONDS = 86_400


@pytest.mark.parametrize(
    ("told", "changes", "code"),
    [
        ({"load": "bad"}, {}, "bad_model"),
        ({"load": "raises"}, {}, "bad_model"),
        ({"inputs": 3}, {}, "input_shape"),
        ({"labels": []}, {}, "label_missing"),
        ({}, {"probe": [Probe([0.5, 1.0], {"Purchased": 0.80502})]}, "probe_mismatch"),
        ({}, {"probe": [Probe([0.5, 1.0], {"Other": 0.8})]}, "probe_mismatch"),
        ({"predict": "raises"}, {}, "probe_mismatch"),
        ({"predict": "nan"}, {}, "probe_mismatch"),
    ],
    ids=["bad", "raises", "shape", "labels", "2e-5 off", "label unknown", "probe raises", "probe nan"],
)
async def test_a_release_that_fails_its_trial_is_never_used_nor_tried_again(
    world: World, told: dict[str, Any], changes: dict[str, Any], code: str
) -> None:
    world.offer_42(world.artifact(0.8, **told), **changes)
    client = await world.open()
    await client.flush()
    assert world.runs(client) == (1, "bundled", "bundled")
    world.clock.turn(90 * DAY_SECONDS)
    world.clock.wall_ms -= 89 * DAY_SECONDS * 1000
    assert (await world.steps(client))[-1] == (42, "failed", code)
    assert len(world.gateway.fetches) == 1
    assert not list((world.directory / "models").glob("*"))


async def test_a_probe_within_tolerance_passes(world: World) -> None:
    world.offer_42(probe=[Probe([0.5, 1.0], {"Purchased": 0.805009})])
    client = await world.open()
    await client.flush()
    assert world.runs(client)[0] == 42


async def test_another_system_version_gives_a_failed_release_a_new_chance(world: World) -> None:
    world.offer_42(world.artifact(0.8))
    world.runtime.on_load = lambda told: (_ for _ in ()).throw(RuntimeError) if told["score"] == 0.8 else None
    async with world.client(os="iOS 19.0") as client:
        await client.flush()
        assert world.runs(client)[0] == 1
    world.runtime.on_load = lambda told: None
    async with world.client(os="iOS 19.0") as client:
        await client.flush()
        assert world.runs(client)[0] == 1
    async with world.client(os="iOS 19.1") as client:
        await client.flush()
        assert world.runs(client)[0] == 42


def _failing(times: int, score: float = 0.8) -> Callable[[dict[str, Any]], None]:
    """Return what makes the runtime fail so many times at a model that answers so."""
    left = iter([None] * times)

    def on_load(told: dict[str, Any]) -> None:
        if told["score"] == score and next(left, 0) is None:
            raise RuntimeError("as told")

    return on_load


async def test_every_launch_builds_and_proves_anew_so_that_a_system_update_leaves_nothing_stale(world: World) -> None:
    world.offer_42()
    for system in ("iOS 19.0", "iOS 19.1"):
        async with world.client(os=system) as client:
            await client.flush()
            assert world.runs(client) == (42, "ota", 42)
    assert world.runtime.loads == [0.2, 0.8, 0.8], "built from the kept artifact at each launch"
    assert len(world.gateway.fetches) == 1


async def test_a_release_that_answers_otherwise_after_a_system_update_gives_way_and_comes_back(world: World) -> None:
    data = world.offer_42()
    async with world.client(os="iOS 19.0") as client:
        await client.flush()
    world.runtime.on_load = lambda told: told.update(score=0.81) if told["score"] == 0.8 else None
    async with world.client(os="iOS 19.1") as client:
        assert world.runs(client) == (1, "bundled", "bundled")
        await client.flush()
        assert world.gateway.steps(42)[-1] == ("quarantined", "probe_mismatch")
        assert world.runs(client)[0] == 1, "not tried again on the same system"
    world.runtime.on_load = lambda told: None
    world.gateway.inline = {world.publisher.put(data): data}
    async with world.client(os="iOS 19.2") as client:
        await client.flush()
        assert world.runs(client) == (42, "ota", 42)


async def test_an_active_release_whose_build_fails_once_is_built_again(world: World) -> None:
    world.offer_42()
    async with world.client() as client:
        await client.flush()
    world.runtime.on_load = _failing(1)
    client = await world.open()
    assert world.runs(client) == (42, "ota", 42)
    assert (await world.steps(client))[-2:] == [(42, "activated", ""), (42, "verified", "rebuilt_bad_model")]


async def test_an_active_release_that_cannot_be_built_is_left_alone_for_a_while_only(world: World) -> None:
    world.offer_42()
    async with world.client() as client:
        await client.flush()
    world.runtime.on_load = _failing(2)
    async with world.client() as client:
        assert world.runs(client) == (1, "bundled", "bundled")
        await client.flush()
        assert world.gateway.steps(42)[-1] == ("quarantined", "bad_model")
    world.clock.turn(DAY_SECONDS + 1)
    client = await world.open()
    await client.flush()
    assert world.runs(client) == (42, "ota", 42)


async def test_a_bundle_that_cannot_be_built_is_tried_again_at_every_launch(world: World) -> None:
    world.runtime.on_load = _failing(6, score=0.2)
    for _ in range(3):
        async with world.client() as client:
            assert world.runs(client) == (0, "none", "none")
    client = await world.open()
    assert world.runs(client) == (1, "bundled", "bundled")
    assert await world.steps(client) == [(1, "failed", "bad_model")] * 3


@pytest.mark.parametrize("way", ["failed", "raises", "nan"])
async def test_a_prediction_that_fails_is_answered_by_the_previous_release_in_the_same_call(
    world: World, way: str
) -> None:
    old, new = world.publisher.release(41, world.artifact(0.7)), world.publisher.release(42, world.artifact(0.8))
    world.offer(17, [old, new], 41)
    async with world.client() as client:
        await client.flush()
        world.gateway.use["upsell"] = 42
        await client.flush()
        slot = client._slots["upsell"]
        assert slot.running.model is not None
        slot.running.model._told["predict"] = way  # type: ignore[attr-defined]
        made = client.predict("upsell", SIGNALS)
        assert (made.release, made.source) == (41, "previous")
        assert made.score == pytest.approx(0.705)
        await client.flush()
        assert world.gateway.steps(42)[-1] == ("quarantined", "predict_failed")
        assert world.runs(client) == (41, "previous", 41), "not tried again while in quarantine"
    async with world.client() as client:
        assert world.runs(client) == (41, "previous", 41)
    world.clock.turn(DAY_SECONDS + 1)
    client = await world.open()
    await client.flush()
    assert world.runs(client) == (42, "ota", 42), "quarantine ends"


async def test_a_bundle_that_cannot_answer_says_no_and_is_asked_again(world: World) -> None:
    client = await world.open()
    slot = client._slots["upsell"]
    assert slot.running.model is not None
    slot.running.model._told["predict"] = "raises"  # type: ignore[attr-defined]
    made = client.predict("upsell", SIGNALS)
    assert (made.release, made.source, made.decision, made.score) == (0, "none", False, 0.0)
    slot.running.model._told["predict"] = "ok"  # type: ignore[attr-defined]
    assert client.predict("upsell", SIGNALS).release == 1
    assert (1, "failed", "predict_failed") in await world.steps(client)


async def test_a_broken_bundle_leaves_an_app_that_answers_no(world: World) -> None:
    world.bundle = Bundled(1, b"no model", Parameters(), ["battery", "charging"])
    client = await world.open()
    made = client.predict("upsell", SIGNALS)
    assert (made.release, made.source, made.decision) == (0, "none", False)
    world.offer_42()
    await client.flush()
    assert world.runs(client) == (42, "ota", 42)
