"""The snapshot against a real store: what is picked up, and what survives a store that misbehaves."""

import asyncio
import logging
import random
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import UNSET

from gateway.releases.apps import create_app, hash_key, revoke_key
from gateway.releases.keylists import next_keys, write_keys
from gateway.releases.keys import public_bytes, sign
from gateway.releases.publish import publish_release
from gateway.releases.snapshot import KeyHolder, SnapshotKeeper, pause_seconds
from gateway.releases.store import Store, StoreError
from schemas.releases import KEYS_CONTEXT, Arm, Catalogue, Rollout
from schemas.wire import SignedKeys

FIRST: Final = Path(__file__).resolve().parents[1] / "models" / "upsell-1.mlmodel"
KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))


class FlakyStore(Store):
    """A store that fails where it is told to, and counts what is read."""

    def __init__(self, *opened: Any) -> None:
        super().__init__(*opened)
        self.failing: Callable[[str], bool] = lambda path: False
        self.hidden: Callable[[str], bool] = lambda path: False
        self.read: list[str] = []
        self.listings = 0

    async def get(self, path: str) -> bytes:
        if self.failing(path):
            raise StoreError(f"cannot read {path}: the disk is on fire")
        self.read.append(path)
        return await super().get(path)

    async def names(self, prefix: str) -> list[str]:
        if self.failing(prefix):
            raise StoreError(f"cannot list {prefix}: the disk is on fire")
        self.listings += prefix == "apps"
        return [name for name in await super().names(prefix) if not self.hidden(name)]


class FakeTime:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.seconds = 1.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.seconds

    def now_ms(self) -> int:
        """Milliseconds."""
        return int(self.seconds * 1000)


@pytest.fixture
def store() -> FlakyStore:
    opened = FlakyStore.open("memory://")
    assert isinstance(opened, FlakyStore)
    return opened


@pytest.fixture
def clock() -> FakeTime:
    return FakeTime()


@pytest.fixture
def keeper(store: FlakyStore, clock: FakeTime) -> SnapshotKeeper:
    return SnapshotKeeper(store, base_url="https://cdn.example/", now_ms=clock.now_ms, monotonic=clock.monotonic)


async def publish(store: Store, app: str = "shop", **terms: Any) -> Catalogue:
    plain = {"model": "upsell", "file": FIRST, "sdk": ">=2.3", "signing_key": KEY, "now_ms": 1}
    return await publish_release(store, app=app, **{**plain, **terms})


def rollout(**changes: Any) -> bytes:
    arms = [Arm("champion", 1, 0.5), Arm("challenger", 2, 0.5)]
    plain = Rollout(
        rollout=9,
        revision=1,
        app="shop",
        model="upsell",
        state="running",
        salt="s",
        arms=arms,
        exposure=0.5,
        otherwise=1,
    )
    return msgspec.json.encode(msgspec.structs.replace(plain, **changes))


async def test_an_empty_store_is_an_empty_snapshot(keeper: SnapshotKeeper) -> None:
    await keeper.refresh()
    assert (keeper.current.keys, keeper.current.apps) == ({}, {})
    assert keeper.trouble() is None


async def test_a_new_app_a_new_release_and_a_rollout_are_picked_up(store: FlakyStore, keeper: SnapshotKeeper) -> None:
    key = await create_app(store, "shop", 1)
    await keeper.refresh()
    digest = sha256(key.encode()).digest()
    assert keeper.current.keys == {digest: KeyHolder("shop", revoked=False)}
    await publish(store)
    await keeper.refresh()
    rules = keeper.current.apps["shop"]["upsell"]
    assert (rules.number, rules.rollout, rules.news.base_url) == (1, None, "https://cdn.example/")
    await store.put_new("rollouts/shop/upsell/0000000001.json", rollout())
    await revoke_key(store, "shop", key, 2)
    await keeper.refresh()
    running = keeper.current.apps["shop"]["upsell"].rollout
    assert running is not None
    assert running.rollout == 9
    assert keeper.current.keys == {bytes.fromhex(hash_key(key)): KeyHolder("shop", revoked=True)}


async def test_the_news_is_the_exact_signed_bytes(store: FlakyStore, keeper: SnapshotKeeper) -> None:
    await create_app(store, "shop", 1)
    await publish(store)
    await keeper.refresh()
    news = keeper.current.apps["shop"]["upsell"].news
    KEY.public_key().verify(news.signatures[0].sig, b"catalogue/v1\n" + news.document)


async def test_a_new_key_list_joins_the_catalogue_that_is_there(store: FlakyStore, keeper: SnapshotKeeper) -> None:
    await create_app(store, "shop", 1)
    await publish(store)
    await keeper.refresh()
    before = keeper.current.apps["shop"]["upsell"]
    assert (before.keys, before.news.keys) == (0, UNSET)
    root = public_bytes(KEY)
    for version in (1, 2):
        document = await next_keys(
            store,
            "shop",
            roots=[root],
            add=[bytes([version]) * 32],
            remove=(),
            threshold=1,
            expires_in_days=9,
            now_ms=1,
        )
        await write_keys(store, document, [sign(KEY, document, KEYS_CONTEXT)], [root])
        await keeper.refresh()
        after = keeper.current.apps["shop"]["upsell"]
        assert (after.number, after.keys) == (1, version)
        assert isinstance(after.news.keys, SignedKeys)
        assert after.news.keys.document == document
    await store.put_new("keys/shop/0000000003.json", b"{")
    await keeper.refresh()
    assert keeper.current.apps["shop"]["upsell"].keys == 2
    assert list(keeper.damaged) == ["keys/shop/0000000003.json"]


async def test_only_what_is_new_is_read(store: FlakyStore, keeper: SnapshotKeeper) -> None:
    await create_app(store, "shop", 1)
    await publish(store)
    await publish(store)
    await keeper.refresh()
    before = keeper.current
    store.read.clear()
    await keeper.refresh()
    assert store.read == []
    assert keeper.current is before
    await publish(store)
    store.read.clear()
    await keeper.refresh()
    assert store.read == ["catalogues/shop/upsell/0000000003.json"]
    assert keeper.current.apps["shop"]["upsell"].number == 3


async def test_the_smallest_download_rides_along_when_it_is_small_enough(store: FlakyStore) -> None:
    await create_app(store, "shop", 1)
    (release,) = (await publish(store)).releases
    packed = release.downloads[1]
    for inline_bytes, expected in ((packed.size, [packed.path]), (packed.size - 1, [])):
        keeper = SnapshotKeeper(store, inline_bytes=inline_bytes)
        await keeper.refresh()
        inline = keeper.current.apps["shop"]["upsell"].inline
        assert [f"artifacts/{hashed}" for hashed in inline] == expected
        assert all(sha256(data).hexdigest() == hashed for hashed, data in inline.items())


async def test_a_small_patch_rides_along_though_the_whole_is_too_large(store: FlakyStore, tmp_path: Path) -> None:
    await create_app(store, "shop", 1)
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(random.Random(1).randbytes(20_000))  # noqa: S311 - bytes that do not compress
    second.write_bytes(first.read_bytes() + b"more")
    for file in (first, second):
        catalogue = await publish(store, file=file, format="opaque")
    [patch] = [way for way in catalogue.releases[0].downloads if way.encoding == "zstd-patch"]
    keeper = SnapshotKeeper(store)
    await keeper.refresh()
    assert [f"artifacts/{hashed}" for hashed in keeper.current.apps["shop"]["upsell"].inline] == [patch.path]


async def test_a_damaged_artifact_does_not_ride_along(tmp_path: Path) -> None:
    store = Store.open(tmp_path.as_uri())
    await create_app(store, "shop", 1)
    (release,) = (await publish(store)).releases
    (tmp_path / release.downloads[1].path).write_bytes(b"x" * release.downloads[1].size)
    keeper = SnapshotKeeper(store)
    await keeper.refresh()
    assert keeper.current.apps["shop"]["upsell"].inline == {}
    assert keeper.current.apps["shop"]["upsell"].number == 1


@pytest.mark.parametrize(
    "damaged",
    [b"", b"{", b"null", b"[" * 100_000, b'{"document":"","signatures":[]}', b'{"document":"e30=","signatures":[]}'],
)
async def test_a_damaged_document_is_logged_once_and_the_one_before_stays(
    store: FlakyStore, keeper: SnapshotKeeper, caplog: pytest.LogCaptureFixture, damaged: bytes
) -> None:
    await create_app(store, "shop", 1)
    await publish(store)
    await keeper.refresh()
    path = "catalogues/shop/upsell/0000000002.json"
    await store.put_new(path, damaged)
    for _ in range(3):
        await keeper.refresh()
    assert keeper.current.apps["shop"]["upsell"].number == 1
    assert list(keeper.damaged) == [path]
    assert keeper.trouble() is None
    assert len([record for record in caplog.records if path in record.getMessage()]) == 1


async def test_a_gateway_that_starts_beside_a_damaged_document_takes_the_one_before(
    store: FlakyStore, keeper: SnapshotKeeper
) -> None:
    await create_app(store, "shop", 1)
    await publish(store)
    await publish(store)
    await store.put_new("catalogues/shop/upsell/0000000003.json", b"{")
    await store.put_new("apps/shop/0000000002.json", b"{")
    await store.put_new("rollouts/shop/upsell/0000000001.json", rollout())
    await store.put_new("rollouts/shop/upsell/0000000002.json", rollout(arms=[]))
    await keeper.refresh()
    rules = keeper.current.apps["shop"]["upsell"]
    assert rules.number == 2
    assert rules.rollout is not None
    assert len(keeper.current.keys) == 1
    assert len(keeper.damaged) == 3


async def test_one_bad_app_never_blocks_another(store: FlakyStore, keeper: SnapshotKeeper) -> None:
    for app in ("bad", "good"):
        await create_app(store, app, 1)
        await publish(store, app)
    store.failing = lambda path: "/bad/" in path
    await keeper.refresh()
    assert list(keeper.current.apps) == ["good"]
    assert [holder.app for holder in keeper.current.keys.values()] == ["good"]
    assert "disk is on fire" in (keeper.trouble() or "")
    store.failing = lambda path: False
    await keeper.refresh()
    assert sorted(keeper.current.apps) == ["bad", "good"]
    assert keeper.trouble() is None


async def test_a_document_in_the_wrong_place_is_not_taken(store: FlakyStore, keeper: SnapshotKeeper) -> None:
    await create_app(store, "shop", 1)
    await publish(store)
    stray = await store.get("catalogues/shop/upsell/0000000001.json")
    for path in (
        "catalogues/shop/churn/0000000001.json",
        "catalogues/other/upsell/0000000001.json",
        "catalogues/shop/upsell/0000000009.json",
    ):
        await store.put_new(path, stray)
    await store.put_new("apps/other/0000000001.json", await store.get("apps/shop/0000000001.json"))
    await store.put_new("rollouts/shop/churn/0000000001.json", rollout())
    await keeper.refresh()
    assert {app: list(models) for app, models in keeper.current.apps.items()} == {"shop": ["upsell"]}
    assert keeper.current.apps["shop"]["upsell"].number == 1
    assert len(keeper.damaged) == 5


async def test_what_is_no_document_is_passed_over(store: FlakyStore, keeper: SnapshotKeeper) -> None:
    for path in ("apps/readme.txt", "apps/shop/1.json", "catalogues/shop/0000000001.json", "apps/Shop/0000000001.json"):
        await store.put_new(path, b"hello")
    await keeper.refresh()
    assert (keeper.current.apps, keeper.damaged) == ({}, {})


async def test_the_last_good_snapshot_stays_while_the_store_is_away(
    store: FlakyStore, keeper: SnapshotKeeper, clock: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    await create_app(store, "shop", 1)
    await publish(store)
    await keeper.refresh()
    before = keeper.current
    store.failing = lambda path: True
    for _ in range(3):
        clock.seconds += 2.0
        await keeper.refresh()
    assert keeper.current is before
    assert keeper.age_seconds == 6.0
    assert keeper.trouble() == "cannot list apps: the disk is on fire"
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1
    store.failing = lambda path: False
    await keeper.refresh()
    assert (keeper.age_seconds, keeper.trouble()) == (0.0, None)


async def test_a_listing_that_lags_takes_nothing_away(store: FlakyStore, keeper: SnapshotKeeper) -> None:
    await create_app(store, "shop", 1)
    await publish(store)
    await publish(store)
    await keeper.refresh()
    before = keeper.current
    store.hidden = lambda path: "0000000002" in path
    await keeper.refresh()
    store.hidden = lambda path: True
    await keeper.refresh()
    assert keeper.current is before


async def test_a_document_that_is_listed_but_not_there_yet_is_read_later() -> None:
    class Early(Store):
        async def names(self, prefix: str) -> list[str]:
            return ["apps/shop/0000000001.json"] if prefix == "apps" else []

    early = Early.open("memory://")
    keeper = SnapshotKeeper(early)
    await keeper.refresh()
    assert "does not exist" in (keeper.trouble() or "")
    await early.put_new("apps/shop/0000000001.json", b'{"app":"shop","number":1,"keys":[]}')
    await keeper.refresh()
    assert (keeper.trouble(), keeper.damaged) == (None, {})


@pytest.mark.parametrize("took_seconds", [0.0, 0.01, 0.1, 0.3])
def test_what_is_written_is_in_force_in_time_though_a_refresh_takes_its_own(took_seconds: float) -> None:
    assert took_seconds + pause_seconds(2.0, took_seconds) + 2 * took_seconds <= 2.0
    assert pause_seconds(2.0, took_seconds) >= 1.0
    assert pause_seconds(2.0, 60.0) == 1.0, "a slow store is left alone between two refreshes"


async def test_a_keeper_refreshes_itself_until_it_is_closed(store: FlakyStore) -> None:
    keeper = await SnapshotKeeper.open(store, refresh_seconds=0.01)
    assert keeper.current.keys == {}
    await create_app(store, "shop", 1)
    async with asyncio.timeout(10):
        while not keeper.current.keys:  # noqa: ASYNC110 - the keeper tells nobody when it has refreshed
            await asyncio.sleep(0.01)
    await keeper.close()
    await keeper.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "snapshot-refresh"]


async def test_who_asks_gets_a_refresh_that_began_after_the_question(
    store: FlakyStore, keeper: SnapshotKeeper, clock: FakeTime
) -> None:
    await asyncio.gather(*(keeper.refreshed() for _ in range(50)))
    listings = store.listings
    await create_app(store, "shop", 1)
    clock.seconds += 1.0
    await asyncio.gather(*(keeper.refreshed() for _ in range(50)))
    assert len(keeper.current.keys) == 1
    assert (listings, store.listings) == (1, 2)
    asking = asyncio.create_task(keeper.refreshed())  # within the same second: it has to wait
    await asyncio.sleep(0.05)
    assert (asking.done(), store.listings) == (False, 2)
    await keeper.close()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_an_app_is_unread_until_its_newest_document_is_good(store: FlakyStore, keeper: SnapshotKeeper) -> None:
    for app in ("shop", "other"):
        await create_app(store, app, 1)
    store.failing = lambda path: path.startswith("apps/shop/")
    await keeper.refresh()
    assert keeper.unread == {"shop"}
    store.failing = lambda path: False
    await store.put_new("apps/other/0000000002.json", b"{")
    await keeper.refresh()
    assert keeper.unread == {"other"}
    await store.put_new("apps/other/0000000003.json", b'{"app":"other","number":3,"keys":[]}')
    await keeper.refresh()
    assert keeper.unread == frozenset()


async def test_a_keeper_does_not_open_on_a_store_that_cannot_be_listed(store: FlakyStore) -> None:
    store.failing = lambda path: True
    with pytest.raises(StoreError, match="cannot list"):
        await SnapshotKeeper.open(store, refresh_seconds=2)
