"""What a running rollout changes in a reply: who is in it is asked to call again soon."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from aiohttp.test_utils import TestClient, TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.app import create_app
from gateway.config import Config
from gateway.publish.embedded import EmbeddedLog
from gateway.releases import transitions
from gateway.releases.apps import create_app as create_shop
from gateway.releases.publish import publish_release
from gateway.releases.rollouts import change
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store
from gateway.releases.transitions import Change, Plan

MODELS: Final = Path(__file__).resolve().parents[1] / "models"
ANN: Final = Change("ann", "because", 1)
Ask = Any


@pytest.fixture
async def ask(tmp_path: Path) -> AsyncIterator[Ask]:
    """Ask as a new device; the keeper reads the store anew before each."""
    store = Store.open("memory://")
    key = await create_shop(store, "shop", 1)
    signing = Ed25519PrivateKey.generate()
    for name in ("upsell-1.mlmodel", "upsell-2.mlmodel"):
        await publish_release(
            store, app="shop", model="upsell", file=MODELS / name, sdk="", signing_key=signing, now_ms=1
        )
    snapshots = SnapshotKeeper(store)
    sink = await EmbeddedLog.open(tmp_path, max_bytes=2**30, max_pending_bytes=2**26)
    config = Config(lease_seconds=21_600, rollout_lease_seconds=900)
    app = create_app(config, sink=sink, snapshots=snapshots, store=store)
    async with TestClient(TestServer(app)) as client:

        async def _ask() -> Any:
            await snapshots.refresh()
            have = {"upsell": {"catalogue": 2, "use": 1}}
            about = {"device": str(uuid.uuid4()), "batch": str(uuid.uuid4()), "seq": 1, "sent_at": 1, "sdk": "2.3.0"}
            body = orjson.dumps({**about, "have": have, "events": []})
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            async with client.post("/v1/batches", data=body, headers=headers) as response:
                assert response.status == 200
                return orjson.loads(await response.read())

        _ask.store = store  # type: ignore[attr-defined]
        yield _ask
    await sink.close()


async def test_the_lease_is_short_for_who_is_in_a_rollout_and_only_while_it_can_be_stopped(ask: Ask) -> None:
    plan = Plan(app="shop", model="upsell", challenger=2, champion=1, stages=[1.0])

    async def step(taken: Any) -> None:
        await change(ask.store, "shop", "upsell", taken)

    assert (await ask())["flush"]["lease_seconds"] == 21_600
    await step(lambda last: transitions.start(last, plan, ANN))
    assert (await ask())["flush"] == {"events": 50, "seconds": 600, "lease_seconds": 900}
    await step(lambda last: transitions.complete(last, ANN))
    assert (await ask())["flush"]["lease_seconds"] == 21_600
