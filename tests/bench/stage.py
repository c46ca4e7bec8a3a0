"""Set up what every program is given: an app key, a store with two releases and a rollout's first stage, and bodies."""

import time
from pathlib import Path
from typing import Final

import msgspec

from gateway.releases.apps import create_app
from gateway.releases.documents import ROLLOUTS, Series, append
from gateway.releases.keys import generate_key, load_private
from gateway.releases.publish import publish_release
from gateway.releases.store import Store
from schemas.releases import Arm, Rollout, Target
from tests.bench.bodies import MODEL

APP: Final = "bench"
_MODELS: Final = Path(__file__).parents[1] / "models"


async def set_up(directory: Path) -> str:
    """Fill `directory/store` and return the app's key.

    One device in twenty is in the rollout and half of these are told to change, as at any first stage.
    """
    now_ms = time.time_ns() // 1_000_000
    store = Store.open(f"file://{directory / 'store'}")
    key = await create_app(store, APP, now_ms)
    generate_key(directory / "release.pem")
    for release in (1, 2):
        await publish_release(
            store,
            app=APP,
            model=MODEL,
            file=_MODELS / f"upsell-{release}.mlmodel",
            sdk=">=2.0",
            signing_key=load_private(directory / "release.pem"),
            now_ms=now_ms,
        )
    rollout = Rollout(
        rollout=1,
        revision=1,
        app=APP,
        model=MODEL,
        state="running",
        salt="bench",
        arms=[Arm(name="champion", use=1, weight=0.5), Arm(name="challenger", use=2, weight=0.5)],
        exposure=0.05,
        stages=[0.05, 1.0],
        otherwise=1,
        target=Target(sdk=">=2.1", os="iOS >=17"),
        author="bench",
        reason="first stage",
        at=now_ms,
    )
    await append(store, Series(ROLLOUTS, APP, MODEL), 1, msgspec.json.encode(rollout))
    return key
