"""Attacks on what may run: none makes a device run, or keep running, what was not signed for it.

The list is that of The Update Framework (specification, section 1.5.2).
"""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.client import Client
from schemas.releases import CATALOGUE_CONTEXT, KEYS_CONTEXT, Catalogue
from schemas.wire import CatalogueNews

World = Any
Running = Callable[[Client], tuple[str, int]]
With = Callable[..., bytes]
BUNDLED = ("bundled", 1)
LAST = 2**53 - 1


async def test_without_an_attack_the_release_runs(world: World, running: Running) -> None:
    await world.publisher.publish(1)
    world.offers(await world.publisher.publish(2), 2)
    device = await world.device()
    assert running(device) == BUNDLED
    await device.flush()
    assert running(device) == ("ota", 2)


@pytest.mark.parametrize("named", ["", "root1"])
async def test_an_arbitrary_model_with_a_stranger_s_signature_is_refused(
    world: World, running: Running, named: str
) -> None:
    news = await world.publisher.publish(2)
    forged = world.publisher.signed("attacker", news.document, CATALOGUE_CONTEXT, named=named)
    world.offers(CatalogueNews(news.document, forged), 1)
    device = await world.device()
    await device.flush()
    await device.flush()
    assert running(device) == BUNDLED
    assert world.hostile.reported()[0][2] == ("catalogue_bad_signature" if named else "catalogue_unknown_key")
    assert world.hostile.fetched == []


async def test_a_catalogue_that_was_changed_after_signing_is_refused(
    world: World, running: Running, catalogue_with: With
) -> None:
    news = await world.publisher.publish(2)
    for document in (catalogue_with(news, floor=1), news.document + b" ", b""):
        world.offers(CatalogueNews(document, news.signatures), 1)
        device = await world.device()
        await device.flush()
        assert running(device) == BUNDLED
        await device.close()


async def test_a_signature_for_something_else_is_none_for_a_catalogue(world: World, running: Running) -> None:
    news = await world.publisher.publish(2)
    for context in (KEYS_CONTEXT, b""):
        world.offers(CatalogueNews(news.document, world.publisher.signed("root1", news.document, context)), 1)
        device = await world.device()
        await device.flush()
        assert running(device) == BUNDLED
        await device.close()


async def test_a_rollback_to_an_older_catalogue_is_refused(world: World, running: Running) -> None:
    await world.publisher.publish(1)
    old = await world.publisher.publish(2)
    await world.publisher.publish(1)
    world.offers(await world.publisher.publish(2, floor=3), 4)
    device = await world.device()
    await device.flush()
    assert running(device) == ("ota", 4)
    world.offers(old, 2)
    await device.flush()
    await device.flush()
    assert running(device) == ("ota", 4)
    assert device.status().models["upsell"].catalogue == 4
    assert (0, "failed", "catalogue_stale") in world.hostile.reported()
    assert (2, "failed", "not_listed") in world.hostile.reported()


async def test_a_floor_stays_even_for_a_catalogue_of_a_later_number(
    world: World, running: Running, catalogue_with: With
) -> None:
    await world.publisher.publish(1)
    news = await world.publisher.publish(2, floor=2)
    world.offers(news, 2)
    device = await world.device()
    await device.flush()
    lowered = catalogue_with(news, number=9, floor=0)
    world.offers(CatalogueNews(lowered, world.publisher.signed("root1", lowered, CATALOGUE_CONTEXT)), 1)
    await device.flush()
    await device.flush()
    assert device.status().models["upsell"].catalogue == 2
    assert (0, "failed", "catalogue_floor_lowered") in world.hostile.reported()


async def test_a_fast_forward_with_a_stolen_key_is_undone_by_the_next_key_list(
    world: World, running: Running, catalogue_with: With
) -> None:
    publisher = world.publisher
    first_list = await publisher.list_keys("release")
    news = msgspec.structs.replace(await publisher.publish(2, key="release"), keys=first_list)
    poisoned = catalogue_with(news, number=LAST, floor=2**32 - 1, expires_at=LAST // 1000, releases=[])
    poison = CatalogueNews(poisoned, publisher.signed("release", poisoned, CATALOGUE_CONTEXT), keys=first_list)
    world.offers(poison, 1)
    device = await world.device()
    await device.flush()
    assert device.status().models["upsell"].catalogue == LAST, "a stolen key can do this until it is revoked"

    second_list = await publisher.list_keys("next")
    world.offers(msgspec.structs.replace(await publisher.publish(2, key="next"), keys=second_list), 2)
    await device.flush()
    assert running(device) == ("ota", 2)
    assert device.status().models["upsell"].catalogue == 2
    world.offers(poison, 2)
    await device.flush()
    assert running(device) == ("ota", 2)
    assert device.status().models["upsell"].catalogue == 2


async def test_a_freeze_installs_nothing_that_has_expired_and_what_runs_goes_on(world: World, running: Running) -> None:
    await world.publisher.publish(1)
    world.offers(await world.publisher.publish(2, expires_in_days=1), 2)
    late = await world.device()
    world.clock.ms += 86_400_000
    await late.flush()
    await late.flush()
    assert running(late) == BUNDLED
    assert (0, "failed", "catalogue_expired") in world.hostile.reported()

    world.offers(await world.publisher.publish(2, expires_in_days=2), 3)
    await late.flush()
    assert running(late) == ("ota", 3)
    world.clock.ms += 30 * 86_400_000
    await late.flush()
    assert running(late) == ("ota", 3)


async def test_mixed_and_matched_parts_do_not_fit(world: World, running: Running, digest: Callable[[int], str]) -> None:
    first = await world.publisher.publish(1)
    second = await world.publisher.publish(2)
    world.offers(CatalogueNews(second.document, first.signatures), 2)
    device = await world.device()
    await device.flush()
    assert running(device) == BUNDLED
    world.offers(second, 2)
    entry = msgspec.json.decode(second.document, type=Catalogue).releases[0]
    stray = await world.publisher.store.get(f"artifacts/{digest(1)}")
    world.hostile.inline = {way.path.rpartition("/")[2]: stray for way in entry.downloads}
    await device.flush()
    assert running(device) == ("ota", 2), "inline bytes of another release are passed over for the right ones"
    assert world.hostile.fetched


@pytest.mark.parametrize(("app", "model", "code"), [("other", "upsell", "wrong_app"), ("shop", "churn", "wrong_model")])
async def test_a_catalogue_of_another_app_or_model_is_refused(
    world: World, running: Running, app: str, model: str, code: str
) -> None:
    if app != "shop":
        await world.publisher.app(app)
    world.offers(await world.publisher.publish(2, app=app, model=model), 1)
    device = await world.device()
    await device.flush()
    await device.flush()
    assert running(device) == BUNDLED
    assert (0, "failed", f"catalogue_{code}") in world.hostile.reported()


@pytest.mark.parametrize("use", [2, 99, 2**32 - 1, 0])
async def test_a_gateway_can_only_choose_what_is_listed(world: World, running: Running, use: int) -> None:
    world.offers(await world.publisher.publish(1), use)
    device = await world.device()
    await device.flush()
    await device.flush()
    assert running(device) == BUNDLED
    assert (use, "failed", "not_listed") in world.hostile.reported()
    assert world.hostile.fetched == []


async def test_a_catalogue_of_absurd_size_is_not_read(world: World, running: Running) -> None:
    huge = b'{"type":"catalogue/v1","app":"shop",' + b" " * 70_000 + b"}"
    world.offers(CatalogueNews(huge, world.publisher.signed("root1", huge, CATALOGUE_CONTEXT)), 1)
    device = await world.device()
    await device.flush()
    assert running(device) == BUNDLED


async def test_a_number_that_was_seen_cannot_come_again_with_other_content(
    world: World, running: Running, catalogue_with: Callable[..., bytes]
) -> None:
    await world.publisher.publish(1)
    news = await world.publisher.publish(2)
    world.offers(news, 1)
    device = await world.device()
    await device.flush()
    other = catalogue_with(news, floor=2)
    world.offers(CatalogueNews(other, world.publisher.signed("root1", other, CATALOGUE_CONTEXT)), 1)
    await device.flush()
    await device.flush()
    assert running(device)[1] == 1
    assert (0, "failed", "catalogue_stale") in world.hostile.reported()
