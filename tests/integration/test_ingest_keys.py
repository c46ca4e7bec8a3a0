"""Whose key it is: a key that is a moment old, a store that does not say, and a key that nobody made."""

import json
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from gateway.app import create_app
from gateway.config import Config
from gateway.publish.embedded import EmbeddedLog
from gateway.releases import apps
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store, StoreError

NOBODYS = "shop." + "x" * 43


class HalfStore(Store):
    """A store that lists, and does not read what it is told not to; it counts its listings."""

    unreadable: str = ""
    listings: int = 0

    async def get(self, path: str) -> bytes:
        if self.unreadable and path.startswith(self.unreadable):
            raise StoreError(f"cannot read {path}: permission denied")
        return await super().get(path)

    async def names(self, prefix: str) -> list[str]:
        if self.unreadable == "everything":
            raise StoreError(f"cannot list {prefix}: permission denied")
        self.listings += prefix == "apps"
        return await super().names(prefix)


@pytest.fixture
def store() -> HalfStore:
    opened = HalfStore.open("memory://")
    assert isinstance(opened, HalfStore)
    return opened


class Post:
    """Serves a gateway that looks at the store once an hour, from the first batch on, and sends it batches."""

    def __init__(self, store: Store, sink: EmbeddedLog, stack: AsyncExitStack) -> None:
        self._store = store
        self._sink = sink
        self._stack = stack
        self._session: aiohttp.ClientSession | None = None
        self.url = ""

    async def __call__(self, key: str) -> tuple[int, str]:
        session = self._session or await self._serve()
        about = {"device": str(uuid.uuid4()), "batch": str(uuid.uuid4()), "seq": 1, "sent_at": 1, "sdk": "2.3.0"}
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        body = json.dumps(about | {"events": []})
        async with session.post(f"{self.url}/v1/batches", data=body, headers=headers) as response:
            return response.status, (await response.json(content_type=None)).get("code", "")

    async def _serve(self) -> aiohttp.ClientSession:
        keeper = await SnapshotKeeper.open(self._store, refresh_seconds=3600)
        self._stack.push_async_callback(keeper.close)
        app = create_app(Config(), sink=self._sink, snapshots=keeper, store=self._store)
        runner = web.AppRunner(app, auto_decompress=False)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*runner.addresses[0][:2])
        self._session = await self._stack.enter_async_context(aiohttp.ClientSession())
        return self._session


@pytest.fixture
async def post(store: HalfStore, tmp_path: Path) -> AsyncIterator[Post]:
    sink = await EmbeddedLog.open(tmp_path / "log", max_bytes=2**26, max_pending_bytes=2**26)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(sink.close)
        yield Post(store, sink, stack)


async def test_a_key_that_was_made_a_moment_ago_is_known(post: Post, store: HalfStore) -> None:
    assert await post(await apps.create_app(store, "shop", 1)) == (200, "")
    assert await post(await apps.create_app(store, "other", 1)) == (200, "")
    assert await post(await apps.add_key(store, "shop", 2)) == (200, "")


async def test_a_key_that_nobody_made_is_unknown_once_the_store_was_asked(post: Post, store: HalfStore) -> None:
    await apps.create_app(store, "shop", 1)
    assert await post(NOBODYS) == (401, "unknown_key")
    assert store.listings == 2


async def test_what_cannot_be_a_key_asks_the_store_nothing(post: Post, store: HalfStore) -> None:
    for wrong in ("", "shop", "shop.short", f"Shop.{'x' * 43}", f"{NOBODYS}y"):
        assert await post(wrong) == (401, "unknown_key")
    assert store.listings == 1


async def test_while_an_app_cannot_be_read_its_devices_keep_their_batches(post: Post, store: HalfStore) -> None:
    key, other = [await apps.create_app(store, name, 1) for name in ("shop", "other")]
    store.unreadable = "apps/shop/"
    assert await post(key) == (503, "unavailable")
    assert await post(other) == (200, "")
    store.unreadable = ""
    assert await post(key) == (200, "")


async def test_an_app_whose_document_is_damaged_at_the_start_denies_no_key(post: Post, store: HalfStore) -> None:
    await apps.create_app(store, "other", 1)
    await store.put_new("apps/shop/0000000001.json", b"{")
    assert await post(NOBODYS) == (503, "unavailable")
    assert await post("other." + "x" * 43) == (401, "unknown_key")


async def test_a_store_that_is_away_denies_no_key(post: Post, store: HalfStore) -> None:
    known = await apps.create_app(store, "shop", 1)
    assert await post(known) == (200, "")
    store.unreadable = "everything"
    assert await post(NOBODYS) == (503, "unavailable")
    assert await post(known) == (200, "")
    async with aiohttp.ClientSession() as session, session.get(f"{post.url}/readyz") as response:
        said = await response.json()
    assert (response.status, said["ready"]) == (200, True), "batches are taken, so the gateway stays in rotation"
    assert "cannot list apps" in said["trouble"]["snapshots"]
    assert said["snapshot_age_seconds"] > 0
