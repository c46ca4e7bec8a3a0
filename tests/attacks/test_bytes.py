"""Attacks on the bytes: endless, oversized, exploding, swapped, patched on the wrong base; and replies of yesterday."""

import asyncio
import gzip
import lzma
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from aiohttp import web

from gateway.client import Client, Limits
from gateway.releases.packing import patched
from schemas.releases import CATALOGUE_CONTEXT, Catalogue, Download
from schemas.wire import Batch, CatalogueNews

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdDict
else:
    from backports.zstd import ZstdDecompressor, ZstdDict

World = Any
Running = Callable[[Client], tuple[str, int]]
Serve = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]
BUNDLED = ("bundled", 1)
OLD: Final = (Path(__file__).resolve().parents[1] / "models" / "upsell-1.mlmodel").read_bytes()
NEW: Final = (Path(__file__).resolve().parents[1] / "models" / "upsell-2.mlmodel").read_bytes()
MIB: Final = 1024 * 1024


async def endless(request: web.Request, data: bytes) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        while True:
            await response.write(b"x" * 65_536)
    except ConnectionError:
        return response


async def oversized(request: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(body=data + b"x")


async def bomb(request: web.Request, data: bytes) -> web.StreamResponse:
    """An xz file no longer than the signed download that unpacks to 64 MiB and more."""
    made = lzma.compress(bytes(8 * MIB))
    assert len(made) <= len(data)
    return web.Response(body=made)


async def swapped(request: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(body=data[::-1])


async def cut(request: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(body=data[: len(data) // 2])


async def compressed_again(request: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(body=gzip.compress(bytes(64 * MIB)), headers={"Content-Encoding": "gzip"})


async def portal(request: web.Request, data: bytes) -> web.StreamResponse:
    return web.Response(text="<html>log in to the hotel</html>", content_type="text/html")


@pytest.mark.parametrize("serve", [endless, oversized, bomb, swapped, cut, compressed_again, portal])
async def test_a_cdn_that_serves_something_else_changes_nothing_but_time(
    world: World, running: Running, serve: Serve
) -> None:
    await world.publisher.publish(1)
    world.offers(await world.publisher.publish(2), 2)
    world.hostile.serve = serve
    device = await world.device()
    async with asyncio.timeout(20):
        await device.flush()
    assert running(device) == BUNDLED
    world.hostile.serve = None
    world.clock.ms += 86_400_000
    await device.flush()
    assert running(device) == ("ota", 2), "and the right bytes are taken later"


async def test_what_a_cdn_explodes_is_never_held_in_memory(world: World, running: Running) -> None:
    await world.publisher.publish(1)
    world.offers(await world.publisher.publish(2), 2)
    device = await world.device()
    world.hostile.serve = compressed_again
    tracemalloc.start()
    await device.flush()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert running(device) == BUNDLED
    assert peak < 100 * MIB, "64 MiB of them are the attacker's own, in this same process"


async def patch_world(world: World, *, base_of_patch: bytes) -> bytes:
    """Offer a release with a patch from the bundle that was really made from `base_of_patch`; return the patch."""
    await world.publisher.publish(1)
    news = await world.publisher.publish(2)
    catalogue = msgspec.json.decode(news.document, type=Catalogue)
    wire = patched(NEW, base_of_patch)
    path = f"artifacts/{sha256(wire).hexdigest()}"
    await world.publisher.store.put_new(path, wire)
    entry = catalogue.releases[0]
    way = Download("zstd-patch", path, len(wire), sha256(OLD).hexdigest())
    listed = msgspec.structs.replace(entry, downloads=[entry.downloads[0], way])
    document = msgspec.json.encode(msgspec.structs.replace(catalogue, releases=[listed, *catalogue.releases[1:]]))
    world.offers(CatalogueNews(document, world.publisher.signed("root1", document, CATALOGUE_CONTEXT)), 2)
    return wire


async def test_a_patch_on_its_base_is_all_that_is_fetched(world: World, running: Running) -> None:
    await patch_world(world, base_of_patch=OLD)
    device = await world.device()
    await device.flush()
    assert running(device) == ("ota", 2)
    assert len(world.hostile.fetched) == 1


async def test_a_patch_that_rides_in_the_reply_needs_no_download_and_a_damaged_one_only_that(
    world: World, running: Running
) -> None:
    wire = await patch_world(world, base_of_patch=OLD)
    for riding, fetched in ((wire, 0), (wire[::-1], 1)):
        world.hostile.inline = {sha256(wire).hexdigest(): riding}
        world.hostile.fetched.clear()
        device = await world.device(directory=world.directory / str(fetched))
        await device.flush()
        assert running(device) == ("ota", 2)
        assert len(world.hostile.fetched) == fetched


async def test_a_patch_on_the_wrong_base_is_found_out_and_the_whole_file_taken(world: World, running: Running) -> None:
    # Of the base's length, so that whatever the patch refers to is there, and is something else.
    other = (NEW + OLD)[: len(OLD)]
    wire = await patch_world(world, base_of_patch=other)
    wrong = ZstdDecompressor(ZstdDict(OLD, is_raw=True).as_prefix).decompress(wire)
    assert len(wrong) == len(NEW), "zstd itself has nothing to say against it"
    assert wrong != NEW
    device = await world.device()
    await device.flush()
    assert running(device) == ("ota", 2)
    assert len(world.hostile.fetched) == 2


async def test_a_patch_that_a_cdn_damages_costs_a_download_and_no_more(world: World, running: Running) -> None:
    wire = await patch_world(world, base_of_patch=OLD)

    async def damage(request: web.Request, data: bytes) -> web.StreamResponse:
        return web.Response(body=data[::-1] if data == wire else data)

    world.hostile.serve = damage
    device = await world.device()
    await device.flush()
    assert running(device) == ("ota", 2)


async def test_a_replayed_reply_is_no_answer(world: World, running: Running) -> None:
    await world.publisher.publish(1)
    world.offers(await world.publisher.publish(2), 2)
    device = await world.device()
    await device.flush()
    yesterday = world.hostile.replies[-1]
    world.offers(await world.publisher.news(), 1)
    await device.flush()
    assert running(device)[1] == 1, "taken back"
    world.hostile.say = lambda batch: yesterday
    for _ in range(3):
        assert await device.flush() == "kept"
        assert running(device)[1] == 1
    stuck = {batch.batch for batch in world.hostile.batches[2:]}
    assert len(stuck) == 1, "the batch is sent again until it gets its own answer"
    world.hostile.say = world.hostile.honest
    assert await device.flush() == "sent"
    assert running(device)[1] == 1


async def test_a_reply_cannot_be_guessed_before_the_batch_is_made(world: World) -> None:
    device = await world.device()
    for _ in range(20):
        await device.flush()
    names = [batch.batch for batch in world.hostile.batches]
    assert len(set(names)) == 20
    # Of a UUID's 128 bits at least 62 must be drawn (RFC 9562): the last 16 hex digits but the variant's two bits.
    tails = {name.replace("-", "")[16:] for name in names}
    assert len(tails) == 20


def reply_of(size: int) -> Callable[[Batch], Any]:
    return lambda batch: b'{"batch":"' + batch.batch.encode() + b'","x":"' + b"x" * size


def exploding(batch: Batch) -> web.Response:
    return web.Response(body=gzip.compress(bytes(64 * MIB)), headers={"Content-Encoding": "gzip"})


@pytest.mark.parametrize("say", [reply_of(8 * MIB), exploding, lambda batch: b"[" * 100_000, lambda batch: b""])
async def test_a_reply_that_is_none_leaves_everything_as_it_was(world: World, running: Running, say: Any) -> None:
    device = await world.device(limits=Limits(jitter_seconds=0.0, backoff_first_seconds=0.0, backoff_last_seconds=0.0))
    device.predict("upsell", {})
    world.hostile.say = say
    assert await device.flush() == "kept"
    assert running(device) == BUNDLED
    world.hostile.say = world.hostile.honest
    assert await device.flush() == "sent"
    assert sum(len(batch.events) for batch in world.hostile.batches[-1:]) >= 1
