"""What a device does to get an artifact's bytes, and which bytes it never keeps."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from aiohttp import web

from gateway.client import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.client.conftest import World

DAY_SECONDS = 86_400


async def test_bytes_in_the_reply_save_the_request(world: World) -> None:
    data = world.offer_42()
    world.gateway.inline = {world.publisher.put(data): data}
    client = await world.open()
    await client.flush()
    assert world.runs(client)[0] == 42
    assert world.gateway.fetches == []
    assert (await world.steps(client))[1] == (42, "downloaded", "")


async def test_wrong_bytes_in_the_reply_are_not_believed(world: World) -> None:
    data = world.offer_42()
    world.gateway.inline = {world.publisher.put(data): world.artifact(0.9)}
    client = await world.open()
    await client.flush()
    assert world.runs(client)[0] == 42
    assert len(world.gateway.fetches) == 1


async def test_the_smaller_download_is_taken_and_the_whole_one_is_the_fallback(world: World) -> None:
    world.offer_42(world.artifact(0.8, pad="x" * 5000), packed=True)
    entry = msgspec.json.decode(world.gateway.catalogues["upsell"].document)["releases"][0]
    packed = entry["downloads"][1]["path"].rpartition("/")[2]
    client = await world.open()
    await client.flush()
    assert [path.rpartition("/")[2] for path, _ in world.gateway.fetches] == [packed]
    assert world.runs(client)[0] == 42


async def test_a_download_that_cannot_be_unpacked_falls_back_to_the_whole_one(world: World) -> None:
    world.offer_42(world.artifact(0.8, pad="x" * 5000), packed=True)
    entry = msgspec.json.decode(world.gateway.catalogues["upsell"].document)["releases"][0]
    world.publisher.artifacts[entry["downloads"][1]["path"].rpartition("/")[2]] = b"not xz"
    client = await world.open()
    await client.flush()
    assert world.runs(client)[0] == 42
    assert len(world.gateway.fetches) == 2


async def test_a_way_that_wants_more_memory_than_the_app_allows_gives_way_to_the_whole_file(world: World) -> None:
    world.offer_42(world.artifact(0.8, pad="x" * 5000), packed=True)
    client = await world.open(limits=Limits(xz_memory_bytes=1000))
    await client.flush()
    assert world.runs(client)[0] == 42
    assert len(world.gateway.fetches) == 2


async def test_downloads_are_found_relative_to_the_base_url(world: World) -> None:
    world.offer(17, [world.publisher.release(42, world.artifact(0.8))], 42, base_url=f"{world.url}cdn/")
    client = await world.open()
    await client.flush()
    assert world.runs(client)[0] == 42
    assert world.gateway.fetches[0][0].startswith("/cdn/artifacts/")


@pytest.mark.parametrize("base_url", ["file:///etc/", "ftp://example.invalid/", "gopher:x"])
async def test_only_http_is_followed(world: World, base_url: str) -> None:
    world.offer(17, [world.publisher.release(42, world.artifact(0.8))], 42, base_url=base_url)
    client = await world.open()
    await client.flush()
    assert (42, "failed", "insecure_url") in await world.steps(client)


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
    data = world.offer_42()
    world.gateway.serve_artifact = serve(world, data)
    client = await world.open()
    await client.flush()
    assert world.runs(client) == (1, "bundled", "bundled")
    assert not list((world.directory / "models").glob("*"))
    assert not [part for part in (world.directory / "parts").glob("*") if part.stat().st_size]
    await client.flush()
    fetches = len(world.gateway.fetches)
    assert fetches == 1, "asked again before the pause was over"
    assert world.gateway.steps() == [(42, "offered", ""), (42, "failed", code)]
    world.gateway.serve_artifact = None
    world.clock.turn(61)
    await client.flush()
    assert world.runs(client) == (42, "ota", 42)


async def test_wrong_bytes_are_asked_for_six_times_and_then_no_more(world: World) -> None:
    data = world.offer_42()
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
    data = world.offer_42(world.artifact(0.8, pad="x" * 300_000))
    world.gateway.serve_artifact = _cut_after(200_000, data, '"v1"')
    async with world.client() as client:
        await client.flush()
        assert world.runs(client)[0] == 1
    world.gateway.serve_artifact = None
    world.clock.turn(61)
    client = await world.open()
    await client.flush()
    assert world.runs(client)[0] == 42
    asked = world.gateway.fetches[1][1]
    assert 0 < int(asked.removeprefix("bytes=").rstrip("-")) <= 200_000
    assert (42, "failed", "network") in await world.steps(client)
    assert not list((world.directory / "parts").glob("*")), "swept once activated"


@pytest.mark.parametrize("tag", ['"v0"', 'W/"v1"', ""], ids=["changed", "weak", "none"])
async def test_a_download_that_cannot_safely_go_on_begins_again(world: World, tag: str) -> None:
    data = world.offer_42(world.artifact(0.8, pad="x" * 300_000))
    world.gateway.serve_artifact = _cut_after(200_000, b"y" * len(data), tag)
    client = await world.open()
    await client.flush()
    world.gateway.serve_artifact = None
    world.clock.turn(61)
    await client.flush()
    assert world.runs(client)[0] == 42
    asked = [range_ for _, range_ in world.gateway.fetches]
    assert bool(asked[1]) == tag.startswith('"'), "only a strong tag can vouch for the rest"


@pytest.mark.parametrize("damage", ["missing", "changed"])
async def test_an_artifact_that_is_gone_or_changed_is_fetched_again(world: World, damage: str) -> None:
    world.offer_42()
    async with world.client() as client:
        await client.flush()
    [file] = (world.directory / "models").glob("*")
    file.unlink() if damage == "missing" else file.write_bytes(world.artifact(0.9))
    client = await world.open()
    assert world.runs(client) == (1, "bundled", "bundled")
    assert (42, "failed", "artifact_missing") in await world.steps(client)
    assert world.runs(client) == (42, "ota", 42)
    assert len(world.gateway.fetches) == 2
