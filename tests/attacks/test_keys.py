"""Attacks on whom a device believes: key lists that the roots did not agree on, and keys that were stolen."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.client import Client
from schemas.releases import CATALOGUE_CONTEXT, KEYS_CONTEXT, KeyList
from schemas.wire import CatalogueNews, SignedKeys

World = Any
Running = Callable[[Client], tuple[str, int]]
BUNDLED = ("bundled", 1)


def with_keys(news: CatalogueNews, keys: SignedKeys) -> CatalogueNews:
    return msgspec.structs.replace(news, keys=keys)


async def test_a_listed_release_key_may_publish_and_the_list_is_kept(world: World, running: Running) -> None:
    keys = await world.publisher.list_keys("release")
    news = await world.publisher.publish(2, key="release")
    world.offers(with_keys(news, keys), 1)
    device = await world.device()
    await device.flush()
    assert running(device) == ("ota", 1)
    await device.flush()
    assert world.hostile.batches[-1].keys == 1
    await device.close()
    again = await world.device()
    assert running(again) == ("ota", 1), "the list is on disk"


async def test_a_release_key_that_no_list_names_is_unknown(world: World, running: Running) -> None:
    world.offers(await world.publisher.publish(2, key="release"), 1)
    device = await world.device()
    await device.flush()
    assert running(device) == BUNDLED


async def test_after_a_stolen_release_key_is_revoked_nothing_it_signed_runs(world: World, running: Running) -> None:
    publisher = world.publisher
    first = await publisher.list_keys("release")
    stolen = with_keys(await publisher.publish(2, key="release"), first)
    world.offers(stolen, 1)
    device = await world.device()
    await device.flush()
    assert running(device) == ("ota", 1)

    second = await publisher.list_keys("next")
    world.offers(with_keys(stolen, second), 1)
    await device.flush()
    assert running(device) == BUNDLED, "the catalogue is void with its key"
    await device.flush()
    assert (1, "reverted", "key_revoked") in world.hostile.reported()
    assert world.hostile.batches[-1].have["upsell"].catalogue == 0

    world.offers(stolen, 1)
    await device.flush()
    assert running(device) == BUNDLED
    world.offers(with_keys(await publisher.publish(1, key="next"), second), 1)
    await device.flush()
    assert running(device) == ("ota", 1)
    await device.close()
    assert running(await world.device()) == ("ota", 1)


async def test_what_is_signed_again_in_the_same_reply_goes_on_without_a_download(
    world: World, running: Running
) -> None:
    publisher = world.publisher
    world.offers(with_keys(await publisher.publish(2, key="root1"), await publisher.list_keys("release")), 1)
    device = await world.device(roots=("root1",))
    await device.flush()
    fetched = len(world.hostile.fetched)
    second = await publisher.list_keys("next")
    document = msgspec.json.decode(world.hostile.news["upsell"].document)
    renewed = msgspec.json.encode({**document, "number": 2})
    world.offers(CatalogueNews(renewed, publisher.signed("next", renewed, CATALOGUE_CONTEXT), keys=second), 1)
    await device.flush()
    assert running(device) == ("ota", 1)
    assert len(world.hostile.fetched) == fetched
    assert device.status().models["upsell"].catalogue == 2


@pytest.mark.parametrize(
    ("signers", "code"),
    [
        (["attacker"], "too_few_signatures"),
        (["release"], "too_few_signatures"),
        (["root1"], "too_few_signatures"),
        (["root1", "root1"], "too_few_signatures"),
        (["root1", "attacker"], "too_few_signatures"),
        (["root1", "root2"], None),
    ],
)
async def test_a_list_needs_as_many_roots_as_the_app_asks_for(
    world: World, running: Running, signers: list[str], code: str | None
) -> None:
    publisher = world.publisher
    keys = KeyList(
        app="shop", version=1, issued_at=0, expires_at=10**13, threshold=2, keys=[publisher.public("attacker")]
    )
    document = msgspec.json.encode(keys)
    signatures = [made for name in signers for made in publisher.signed(name, document, KEYS_CONTEXT)]
    news = await publisher.publish(2, key="attacker")
    world.offers(with_keys(news, SignedKeys(document, signatures)), 1)
    device = await world.device(roots=("root1", "root2"), threshold=2)
    await device.flush()
    await device.flush()
    if code is None:
        assert running(device) == ("ota", 1)
    else:
        assert running(device) == BUNDLED
        assert (0, "failed", f"keys_{code}") in world.hostile.reported()


async def test_with_a_threshold_one_root_alone_publishes_nothing(world: World, running: Running) -> None:
    world.offers(await world.publisher.publish(2, key="root1"), 1)
    device = await world.device(roots=("root1", "root2"), threshold=2)
    await device.flush()
    assert running(device) == BUNDLED


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"version": 1}, "stale"),
        ({"app": "other"}, "wrong_app"),
        ({"threshold": 1}, "threshold_lowered"),
        ({"expires_at": 1}, "expired"),
        ({"keys": "x"}, "malformed"),
    ],
)
async def test_a_list_that_the_roots_did_sign_but_not_for_this_is_refused(
    world: World, running: Running, changes: dict[str, Any], code: str
) -> None:
    publisher, both = world.publisher, ("root1", "root2")
    await publisher.list_keys("next", signers=both, threshold=2)
    second = await publisher.list_keys("release", signers=both)
    world.offers(with_keys(await publisher.publish(2, key="release"), second), 1)
    device = await world.device(roots=both, threshold=2)
    await device.flush()
    assert running(device) == ("ota", 1)
    document = msgspec.json.encode(msgspec.json.decode(second.document) | {"version": 3, "keys": []} | changes)
    signatures = [made for name in both for made in publisher.signed(name, document, KEYS_CONTEXT)]
    world.offers(with_keys(await publisher.news(), SignedKeys(document, signatures)), 1)
    await device.flush()
    await device.flush()
    assert running(device) == ("ota", 1)
    assert (0, "failed", f"keys_{code}") in world.hostile.reported()


async def test_an_expired_list_installs_nothing_new_and_what_runs_goes_on(world: World, running: Running) -> None:
    publisher = world.publisher
    keys = await publisher.list_keys("release", expires_in_days=10)
    await publisher.publish(1, key="release")
    world.offers(with_keys(await publisher.publish(2, key="release"), keys), 1)
    device = await world.device()
    await device.flush()
    assert running(device) == BUNDLED, "release 1 is the bundle itself"
    world.clock.ms += 11 * 86_400_000
    world.hostile.use["upsell"] = 2
    await device.flush()
    assert running(device) == BUNDLED
    world.offers(await publisher.publish(2, key="release"), 3)
    await device.flush()
    await device.flush()
    assert running(device) == BUNDLED
    assert {(2, "failed", "keys_expired"), (3, "failed", "keys_expired")} <= set(world.hostile.reported())
    world.clock.ms -= 11 * 86_400_000
    await device.flush()
    assert running(device) == BUNDLED, "a clock that is set back brings nothing back"
    renewed = await publisher.list_keys("release", expires_in_days=20)
    world.offers(with_keys(await publisher.news(), renewed), 3)
    await device.flush()
    assert running(device) == ("ota", 3)
    world.clock.ms += 21 * 86_400_000
    await device.flush()
    assert running(device) == ("ota", 3), "what runs goes on"
    world.offers(await publisher.publish(1, key="release", floor=4), 4)
    await device.flush()
    assert running(device)[0] == "bundled", "and what is revoked stops"


async def test_one_stolen_root_publishes_nothing_once_a_list_asks_for_two(world: World, running: Running) -> None:
    publisher, both = world.publisher, ("root1", "root2")
    keys = await publisher.list_keys("release", signers=both, threshold=2)
    world.offers(with_keys(await publisher.publish(1, key="release"), keys), 1)
    device = await world.device(roots=both, threshold=1)
    await device.flush()
    news = await publisher.publish(2, key="release")
    world.offers(CatalogueNews(news.document, publisher.signed("root1", news.document, CATALOGUE_CONTEXT)), 2)
    await device.flush()
    await device.flush()
    assert running(device) == BUNDLED
    assert (0, "failed", "catalogue_unknown_key") in world.hostile.reported()
