"""Attacks on whom a device believes: key lists that the roots did not agree on, and keys that were stolen."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from gateway.client import Client
from gateway.releases.errors import BadReleaseTerms
from gateway.releases.keylists import listed_floor
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
        ({"version": 2}, "stale"),
        ({"app": "other"}, "wrong_app"),
        ({"threshold": 1}, "threshold_lowered"),
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


async def test_a_list_that_comes_late_and_has_expired_still_revokes(world: World, running: Running) -> None:
    publisher = world.publisher
    first = await publisher.list_keys("release")
    world.offers(with_keys(await publisher.publish(2, key="release"), first), 1)
    device = await world.device()
    await device.flush()
    assert running(device) == ("ota", 1)
    late = await publisher.list_keys("next", expires_in_days=1)
    world.clock.ms += 2 * 86_400_000
    world.offers(with_keys(await publisher.news(), late), 1)
    await device.flush()
    assert running(device) == BUNDLED


async def revoked_by_the_stolen_key(world: World, **terms: Any) -> tuple[CatalogueNews, CatalogueNews]:
    """Revoke releases 1 and 2 with a key and then the key itself.

    Return the last catalogue and an earlier one that lists release 2, by a key that stays; both with the newest list.
    """
    publisher = world.publisher
    first = await publisher.list_keys("release", "next")
    await publisher.publish(1, key="next")
    old = await publisher.publish(2, key="next")
    last = await publisher.publish(1, key="release", floor=3)
    world.offers(with_keys(old, first), 2)
    second = await publisher.list_keys("next", **terms)
    return with_keys(last, second), with_keys(old, second)


@pytest.mark.parametrize("knew_the_floor", [True, False])
async def test_what_a_key_revoked_stays_so_when_the_key_is_revoked_itself(
    world: World, running: Running, knew_the_floor: bool
) -> None:
    last, old = await revoked_by_the_stolen_key(world, floors={"upsell": 3})
    device = await world.device()
    await device.flush()
    assert running(device) == ("ota", 2), "the list that was sent first"
    if knew_the_floor:
        world.offers(msgspec.structs.replace(last, keys=world.hostile.news["upsell"].keys), 3)
        await device.flush()
        assert running(device)[1] != 2
    world.offers(old, 2)
    await device.flush()
    await device.flush()
    assert running(device) == BUNDLED
    assert (2, "failed", "not_listed") in world.hostile.reported()
    await device.close()
    again = await world.device()
    assert running(again) == BUNDLED, "the floor is on disk with the list"
    await again.flush()
    assert running(again) == BUNDLED


async def test_what_runs_stops_with_a_list_that_puts_it_below_the_floor(world: World, running: Running) -> None:
    publisher = world.publisher
    await publisher.publish(1)
    news = await publisher.publish(2)
    world.offers(with_keys(news, await publisher.list_keys()), 2)
    device = await world.device()
    await device.flush()
    assert running(device) == ("ota", 2)
    raised = await publisher.list_keys(floors={"upsell": 3})
    forged = publisher.signed("attacker", news.document, CATALOGUE_CONTEXT)
    world.offers(CatalogueNews(news.document, forged, keys=raised), 2)
    await device.flush()
    assert running(device) == BUNDLED, "whatever catalogue came with it"
    await device.flush()
    assert (2, "reverted", "below_floor") in world.hostile.reported()


async def test_a_list_that_drops_a_key_says_what_becomes_of_the_floors_that_it_signed(world: World) -> None:
    with pytest.raises(BadReleaseTerms, match="say --floor upsell=3 to keep"):
        await revoked_by_the_stolen_key(world)
    list_keys, store = world.publisher.list_keys, world.publisher.store
    forgotten = await list_keys("next", floors={"upsell": 0})
    assert msgspec.json.decode(forgotten.document, type=KeyList).floors == {}
    await world.publisher.publish(1, key="next", floor=4)
    kept = await list_keys("release", "next")
    assert msgspec.json.decode(kept.document, type=KeyList).floors == {}, "while the key is there, nothing is lost"
    await world.publisher.publish(1, key="release", floor=4)
    taken_over = await list_keys("next")
    assert msgspec.json.decode(taken_over.document, type=KeyList).floors == {"upsell": 4}
    for again in (await list_keys("next"), await list_keys("next", "release", floors={"churn": 9})):
        assert msgspec.json.decode(again.document, type=KeyList).floors.items() >= {("upsell", 4)}, "for good"
    with pytest.raises(BadReleaseTerms, match="never falls"):
        await list_keys("next", floors={"upsell": 3})
    assert await listed_floor(store, "shop", "upsell") == 4


async def test_new_roots_take_over_by_lists_that_old_and_new_ones_sign(world: World, running: Running) -> None:
    publisher, both = world.publisher, ("root1", "root2")
    before = await publisher.list_keys("release", floors={"upsell": 1})
    world.offers(with_keys(await publisher.publish(2, key="release"), before), 1)
    old = await world.device(roots=("root1",))
    await old.flush()
    world.offers(with_keys(await publisher.news(), await publisher.list_keys("release", signers=both)), 1)
    await old.flush()
    assert running(old) == ("ota", 1), "an app with the old root alone"
    await old.close()
    new = await world.device(roots=("root2",))
    assert running(new) == ("ota", 1), "and its update with the new root alone, before any contact"
    assert len(world.hostile.fetched) == 1
    world.offers(with_keys(await publisher.news(), await publisher.list_keys("attacker", signers=("root1",))), 1)
    await new.flush()
    await new.flush()
    assert running(new) == ("ota", 1), "to which the old root is a stranger"
    assert (0, "failed", "keys_too_few_signatures") in world.hostile.reported()


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
