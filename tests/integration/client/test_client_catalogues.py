"""Which catalogues a device believes, and what they can make it stop."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from schemas.wire import Ledger

if TYPE_CHECKING:
    from tests.integration.client.conftest import World

SIGNALS = {"battery": 0.5, "charging": 1.0}
DAY_SECONDS = 86_400


@pytest.mark.parametrize(("floor", "detail"), [(43, "below_floor"), (0, "not_listed")])
async def test_a_revoked_release_stops_at_once_and_for_good(world: World, floor: int, detail: str) -> None:
    old, new = world.publisher.release(41, world.artifact(0.7)), world.publisher.release(42, world.artifact(0.8))
    async with world.client() as client:
        world.offer(17, [old, new], 41)
        await client.flush()
        world.gateway.use["upsell"] = 42
        await client.flush()
        world.offer(18, [new] if floor else [old], 42, floor=floor)
        await client.flush()
        assert world.runs(client)[0] == (1 if floor else 41)
        assert client.predict("upsell", SIGNALS).release == (1 if floor else 41)
        assert (42, "reverted", detail) in await world.steps(client)
    client = await world.open()
    assert world.runs(client)[0] == (1 if floor else 41)
    names = {file.name for file in (world.directory / "models").glob("*")}
    assert names == (set() if floor else {old.sha256})


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"number": 16}, "stale"),
        ({"floor": 40}, "floor_lowered"),
        ({"app": "other"}, "wrong_app"),
        ({"model": "other"}, "wrong_model"),
    ],
)
async def test_a_catalogue_that_does_not_hold_changes_nothing(world: World, changes: dict[str, Any], code: str) -> None:
    good, evil = world.publisher.release(42, world.artifact(0.8)), world.publisher.release(50, world.artifact(0.9))
    client = await world.open()
    world.offer(17, [good], 42, floor=41)
    await client.flush()
    bad = {"number": 18, "floor": 41, "releases": [evil], **changes}
    world.gateway.answers = [_with_catalogue(world, world.publisher.news(**bad), 50)]
    await client.flush()
    assert world.runs(client) == (42, "ota", 42)
    found = await world.steps(client)
    assert (0, "failed", f"catalogue_{code}") in found
    assert (50, "failed", "not_listed") in found


def _with_catalogue(world: World, news: Any, use: Any) -> Any:
    """Answer once with this catalogue, whatever the device has."""

    def answer(batch: Any) -> web.StreamResponse:
        world.gateway.stored[batch.batch] = batch
        body = msgspec.json.encode(
            {
                "batch": batch.batch,
                "accepted": len(batch.events),
                "server_time": world.clock.now_ms(),
                "flush": world.gateway.flush,
                "use": {"upsell": use, "unknown": 3},
                "catalogues": {"upsell": news, "unknown": news},
            }
        )
        return web.Response(body=body)

    return answer


async def test_what_another_process_learns_is_revoked_during_a_download_is_not_installed(world: World) -> None:
    data = world.offer_42()
    one, two = await world.open(), await world.open()
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slowly(request: web.Request) -> web.Response:
        asked.set()
        await go_on.wait()
        return web.Response(body=data)

    world.gateway.serve_artifact = slowly
    flush = asyncio.create_task(one.flush())
    await asked.wait()
    world.offer(18, [], "bundled", floor=43)
    assert await two.flush() == "sent"
    go_on.set()
    await flush
    assert world.runs(one) == (1, "bundled", "bundled")
    assert not list((world.directory / "models").glob("*"))


async def test_a_catalogue_signed_by_a_stranger_is_reported_and_ignored(world: World) -> None:
    news = world.publisher.news(17, [world.publisher.release(42, world.artifact(0.8))])
    for code, signature in (
        ("bad_signature", msgspec.structs.replace(news.signatures[0], sig=bytes(64))),
        ("unknown_key", msgspec.structs.replace(news.signatures[0], key="0" * 16)),
    ):
        world.gateway.answers = [_with_catalogue(world, msgspec.structs.replace(news, signatures=[signature]), 42)]
        client = await world.open()
        await client.flush()
        assert (0, "failed", f"catalogue_{code}") in await world.steps(client)
        await client.close()
    assert world.gateway.fetches == []


@pytest.mark.parametrize("floor", [0, 42])
async def test_what_a_catalogue_revokes_stays_revoked_when_it_has_expired(world: World, floor: int) -> None:
    old, new = world.publisher.release(41, world.artifact(0.7)), world.publisher.release(42, world.artifact(0.8))
    newer = world.publisher.release(43, world.artifact(0.9))
    async with world.client() as client:
        world.offer(17, [old], 41)
        await client.flush()
        world.offer(18, [old, new, newer] if floor else [new, newer], 43, floor=floor, expires_at=1)
        await client.flush()
        assert world.runs(client) == (1, "bundled", "bundled")
        found = await world.steps(client)
    assert (41, "reverted", "below_floor" if floor else "not_listed") in found
    assert {(0, "failed", "catalogue_expired"), (43, "failed", "catalogue_expired")} <= set(found)
    client = await world.open()
    assert world.runs(client) == (1, "bundled", "bundled")
    await client.flush()
    assert world.gateway.batches[-1].have["upsell"].catalogue == 18, "an older one would be refused from now on"
    world.offer(19, [new, newer], 43, floor=floor)
    await client.flush()
    assert world.runs(client) == (43, "ota", 43)


async def test_an_expired_catalogue_installs_nothing_new_and_stops_nothing(world: World) -> None:
    old, new = world.publisher.release(41, world.artifact(0.7)), world.publisher.release(42, world.artifact(0.8))
    async with world.client() as client:
        world.offer(17, [old, new], 41, expires_at=world.clock.now_ms() + 1000)
        await client.flush()
    world.clock.turn(2)
    client = await world.open()
    world.gateway.use["upsell"] = 42
    await client.flush()
    assert world.runs(client) == (41, "ota", 41)
    assert (42, "failed", "catalogue_expired") in await world.steps(client)


async def test_a_device_clock_years_ahead_does_not_shut_updates_out(world: World) -> None:
    world.clock.wall_ms += 5 * 365 * DAY_SECONDS * 1000
    world.offer_42()
    client = await world.open()
    await client.flush()
    assert world.runs(client)[0] == 42


async def test_a_key_that_the_app_no_longer_trusts_takes_its_catalogue_with_it(world: World) -> None:
    world.offer_42()
    async with world.client() as client:
        await client.flush()
    world.publisher.key = Ed25519PrivateKey.generate()
    world.gateway.catalogues.clear()
    world.gateway.use.clear()
    client = await world.open()
    assert world.runs(client) == (1, "bundled", "bundled")
    await client.flush()
    assert world.gateway.batches[-1].have["upsell"].catalogue == 0, "asks for a catalogue it can read"


async def test_a_downgrade_of_the_sdk_forgets_no_floor(world: World) -> None:
    old = world.publisher.release(42, world.artifact(0.8))
    world.offer(17, [old, world.publisher.release(43, world.artifact(0.7))], 43, floor=43)
    async with world.client() as newer:
        await newer.flush()
        newer.predict("upsell", SIGNALS)
        before = newer.status()
        assert world.runs(newer) == (43, "ota", 43)
    with sqlite3.connect(world.directory / "device.db") as file:
        file.execute("PRAGMA user_version = 99")
    file.close()
    client = await world.open()
    assert client.status().device != before.device
    assert client.ledger == Ledger(before.queued_events, {"storage_lost": before.queued_events})
    assert world.runs(client) == (43, "ota", 43)
    world.offer(16, [old], 42)  # a catalogue of before, sent again
    world.clock.turn(DAY_SECONDS)
    await client.flush()
    assert world.runs(client) == (43, "ota", 43)
