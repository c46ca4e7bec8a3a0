"""What `fleet run` fills in, so that a URL is enough beside a system on this machine: an app, a model, a key.

* The app's key is kept in the data directory, readable by its owner only, as the store holds no more than its hash.
* Without a public key the devices believe no catalogue: they believe a key whose other half nobody has.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli.failures import Misused
from gateway.cli.options import now_ms

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.releases.store import Store

APP: Final = "fleet"
_KEY_FILE: Final = "fleet.key"


def app_key() -> str:
    """Return the key of the app `fleet` in the store of this machine's system, made where there is none.

    Raises `CommandError`.
    """
    from gateway.cli.storing import with_store
    from gateway.config import load

    config = load({}, os.environ)
    if not config.directory.is_dir():
        raise Misused(f"no system's data is at {config.directory}: say whose devices these are with --app-key")
    return with_store(config, lambda store: _kept_key(config, store))


def bundled() -> Path:
    """Return the example model. Raises `CommandError` outside a clone of the repository."""
    from gateway.demo.served import DemoError
    from gateway.demo.stage import model_file

    try:
        return model_file(1)
    except DemoError as error:
        raise Misused(f"{error}: name the app's own with --bundled") from error


def nobodys_key() -> bytes:
    """Return a public key with which nobody can sign."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.generate().public_key().public_bytes_raw()


async def _kept_key(config: "Config", store: "Store") -> str:
    from gateway.releases.apps import add_key, create_app, hash_key, load_app
    from gateway.releases.errors import UnknownApp

    kept_at = config.directory / _KEY_FILE
    kept = kept_at.read_text("utf-8").strip() if kept_at.exists() else ""
    try:
        app = await load_app(store, APP)
    except UnknownApp:
        key = await create_app(store, APP, now_ms())
    else:
        if hash_key(kept) in {each.sha256 for each in app.keys if each.revoked_at is None}:
            return kept
        key = await add_key(store, APP, now_ms())
    with os.fdopen(os.open(kept_at, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(key + "\n")
    return key
