"""A disk that fills up, a file that somebody holds or that cannot be opened: the app decides all the same."""

from __future__ import annotations

import sqlite3
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gateway.client import Limits

if TYPE_CHECKING:
    from tests.integration.client.conftest import World

SIGNALS = {"battery": 0.5, "charging": 1.0}
# The other process of these tests never lets go while it is waited for.
HASTY = Limits(jitter_seconds=0.0, busy_seconds=0.01)


def artifact(score: float, **told: Any) -> bytes:
    return msgspec.json.encode({"score": score, **told})


@pytest.mark.parametrize("point", range(12))
async def test_a_disk_that_fills_up_during_an_update_never_reaches_the_app(world: World, point: int) -> None:
    world.offer(17, [world.publisher.release(42, artifact(0.8))], 42)
    client = await world.open()
    client.predict("upsell", SIGNALS)
    storage = client._storage
    with storage.transaction() as tx:
        pages = tx.execute("PRAGMA page_count").fetchone()[0]
    storage._connection.execute(f"PRAGMA max_page_count = {pages + point}")
    for _ in range(40):
        made = client.predict("upsell", SIGNALS)
        client.outcome(made.id, "upsell", "purchased", 1.0)
        await client.flush()
        world.clock.turn(3601)
    assert client.predict("upsell", SIGNALS).release in (1, 42)
    storage._connection.execute("PRAGMA max_page_count = 1000000")
    for _ in range(3):
        world.clock.turn(100_000)
        await client.flush()
    assert client.status().models["upsell"].release == 42
    ledger = client.ledger
    stored = sum(len(batch.events) for batch in world.gateway.stored.values())
    assert ledger.produced == stored + client.status().queued_events + sum(ledger.dropped.values())


def _lock(file: sqlite3.Connection, told: dict[str, Any]) -> None:
    file.execute("BEGIN IMMEDIATE")


async def test_a_proven_release_that_cannot_be_recorded_is_not_used_until_it_can(world: World) -> None:
    world.offer(17, [world.publisher.release(42, artifact(0.8))], 42)
    client = await world.open(limits=HASTY)
    other = sqlite3.connect(world.directory / "device.db", isolation_level=None, check_same_thread=False)
    world.runtime.on_load = partial(_lock, other)
    await client.flush()
    assert client.predict("upsell", SIGNALS).release == 1
    other.execute("ROLLBACK")
    other.close()
    world.runtime.on_load = lambda told: None
    world.clock.turn(61)
    await client.flush()
    assert client.predict("upsell", SIGNALS).release == 42


async def test_records_that_fail_again_and_again_are_not_held_against_the_release(world: World) -> None:
    world.offer(17, [world.publisher.release(42, artifact(0.8))], 42)
    client = await world.open(limits=HASTY)
    for _ in range(5):
        other = sqlite3.connect(world.directory / "device.db", isolation_level=None, check_same_thread=False)
        world.runtime.on_load = partial(_lock, other)
        await client.flush()
        assert client.predict("upsell", SIGNALS).release == 1
        other.close()
        world.clock.turn(61)
    world.runtime.on_load = lambda told: None
    await client.flush()
    assert client.predict("upsell", SIGNALS).release == 42
    assert "quarantined" not in [step[0] for step in world.gateway.steps(42)]


async def test_a_directory_that_cannot_be_written_still_decides_and_sends_nothing(world: World) -> None:
    world.directory.parent.mkdir(parents=True, exist_ok=True)
    world.directory.write_text("a file where the directory should be")
    client = await world.open()
    assert client.predict("upsell", SIGNALS).release == 1
    assert await client.flush() == "no_storage"
    assert world.gateway.batches == []


async def test_a_file_that_cannot_be_opened_leaves_a_device_without_an_identity_that_sends_nothing(
    world: World,
) -> None:
    (world.directory / "device.db").mkdir(parents=True)
    client = await world.open()
    assert client.predict("upsell", SIGNALS).release == 1
    assert await client.flush() == "no_storage"
    assert world.gateway.batches == []


async def test_a_launch_before_the_first_unlock_takes_up_its_identity_events_wait_and_release_when_it_may(
    world: World,
) -> None:
    data = world.offer_42()
    async with world.client() as client:
        await client.flush()
        client.predict("upsell", SIGNALS)
        world.gateway.answers.append(world.gateway.problem(503, "unavailable", **{"Retry-After": "600"}))
        assert await client.flush() == "kept"
        device = client.status().device
    sent = len(world.gateway.bodies)
    (world.directory / "device.db").rename(world.directory / "away")
    (world.directory / "device.db").mkdir()
    client = await world.open()
    made = client.predict("upsell", SIGNALS)
    assert (made.id, made.release) == (-1, 1)
    assert await client.flush() == "no_storage"
    (world.directory / "device.db").rmdir()
    (world.directory / "away").rename(world.directory / "device.db")
    client.outcome(made.id, "upsell", "purchased", 1.0)
    world.clock.turn(31)
    assert await client.flush() == "waiting", "as it was told by Retry-After"
    assert world.runs(client) == (42, "ota", 42)
    world.clock.turn(600)
    assert await client.flush() == "sent"
    assert {batch.device for batch in world.gateway.batches} == {device}
    assert len(world.gateway.bodies) > sent
    found = [(event["id"], event["release"], event.get("outcome")) for event in world.gateway.events("prediction")]
    assert found == [(1, 42, None), (2, 1, "purchased")]
    assert world.gateway.fetches == [(f"/artifacts/{world.publisher.put(data)}", "")]


async def test_what_only_memory_holds_is_written_at_the_close(world: World) -> None:
    (world.directory / "device.db").mkdir(parents=True)
    async with world.client() as client:
        client.predict("upsell", SIGNALS)
        (world.directory / "device.db").rmdir()
    assert (await world.open()).ledger.produced == 1


async def test_an_artifact_that_cannot_be_stored_is_not_used(world: World) -> None:
    world.offer(17, [world.publisher.release(42, artifact(0.8))], 42)
    client = await world.open()
    (world.directory / "models").write_text("in the way")
    await client.flush()
    assert client.predict("upsell", SIGNALS).release == 1
    world.clock.turn(61)
    (world.directory / "models").unlink()
    await client.flush()
    assert client.predict("upsell", SIGNALS).release == 42
    world.clock.turn(61)
    await client.flush()
    assert ("failed", "disk_full") in world.gateway.steps(42)


async def test_a_release_that_waits_for_a_disk_that_takes_its_mark_says_so_once_in_a_launch(world: World) -> None:
    world.offer_42()
    async with world.client() as client:
        await client.flush()
    (world.directory / "tries").rename(world.directory / "away")
    (world.directory / "tries").write_text("in the way")
    async with world.client() as client:
        assert world.runs(client) == (1, "bundled", "bundled")
        for _ in range(3):
            said = await world.steps(client)
        assert world.runs(client) == (1, "bundled", "bundled")
    assert said[said.index((42, "activated", "")) + 1 :] == [(42, "failed", "not_marked")]
    (world.directory / "tries").unlink()
    client = await world.open()
    assert world.runs(client) == (42, "ota", 42)
