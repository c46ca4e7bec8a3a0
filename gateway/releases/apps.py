"""Apps and their keys: who may send batches, known to the store only by hashes.

* A key's text is `<app>.<43 url-safe characters>` (256 random bits), shown once; stored is the SHA-256 of that text.
  The text is random, so a plain hash cannot be searched.
* A revoked key stays listed, so that its devices are told `key_revoked` and not `unknown_key`.
* Every change is the app's next numbered document.
"""

import re
import secrets
from hashlib import sha256
from typing import Final

import msgspec
from msgspec.structs import replace

from gateway.releases.documents import APPS, Series, append, newest, parse_path
from gateway.releases.errors import AppExists, BadDocument, BadName, UnknownApp
from gateway.releases.store import Store
from schemas.releases import App, AppKey, Slug

_app = msgspec.json.Decoder(App)
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def check_name(kind: str, name: str) -> None:
    """Check the name of an app or model. Raises `BadName`."""
    try:
        msgspec.convert(name, Slug)
    except msgspec.ValidationError as error:
        raise BadName(
            f"{kind} {name!r} is not a name: use 1 to 64 lower-case letters, digits, '-' and '_'; no sign first"
        ) from error


def hash_key(key: str) -> str:
    """Return what the store keeps of an app key."""
    return sha256(key.encode()).hexdigest()


async def create_app(store: Store, name: str, now_ms: int) -> str:
    """Make an app and return its first key. Raises `AppExists`, `BadName` or `StoreError`."""
    check_name("app", name)
    if await newest(store, Series(APPS, name)) is not None:
        raise AppExists(f"app {name!r} exists already: add a key to it, or choose another name")
    return await _write_with_new_key(store, App(app=name, number=1, keys=[]), now_ms)


async def add_key(store: Store, name: str, now_ms: int) -> str:
    """Give an app another key, beside those it has, and return it. Raises `UnknownApp` or `StoreError`."""
    current = await load_app(store, name)
    return await _write_with_new_key(store, replace(current, number=current.number + 1), now_ms)


async def revoke_key(store: Store, name: str, key_or_sha256: str, now_ms: int) -> App:
    """Refuse a key from now on; one that is revoked already stays so. Raises `UnknownApp` or `StoreError`."""
    current = await load_app(store, name)
    hashed = key_or_sha256 if _SHA256.fullmatch(key_or_sha256) else hash_key(key_or_sha256)
    if hashed not in {key.sha256 for key in current.keys}:
        raise UnknownApp(f"app {name!r} has no such key: list the app's keys to see what it has")
    keys = [
        AppKey(key.sha256, key.created_at, now_ms) if key.sha256 == hashed and key.revoked_at is None else key
        for key in current.keys
    ]
    changed = replace(current, number=current.number + 1, keys=keys)
    await append(store, Series(APPS, name), changed.number, msgspec.json.encode(changed))
    return changed


async def load_app(store: Store, name: str) -> App:
    """Return an app as it is now. Raises `UnknownApp`, `BadName` or `StoreError`."""
    check_name("app", name)
    found = await newest(store, Series(APPS, name))
    if found is None:
        raise UnknownApp(f"there is no app {name!r}: make it with 'app create {name}'")
    number, document = found
    try:
        return read_app(document, name, number)
    except BadDocument as error:
        path = Series(APPS, name).path(number)
        raise BadDocument(f"{path} is damaged ({error}): restore it from a copy of the store") from error


async def list_apps(store: Store) -> list[App]:
    """Return every app as it is now, by name. Raises `StoreError`."""
    paths = map(parse_path, await store.names(APPS))
    return [await load_app(store, name) for name in sorted({found[0].app for found in paths if found})]


def read_app(document: bytes, name: str, number: int) -> App:
    """Read an app's document and check that it belongs where it stands. Raises `BadDocument`."""
    try:
        app = _app.decode(document)
    except (ValueError, RecursionError) as error:
        raise BadDocument(f"not an app: {error}") from error
    if (app.app, app.number) != (name, number):
        raise BadDocument(f"is number {app.number} of app {app.app!r}, in the wrong place")
    return app


async def _write_with_new_key(store: Store, app: App, now_ms: int) -> str:
    key = f"{app.app}.{secrets.token_urlsafe(32)}"
    with_key = replace(app, keys=[*app.keys, AppKey(hash_key(key), now_ms)])
    await append(store, Series(APPS, app.app), app.number, msgspec.json.encode(with_key))
    return key
