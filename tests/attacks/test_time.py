"""Attacks on the device's idea of the time: what has expired must stay so, whoever says otherwise."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.client import Client, Limits
from gateway.client.moment import agreed, judged

World = Any
Running = Callable[[Client], tuple[str, int]]
BUNDLED = ("bundled", 1)
DAY_MS = 86_400_000
NOW_MS = 1_795_334_400_000
LIES: dict[str, Callable[[int], int]] = {
    "the beginning of time": lambda true_ms: 0,
    "when the catalogue was issued": lambda true_ms: NOW_MS,
    "half a day before it expires": lambda true_ms: NOW_MS + DAY_MS // 2,
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_a_gateway_that_lies_about_the_time_installs_nothing_expired(
    world: World, running: Running, lie: Callable[[int], int]
) -> None:
    await world.publisher.publish(1)
    world.offers(await world.publisher.publish(2, expires_in_days=1), 2)
    world.clock.ms += 400 * DAY_MS
    world.hostile.now_ms = lambda: lie(world.clock.ms)
    device = await world.device()
    await device.flush()
    await device.flush()
    assert running(device) == BUNDLED
    assert (2, "failed", "catalogue_expired") in world.hostile.reported()


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_a_key_list_that_has_expired_brings_no_revoked_key_to_a_new_install(
    world: World, running: Running, lie: Callable[[int], int]
) -> None:
    publisher = world.publisher
    old_list = await publisher.list_keys("release", expires_in_days=1)
    await publisher.publish(1, key="release")
    old = msgspec.structs.replace(await publisher.publish(2, key="release", expires_in_days=1), keys=old_list)
    await publisher.list_keys("next")
    world.clock.ms += 400 * DAY_MS
    world.hostile.now_ms = lambda: lie(world.clock.ms)
    world.offers(old, 2)
    device = await world.device()
    await device.flush()
    await device.flush()
    assert running(device) == BUNDLED
    assert (0, "failed", "keys_expired") in world.hostile.reported()


async def test_a_clock_that_starts_again_at_zero_does_not_bring_back_what_expired(
    world: World, running: Running
) -> None:
    await world.publisher.publish(1)
    news = await world.publisher.publish(2, expires_in_days=1)
    world.clock.ms += 3 * DAY_MS
    device = await world.device()
    await device.flush()
    await device.close()
    world.offers(news, 2)
    world.clock.ms = 0
    device = await world.device()
    await device.flush()
    assert running(device) == BUNDLED, "what both clocks once agreed on is on disk"


async def test_a_gateway_that_claims_a_far_future_shuts_nothing_out_for_good(world: World, running: Running) -> None:
    world.hostile.now_ms = lambda: 10**14
    device = await world.device()
    await device.flush()
    world.hostile.now_ms = world.clock.now_ms
    await world.publisher.publish(1)
    world.offers(await world.publisher.publish(2), 2)
    await device.flush()
    assert running(device) == ("ota", 2)


def test_only_a_clock_years_past_the_floor_is_corrected_and_never_below_the_floor() -> None:
    limits = Limits()
    floor, years = NOW_MS, 5 * 365 * DAY_MS
    assert judged(floor + 400 * DAY_MS, 0, floor, limits) == floor + 400 * DAY_MS
    assert judged(floor + years, floor + 7, floor, limits) == floor + 7 + DAY_MS
    assert judged(floor + years, floor - 2 * DAY_MS, floor, limits) == floor + years, "a time before the floor is a lie"
    assert judged(floor + years, None, floor, limits) == floor + years
    assert judged(0, 0, floor, limits) == floor
    assert agreed(5, 10**14) == agreed(10**14, 5) == 5
