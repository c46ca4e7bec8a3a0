"""A device that has no gateway: plain files on a web server, the same checks."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.client import Bundled, Client
from gateway.client.runtimes.coreml import CoreMLRuntime
from gateway.releases import transitions
from gateway.releases.apps import create_app
from gateway.releases.keylists import next_keys, write_keys
from gateway.releases.keys import public_bytes, sign
from gateway.releases.publish import publish_release
from gateway.releases.rollouts import change
from gateway.releases.static import write_static
from gateway.releases.store import Store
from gateway.releases.transitions import Change, Plan
from schemas.releases import KEYS_CONTEXT, Parameters
from schemas.wire import StaticNews

MODELS: Final = Path(__file__).resolve().parents[1] / "models"
SIGNALS: Final = ("battery_level", "charging", "session_seconds", "items_viewed")
ROOT: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
RELEASE: Final = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\x01")
ANN: Final = Change("ann", "because", 1)
NOW_MS: Final = 1_795_334_400_000


@pytest.fixture
async def store(tmp_path: Path) -> Store:
    store = Store.open((tmp_path / "store").as_uri())
    await create_app(store, "shop", NOW_MS)
    return store


async def publish(store: Store, number: int, key: Ed25519PrivateKey = ROOT, *, sdk: str = "") -> None:
    file = MODELS / f"upsell-{number}.mlmodel"
    await publish_release(
        store, app="shop", model="upsell", file=file, sdk=sdk, signing_key=key, now_ms=NOW_MS, expires_in_days=36_000,
        trusted=[public_bytes(ROOT), public_bytes(RELEASE)],
    )  # fmt: skip


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[str]:
    (tmp_path / "site").mkdir()
    app = web.Application()
    app.router.add_static("/models", tmp_path / "site")
    async with TestServer(app) as server:
        yield str(server.make_url("/models"))


@pytest.fixture
async def device(tmp_path: Path, site: str) -> AsyncIterator[Client]:
    bundle = Bundled(1, MODELS / "upsell-1.mlmodel", Parameters(), SIGNALS[:2], SIGNALS)
    client = Client(
        "shop.",
        site,
        [public_bytes(ROOT)],
        directory=tmp_path / "device",
        bundled={"upsell": bundle},
        runtime=CoreMLRuntime(),
        dice=random.Random(1),  # noqa: S311 - explores, guards nothing
    )
    async with client:
        yield client


def use(device: Client) -> Any:
    return device.status().models["upsell"].use


async def test_a_device_updates_from_plain_files_alone(store: Store, tmp_path: Path, site: str, device: Client) -> None:
    await publish(store, 1)
    await publish(store, 2)
    await write_static(store, tmp_path / "site")
    assert await device.update_from(site)
    assert use(device) == 2
    assert device.predict("upsell", dict.fromkeys(SIGNALS, 0.5)).source == "ota"
    assert await device.update_from(site)
    assert use(device) == 2


async def test_a_key_list_travels_in_the_files(store: Store, tmp_path: Path, site: str, device: Client) -> None:
    roots = [public_bytes(ROOT)]
    document = await next_keys(
        store, "shop", roots=roots, add=[public_bytes(RELEASE)], remove=(), threshold=None, expires_in_days=36_000,
        now_ms=NOW_MS,
    )  # fmt: skip
    await write_keys(store, document, [sign(ROOT, document, KEYS_CONTEXT)], roots)
    await publish(store, 2, RELEASE)
    await write_static(store, tmp_path / "site")
    assert await device.update_from(site)
    standing = device.status().models["upsell"]
    assert (standing.use, standing.source, standing.catalogue) == (1, "ota", 1)


async def test_during_a_rollout_everyone_gets_otherwise(
    store: Store, tmp_path: Path, site: str, device: Client
) -> None:
    await publish(store, 1)
    await publish(store, 2)
    plan = Plan(app="shop", model="upsell", challenger=2, champion=1)
    await change(store, "shop", "upsell", lambda last: transitions.start(last, plan, ANN))
    await write_static(store, tmp_path / "site")
    await device.update_from(site)
    assert use(device) == 1
    await change(store, "shop", "upsell", lambda last: transitions.complete(last, ANN))
    await write_static(store, tmp_path / "site")
    await device.update_from(site)
    assert use(device) == 2


async def test_what_stands_in_for_otherwise_is_never_what_an_arm_is_trying(
    store: Store, tmp_path: Path, site: str, device: Client
) -> None:
    await publish(store, 1)
    await publish(store, 2)
    await publish(store, 2, sdk=">=99")
    plan = Plan(app="shop", model="upsell", challenger=2, champion=3)
    await change(store, "shop", "upsell", lambda last: transitions.start(last, plan, ANN))
    await write_static(store, tmp_path / "site")
    await device.update_from(site)
    assert use(device) == 1


async def test_a_file_that_was_damaged_since_is_written_again(store: Store, tmp_path: Path) -> None:
    await publish(store, 1)
    [written] = await write_static(store, tmp_path / "site")
    for download in written.releases[0].downloads:
        file = tmp_path / "site" / download.path
        whole = file.read_bytes()
        file.write_bytes(whole[:-1])
        await write_static(store, tmp_path / "site")
        assert file.read_bytes() == whole


async def test_files_that_were_meddled_with_change_nothing(
    store: Store, tmp_path: Path, site: str, device: Client
) -> None:
    await publish(store, 2)
    await write_static(store, tmp_path / "site")
    file = tmp_path / "site/catalogues/shop/upsell.json"
    news = msgspec.json.decode(file.read_bytes(), type=StaticNews)
    forged = msgspec.structs.replace(news, document=news.document.replace(b'"floor":0', b'"floor":1'))
    for text in (msgspec.json.encode(forged), b"{", b"", b"x" * 5_000_000):
        file.write_bytes(text)
        await device.update_from(site)
        assert (use(device), device.status().models["upsell"].catalogue) == ("bundled", 0)
    file.write_bytes(msgspec.json.encode(news))
    for artifact in (tmp_path / "site/artifacts").iterdir():
        artifact.write_bytes(artifact.read_bytes()[::-1])
    assert await device.update_from(site)
    assert use(device) == "bundled"


async def test_a_site_that_goes_back_to_older_files_takes_nothing_back(
    store: Store, tmp_path: Path, site: str, device: Client
) -> None:
    file = tmp_path / "site/catalogues/shop/upsell.json"
    await publish(store, 1)
    await write_static(store, tmp_path / "site")
    older = file.read_bytes()
    await publish(store, 2)
    await write_static(store, tmp_path / "site")
    await device.update_from(site)
    file.write_bytes(older)
    await device.update_from(site)
    standing = device.status().models["upsell"]
    assert (standing.use, standing.catalogue, standing.refused.partition(":")[0]) == (2, 2, "stale")


async def test_a_site_that_is_away_is_said(device: Client, site: str) -> None:
    assert not await device.update_from(site)
    assert use(device) == "bundled"


async def test_what_is_written_again_is_not_fetched_again(store: Store, tmp_path: Path) -> None:
    await publish(store, 1)
    [written] = await write_static(store, tmp_path / "site")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "site/artifacts").iterdir()}
    await write_static(store, tmp_path / "site", "shop")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "site/artifacts").iterdir()} == before
    assert len(before) == len(written.releases[0].downloads)
    assert await write_static(store, tmp_path / "site", "other") == []
