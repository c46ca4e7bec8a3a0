"""Attacks by slowness: a CDN that drips must hold up neither telemetry nor the next model for long."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import web

from gateway.client import Client, Limits

World = Any
Running = Callable[[Client], tuple[str, int]]
LIMITS = Limits(jitter_seconds=0.0, backoff_first_seconds=0.0, backoff_last_seconds=0.0, request_seconds=1.0)


async def drip(request: web.Request, data: bytes, asked: asyncio.Event) -> web.StreamResponse:
    """Serve the right bytes, one at a time and far too slowly."""
    asked.set()
    response = web.StreamResponse()
    await response.prepare(request)
    try:
        for byte in data:
            await response.write(bytes([byte]))
            await asyncio.sleep(0.2)
    except ConnectionError:
        pass
    return response


async def test_a_dripping_cdn_is_given_up_and_meanwhile_every_flush_goes_out(world: World, running: Running) -> None:
    await world.publisher.publish(1)
    world.offers(await world.publisher.publish(2), 2)
    asked = asyncio.Event()
    world.hostile.serve = lambda request, data: drip(request, data, asked)
    device = await world.device(limits=LIMITS)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(device.flush())
        await asked.wait()
        assert await device.flush() == "sent", "telemetry leaves during the download"
        assert len(world.hostile.batches) == 2
        assert not first.done()
    assert running(device) == ("bundled", 1)
    await device.flush()
    assert (2, "failed", "network") in world.hostile.reported()
    world.hostile.serve = None
    world.clock.ms += 3_600_000
    await device.flush()
    assert running(device) == ("ota", 2)


async def test_what_is_revoked_during_its_download_does_not_run(world: World, running: Running) -> None:
    await world.publisher.publish(1)
    world.offers(await world.publisher.publish(2), 2)
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def wait(request: web.Request, data: bytes) -> web.StreamResponse:
        asked.set()
        await go_on.wait()
        return web.Response(body=data)

    world.hostile.serve = wait
    device = await world.device()
    first = asyncio.create_task(device.flush())
    await asked.wait()
    world.offers(await world.publisher.publish(1, floor=3), "bundled")
    await device.flush()
    go_on.set()
    await first
    assert running(device)[1] != 2
    await device.flush()
    assert (2, "activated", "") not in world.hostile.reported()
