"""How a device comes to run another release, and what keeps it from running a wrong one."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.client import Bundled
from schemas.releases import Parameters, Probe

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.client import Client
    from tests.integration.client.conftest import World

SIGNALS = {"battery": 0.5, "charging": 1.0}
DAY_SECONDS = 86_400


def artifact(score: float, **told: Any) -> bytes:
    return msgspec.json.encode({"score": score, **told})


def runs(client: Client) -> tuple[int, str, object]:
    status = client.status().models["upsell"]
    return status.release, status.source, status.use


def offer_42(world: World, data: bytes | None = None, **changes: Any) -> bytes:
    """Publish release 42 beside 41 and tell every device to use it."""
    data = artifact(0.8) if data is None else data
    world.offer(17, [world.publisher.release(42, data, **changes)], 42)
    return data


async def steps(world: World, client: Client) -> list[tuple[Any, ...]]:
    """Flush what the device has to say and return all that the gateway was told."""
    world.clock.turn(5000)
    await client.flush()
    return world.gateway.steps()


async def test_a_release_is_fetched_proven_and_used_in_the_same_session(world: World) -> None:
    data = offer_42(world)
    client = await world.open()
    assert runs(client) == (1, "bundled", "bundled")
    await client.flush()
    assert runs(client) == (42, "ota", 42)
    made = client.predict("upsell", SIGNALS)
    assert (made.release, made.source, made.decision) == (42, "ota", True)
    assert await steps(world, client) == [
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
    offer_42(world)
    async with world.client() as client:
        await client.flush()
    client = await world.open()
    assert runs(client) == (42, "ota", 42)
    assert len(world.gateway.fetches) == 1


async def test_bytes_in_the_reply_save_the_request(world: World) -> None:
    data = offer_42(world)
    world.gateway.inline = {world.publisher.put(data): data}
    client = await world.open()
    await client.flush()
    assert runs(client)[0] == 42
    assert world.gateway.fetches == []
    assert (await steps(world, client))[1] == (42, "downloaded", "")


async def test_wrong_bytes_in_the_reply_are_not_believed(world: World) -> None:
    data = offer_42(world)
    world.gateway.inline = {world.publisher.put(data): artifact(0.9)}
    client = await world.open()
    await client.flush()
    assert runs(client)[0] == 42
    assert len(world.gateway.fetches) == 1


async def test_the_smaller_download_is_taken_and_the_whole_one_is_the_fallback(world: World) -> None:
    offer_42(world, artifact(0.8, pad="x" * 5000), packed=True)
    entry = msgspec.json.decode(world.gateway.catalogues["upsell"].document)["releases"][0]
    packed = entry["downloads"][1]["path"].rpartition("/")[2]
    client = await world.open()
    await client.flush()
    assert [path.rpartition("/")[2] for path, _ in world.gateway.fetches] == [packed]
    assert runs(client)[0] == 42


async def test_a_download_that_cannot_be_unpacked_falls_back_to_the_whole_one(world: World) -> None:
    offer_42(world, artifact(0.8, pad="x" * 5000), packed=True)
    entry = msgspec.json.decode(world.gateway.catalogues["upsell"].document)["releases"][0]
    world.publisher.artifacts[entry["downloads"][1]["path"].rpartition("/")[2]] = b"not xz"
    client = await world.open()
    await client.flush()
    assert runs(client)[0] == 42
    assert len(world.gateway.fetches) == 2


async def test_downloads_are_found_relative_to_the_base_url(world: World) -> None:
    world.offer(17, [world.publisher.release(42, artifact(0.8))], 42, base_url=f"{world.url}cdn/")
    client = await world.open()
    await client.flush()
    assert runs(client)[0] == 42
    assert world.gateway.fetches[0][0].startswith("/cdn/artifacts/")


@pytest.mark.parametrize("base_url", ["file:///etc/", "ftp://example.invalid/", "gopher:x"])
async def test_only_http_is_followed(world: World, base_url: str) -> None:
    world.offer(17, [world.publisher.release(42, artifact(0.8))], 42, base_url=base_url)
    client = await world.open()
    await client.flush()
    assert (42, "failed", "insecure_url") in await steps(world, client)


def _status(number: int) -> Callable[[World, bytes], Callable[[web.Request], Any]]:
    async def serve(request: web.Request, data: bytes) -> web.Response:
        return web.Response(status=number, body=data)

    return lambda world, data: lambda request: serve(request, data)


def _body(change: Callable[[bytes], bytes]) -> Callable[[World, bytes], Callable[[web.Request], Any]]:
    async def serve(request: web.Request, data: bytes) -> web.Response:
        return web.Response(body=change(data))

    return lambda world, data: lambda request: serve(request, data)


@pytest.mark.parametrize(
    ("serve", "code"),
    [
        (_status(404), "http_status"),
        (_status(206), "http_status"),
        (_status(500), "http_status"),
        (_body(lambda data: data + b"x"), "too_big"),
        (_body(lambda data: data * 100_000), "too_big"),
        (_body(lambda data: data[:-1]), "size_mismatch"),
        (_body(lambda data: data[:-1] + b" "), "sha256_mismatch"),
        (_body(lambda data: b"<html>"), "size_mismatch"),
    ],
    ids=["404 with a body", "206 unasked", "500", "one byte more", "much more", "one less", "other", "portal"],
)
async def test_what_is_not_the_signed_artifact_is_never_kept(
    world: World, serve: Callable[[World, bytes], Callable[[web.Request], Any]], code: str
) -> None:
    data = offer_42(world)
    world.gateway.serve_artifact = serve(world, data)
    client = await world.open()
    await client.flush()
    assert runs(client) == (1, "bundled", "bundled")
    assert not list((world.directory / "models").glob("*"))
    assert not [part for part in (world.directory / "parts").glob("*") if part.stat().st_size]
    await client.flush()
    fetches = len(world.gateway.fetches)
    assert fetches == 1, "asked again before the pause was over"
    assert world.gateway.steps() == [(42, "offered", ""), (42, "failed", code)]
    world.gateway.serve_artifact = None
    world.clock.turn(61)
    await client.flush()
    assert runs(client) == (42, "ota", 42)


async def test_wrong_bytes_are_asked_for_six_times_and_then_no_more(world: World) -> None:
    data = offer_42(world)
    world.gateway.serve_artifact = _body(lambda data: data[:-1] + b" ")(world, data)
    client = await world.open()
    await client.background()
    for _ in range(12):
        world.clock.turn(DAY_SECONDS)
        await client.flush()
    assert len(world.gateway.fetches) == 6


def _cut_after(size: int, data: bytes, tag: str) -> Callable[[web.Request], Any]:
    """Serve the first bytes, then lose the connection."""

    async def serve(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": tag, "Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[:size])
        await asyncio.sleep(0.05)
        assert request.transport is not None
        request.transport.close()
        return response

    return serve


async def test_an_interrupted_download_goes_on_where_it_stopped(world: World) -> None:
    data = offer_42(world, artifact(0.8, pad="x" * 300_000))
    world.gateway.serve_artifact = _cut_after(200_000, data, '"v1"')
    async with world.client() as client:
        await client.flush()
        assert runs(client)[0] == 1
    world.gateway.serve_artifact = None
    world.clock.turn(61)
    client = await world.open()
    await client.flush()
    assert runs(client)[0] == 42
    asked = world.gateway.fetches[1][1]
    assert 0 < int(asked.removeprefix("bytes=").rstrip("-")) <= 200_000
    assert (42, "failed", "network") in await steps(world, client)
    assert not list((world.directory / "parts").glob("*")), "swept once activated"


@pytest.mark.parametrize("tag", ['"v0"', 'W/"v1"', ""], ids=["changed", "weak", "none"])
async def test_a_download_that_cannot_safely_go_on_begins_again(world: World, tag: str) -> None:
    data = offer_42(world, artifact(0.8, pad="x" * 300_000))
    world.gateway.serve_artifact = _cut_after(200_000, b"y" * len(data), tag)
    client = await world.open()
    await client.flush()
    world.gateway.serve_artifact = None
    world.clock.turn(61)
    await client.flush()
    assert runs(client)[0] == 42
    asked = [range_ for _, range_ in world.gateway.fetches]
    assert bool(asked[1]) == tag.startswith('"'), "only a strong tag can vouch for the rest"


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
    offer_42(world, artifact(0.8, **told), **changes)
    client = await world.open()
    await client.flush()
    assert runs(client) == (1, "bundled", "bundled")
    world.clock.turn(90 * DAY_SECONDS)
    world.clock.wall_ms -= 89 * DAY_SECONDS * 1000
    assert (await steps(world, client))[-1] == (42, "failed", code)
    assert len(world.gateway.fetches) == 1
    assert not list((world.directory / "models").glob("*"))


async def test_a_probe_within_tolerance_passes(world: World) -> None:
    offer_42(world, probe=[Probe([0.5, 1.0], {"Purchased": 0.805009})])
    client = await world.open()
    await client.flush()
    assert runs(client)[0] == 42


async def test_another_system_version_gives_a_failed_release_a_new_chance(world: World) -> None:
    offer_42(world, artifact(0.8))
    world.runtime.on_load = lambda told: (_ for _ in ()).throw(RuntimeError) if told["score"] == 0.8 else None
    async with world.client(os="iOS 19.0") as client:
        await client.flush()
        assert runs(client)[0] == 1
    world.runtime.on_load = lambda told: None
    async with world.client(os="iOS 19.0") as client:
        await client.flush()
        assert runs(client)[0] == 1
    async with world.client(os="iOS 19.1") as client:
        await client.flush()
        assert runs(client)[0] == 42


async def test_a_release_that_this_app_cannot_run_is_refused_and_said_once(world: World) -> None:
    entries: dict[str, dict[str, Any]] = {
        "sdk_unsupported": {"sdk": ">=3"},
        "format_unsupported": {"format": "onnx"},
        "inputs_unsupported": {"inputs": ["battery", "heart_rate"]},
    }
    client = await world.open()
    for number, (code, changes) in enumerate(entries.items()):
        world.offer(17 + number, [world.publisher.release(42 + number, artifact(0.8), **changes)], 42 + number)
        await client.flush()
        await client.flush()
        assert world.gateway.steps(42 + number) == [("failed", code)]
    assert world.gateway.fetches == []


async def test_a_use_that_the_catalogue_does_not_list_is_not_obeyed(world: World) -> None:
    client = await world.open()
    world.gateway.use = {"upsell": 42}
    await client.flush()
    await client.flush()
    assert world.gateway.steps() == [(42, "failed", "not_listed")]
    world.offer(17, [world.publisher.release(42, artifact(0.8))], 42, floor=43)
    await client.flush()
    assert runs(client) == (1, "bundled", "bundled")


async def test_the_app_gets_the_previous_release_back_without_a_download(world: World) -> None:
    old, new = world.publisher.release(41, artifact(0.7)), world.publisher.release(42, artifact(0.8))
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
    assert runs(client) == (41, "ota", 41)
    assert len(world.gateway.fetches) == 2
    assert (await steps(world, client))[-2:] == [(42, "reverted", "told_41"), (41, "activated", "")]
    assert {file.name for file in (world.directory / "models").glob("*")} == {old.sha256, new.sha256}


@pytest.mark.parametrize("told", ["bundled", "none"])
async def test_the_gateway_can_hold_a_device_on_the_bundle_or_on_nothing(world: World, told: str) -> None:
    offer_42(world)
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
    assert runs(client)[2] == told
    assert (42, "reverted", f"told_{told}") in await steps(world, client)
    world.gateway.use["upsell"] = 42
    await client.flush()
    assert runs(client) == (42, "ota", 42)
    assert len(world.gateway.fetches) == 1, "coming back costs no download"


@pytest.mark.parametrize(("floor", "detail"), [(43, "below_floor"), (0, "not_listed")])
async def test_a_revoked_release_stops_at_once_and_for_good(world: World, floor: int, detail: str) -> None:
    old, new = world.publisher.release(41, artifact(0.7)), world.publisher.release(42, artifact(0.8))
    async with world.client() as client:
        world.offer(17, [old, new], 41)
        await client.flush()
        world.gateway.use["upsell"] = 42
        await client.flush()
        world.offer(18, [new] if floor else [old], 42, floor=floor)
        await client.flush()
        assert runs(client)[0] == (1 if floor else 41)
        assert client.predict("upsell", SIGNALS).release == (1 if floor else 41)
        assert (42, "reverted", detail) in await steps(world, client)
    client = await world.open()
    assert runs(client)[0] == (1 if floor else 41)
    names = {file.name for file in (world.directory / "models").glob("*")}
    assert names == (set() if floor else {old.sha256})


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"number": 16}, "stale"),
        ({"floor": 40}, "floor_lowered"),
        ({"expires_at": 1}, "expired"),
        ({"app": "other"}, "wrong_app"),
        ({"model": "other"}, "wrong_model"),
    ],
)
async def test_a_catalogue_that_does_not_hold_changes_nothing(world: World, changes: dict[str, Any], code: str) -> None:
    good, evil = world.publisher.release(42, artifact(0.8)), world.publisher.release(50, artifact(0.9))
    client = await world.open()
    world.offer(17, [good], 42, floor=41)
    await client.flush()
    bad = {"number": 18, "floor": 41, "releases": [evil], **changes}
    world.gateway.answers = [_with_catalogue(world, world.publisher.news(**bad), 50)]
    await client.flush()
    assert runs(client) == (42, "ota", 42)
    found = await steps(world, client)
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


async def test_a_catalogue_signed_by_a_stranger_is_reported_and_ignored(world: World) -> None:
    news = world.publisher.news(17, [world.publisher.release(42, artifact(0.8))])
    for code, signature in (
        ("bad_signature", msgspec.structs.replace(news.signatures[0], sig=bytes(64))),
        ("unknown_key", msgspec.structs.replace(news.signatures[0], key="0" * 16)),
    ):
        world.gateway.answers = [_with_catalogue(world, msgspec.structs.replace(news, signatures=[signature]), 42)]
        client = await world.open()
        await client.flush()
        assert (0, "failed", f"catalogue_{code}") in await steps(world, client)
        await client.close()
    assert world.gateway.fetches == []


async def test_an_expired_catalogue_installs_nothing_new_and_stops_nothing(world: World) -> None:
    old, new = world.publisher.release(41, artifact(0.7)), world.publisher.release(42, artifact(0.8))
    async with world.client() as client:
        world.offer(17, [old, new], 41, expires_at=world.clock.now_ms() + 1000)
        await client.flush()
    world.clock.turn(2)
    client = await world.open()
    world.gateway.use["upsell"] = 42
    await client.flush()
    assert runs(client) == (41, "ota", 41)
    assert (42, "failed", "catalogue_expired") in await steps(world, client)


async def test_a_device_clock_years_ahead_does_not_shut_updates_out(world: World) -> None:
    world.clock.wall_ms += 5 * 365 * DAY_SECONDS * 1000
    offer_42(world)
    client = await world.open()
    await client.flush()
    assert runs(client)[0] == 42


async def test_the_bundle_under_its_own_number_needs_no_download_and_takes_the_signed_terms(world: World) -> None:
    entry = world.publisher.release(1, artifact(0.2), parameters=Parameters(threshold=0.1))
    world.offer(17, [entry], 1)
    async with world.client() as client:
        assert not client.predict("upsell", SIGNALS).decision
        await client.flush()
        assert runs(client) == (1, "bundled", 1)
        assert client.predict("upsell", SIGNALS).decision
        await client.flush()
    assert msgspec.to_builtins(world.gateway.batches[-1].have["upsell"])["use"] == 1
    client = await world.open()
    assert runs(client) == (1, "bundled", 1)
    assert client.predict("upsell", SIGNALS).decision
    assert world.gateway.fetches == []


async def test_an_app_update_with_a_newer_bundle_wins_over_an_older_download(world: World) -> None:
    offer_42(world)
    async with world.client() as client:
        await client.flush()
        assert runs(client)[0] == 42
    newer = {"upsell": Bundled(50, artifact(0.3), Parameters(), ["battery", "charging"])}
    async with world.client(bundled=newer) as client:
        assert runs(client) == (50, "bundled", "bundled")
        await client.flush()
        assert runs(client) == (42, "ota", 42), "the gateway says otherwise"
    client = await world.open(bundled=newer)
    assert runs(client) == (42, "ota", 42)


async def test_an_sdk_downgrade_drops_what_it_cannot_run(world: World) -> None:
    offer_42(world, sdk=">=2.3")
    async with world.client() as client:
        await client.flush()
        assert runs(client)[0] == 42
    client = await world.open(sdk="2.2.9")
    assert runs(client) == (1, "bundled", "bundled")
    assert (42, "failed", "sdk_unsupported") in await steps(world, client)


async def test_a_key_that_the_app_no_longer_trusts_takes_its_catalogue_with_it(world: World) -> None:
    offer_42(world)
    async with world.client() as client:
        await client.flush()
    world.publisher.key = Ed25519PrivateKey.generate()
    world.gateway.catalogues.clear()
    world.gateway.use.clear()
    client = await world.open()
    assert runs(client) == (1, "bundled", "bundled")
    await client.flush()
    assert world.gateway.batches[-1].have["upsell"].catalogue == 0, "asks for a catalogue it can read"


@pytest.mark.parametrize("damage", ["missing", "changed"])
async def test_an_artifact_that_is_gone_or_changed_is_fetched_again(world: World, damage: str) -> None:
    offer_42(world)
    async with world.client() as client:
        await client.flush()
    [file] = (world.directory / "models").glob("*")
    file.unlink() if damage == "missing" else file.write_bytes(artifact(0.9))
    client = await world.open()
    assert runs(client) == (1, "bundled", "bundled")
    assert (42, "failed", "artifact_missing") in await steps(world, client)
    assert runs(client) == (42, "ota", 42)
    assert len(world.gateway.fetches) == 2


@pytest.mark.parametrize("way", ["failed", "raises", "nan"])
async def test_a_prediction_that_fails_is_answered_by_the_previous_release_in_the_same_call(
    world: World, way: str
) -> None:
    old, new = world.publisher.release(41, artifact(0.7)), world.publisher.release(42, artifact(0.8))
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
        assert runs(client) == (41, "previous", 41), "not tried again while in quarantine"
    async with world.client() as client:
        assert runs(client) == (41, "previous", 41)
    world.clock.turn(DAY_SECONDS + 1)
    client = await world.open()
    await client.flush()
    assert runs(client) == (42, "ota", 42), "quarantine ends"


async def test_a_bundle_that_cannot_answer_says_no_and_is_asked_again(world: World) -> None:
    client = await world.open()
    slot = client._slots["upsell"]
    assert slot.running.model is not None
    slot.running.model._told["predict"] = "raises"  # type: ignore[attr-defined]
    made = client.predict("upsell", SIGNALS)
    assert (made.release, made.source, made.decision, made.score) == (0, "none", False, 0.0)
    slot.running.model._told["predict"] = "ok"  # type: ignore[attr-defined]
    assert client.predict("upsell", SIGNALS).release == 1
    assert (1, "failed", "predict_failed") in await steps(world, client)


async def test_a_broken_bundle_leaves_an_app_that_answers_no(world: World) -> None:
    world.bundle = Bundled(1, b"no model", Parameters(), ["battery", "charging"])
    client = await world.open()
    made = client.predict("upsell", SIGNALS)
    assert (made.release, made.source, made.decision) == (0, "none", False)
    offer_42(world)
    await client.flush()
    assert runs(client) == (42, "ota", 42)


async def test_exploration_says_so_and_states_the_chance_of_what_was_decided(world: World) -> None:
    world.bundle = Bundled(1, artifact(0.8), Parameters(threshold=0.5, explore=0.4), ["battery", "charging"])
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
    data = artifact(0.8)
    client = await world.open()
    world.offer(17, [world.publisher.release(42, data)], 42)
    await client.flush()
    assert client.predict("upsell", SIGNALS).decision
    world.offer(18, [world.publisher.release(42, data, parameters=Parameters(threshold=0.9))], 42)
    await client.flush()
    assert not client.predict("upsell", SIGNALS).decision
    assert len(world.gateway.fetches) == 1
