"""What the demonstration publishes: an app, its key, the bundled release and the release over the air."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.client.fleet.shoppers import MODEL
from gateway.demo.served import DemoError
from gateway.releases.apps import create_app
from gateway.releases.keys import generate_key, load_private
from gateway.releases.publish import publish_release
from gateway.releases.store import Store

APP: Final = "demo"
# Release 2 needs a newer SDK than a tenth of the fleet has.
SDKS: Final = {1: "", 2: ">=2.3"}
_MODELS: Final = Path(__file__).parents[2] / "tests" / "models"


def model_file(release: int) -> Path:
    """Return where the example model stands. Raises `DemoError` outside a clone of the repository."""
    path = _MODELS / f"upsell-{release}.mlmodel"
    if not path.is_file():
        raise DemoError(f"the example models are in a clone of the repository, and {path} is not there")
    return path


@dataclass(frozen=True)
class Stage:
    """The app, and what it takes to publish for it."""

    store: Store
    app_key: str
    signing_key: Ed25519PrivateKey
    public_key: bytes

    async def publish(self, release: int) -> None:
        """Publish an example model, as `backhaul release publish` does."""
        await publish_release(
            self.store,
            app=APP,
            model=MODEL,
            file=model_file(release),
            sdk=SDKS[release],
            signing_key=self.signing_key,
            now_ms=_now_ms(),
        )


async def set_up(directory: Path, store: Store) -> Stage:
    """Make the app, its key and the signing key, and publish release 1."""
    key_file = directory / "release.pem"
    public = generate_key(key_file)
    app_key = await create_app(store, APP, _now_ms())
    stage = Stage(store, app_key, load_private(key_file), public)
    await stage.publish(1)
    return stage


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
