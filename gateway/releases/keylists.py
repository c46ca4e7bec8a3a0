"""Key lists: which release keys an app's devices believe, as the holders of the root keys say.

* Root keys sign lists and stay away from everything else; release keys sign catalogues and can be replaced at any time.
* A list is built on the one before only if roots that the operator names signed that: whoever can write to the store
  must not get his key listed along with the next.
* Root keys are replaced by an app update. Meanwhile lists are signed by as many of the old roots as old versions ask
  for and by as many of the new: each version counts the roots that it knows and passes over the others. What runs goes
  on, and no floor is forgotten. `release verify --root`, with either set, says whether its devices believe the list.
  A list that names new roots was rejected: stolen roots could then take over every old version for good.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import msgspec

from gateway.client.keyring import Keyring, read_keys_again
from gateway.client.verify import named_keys
from gateway.releases.apps import check_name, load_app
from gateway.releases.documents import KEYS, Series, append, newest
from gateway.releases.errors import BadDocument, BadKey, BadReleaseTerms, UntrustedHistory
from gateway.releases.floors import next_floors
from gateway.releases.keys import key_name, signed_by
from gateway.releases.rules import read_keys
from gateway.releases.store import Store
from schemas.releases import KEYS_CONTEXT, MAX_KEYS_BYTES, KeyList
from schemas.wire import Signature, SignedKeys

_DAY_MS: Final = 24 * 60 * 60 * 1000


async def newest_keys(store: Store, app: str) -> tuple[SignedKeys, KeyList] | None:
    """Return an app's newest key list, unjudged; None when it has none. Raises `BadDocument` or `StoreError`."""
    check_name("app", app)
    found = await newest(store, Series(KEYS, app))
    if found is None:
        return None
    try:
        return read_keys(found[1], app, found[0])
    except BadDocument as error:
        path = Series(KEYS, app).path(found[0])
        raise BadDocument(f"{path} is damaged ({error}): restore it from a copy of the store") from error


async def listed_floor(store: Store, app: str, model: str) -> int:
    """Return the floor that an app's newest list sets, unjudged: it may refuse, and is signed nowhere else.

    Raises `BadDocument` or `StoreError`.
    """
    found = await newest_keys(store, app)
    return 0 if found is None else found[1].floors.get(model, 0)


async def keyring_of(store: Store, app: str, roots: Sequence[bytes], threshold: int = 1) -> Keyring:
    """Return whom a device with these root keys believes. Raises `UntrustedHistory` or `StoreError`."""
    ring = Keyring(named_keys(roots), threshold)
    found = await newest_keys(store, app)
    if found is None:
        return ring
    listed = read_keys_again(found[0], ring.roots, threshold)
    if listed is None or _agreed(found[0], roots) < listed.threshold:
        names = ", ".join(signature.key for signature in found[0].signatures) or "nobody"
        raise UntrustedHistory(
            f"key list {found[1].version} of {app} is signed by {names}, not by enough of the root keys that you "
            "named: name them all, or find out who wrote it"
        )
    return msgspec.structs.replace(ring, listed=listed)


async def next_keys(
    store: Store,
    app: str,
    *,
    roots: Sequence[bytes],
    add: Sequence[bytes],
    remove: Collection[str],
    threshold: int | None,
    expires_in_days: int,
    now_ms: int,
    floors: Mapping[str, int] | None = None,
) -> bytes:
    """Return the next list's bytes, to be signed by roots; `remove` holds names, `floors` are by model.

    Raises `ReleaseError` or `StoreError`.
    """
    await load_app(store, app)
    ring = await keyring_of(store, app, roots)
    before = ring.listed
    known = {key_name(key): key for key in (*(before.keys if before else ()), *add)}
    unknown = set(remove) - set(known)
    if unknown:
        raise BadKey(f"{', '.join(sorted(unknown))} is not listed: see 'key list'")
    if {key_name(key) for key in add} & set(named_keys(roots)):
        raise BadKey("a root key is no release key: keep it for lists, and make another with 'key generate'")
    asked = threshold if threshold is not None else (before.threshold if before else 1)
    if expires_in_days < 1 or asked < 1:
        raise BadReleaseTerms("a list lasts at least a day and needs at least one signature")
    keys = KeyList(
        app=app,
        version=before.version + 1 if before else 1,
        issued_at=now_ms,
        expires_at=now_ms + expires_in_days * _DAY_MS,
        threshold=asked,
        keys=[key for name, key in known.items() if name not in remove],
    )
    after = msgspec.structs.replace(ring, listed=keys)
    keys = msgspec.structs.replace(keys, floors=await next_floors(store, app, ring, after, floors or {}))
    document = msgspec.json.encode(keys)
    _decoded(document)
    return document


async def write_keys(store: Store, document: bytes, signatures: Sequence[Signature], roots: Sequence[bytes]) -> KeyList:
    """Check the roots' signatures and write the list. Raises `ReleaseError` or `StoreError`."""
    keys = _decoded(document)
    signed = SignedKeys(document, list(signatures))
    before = await newest_keys(store, keys.app)
    needed = max(keys.threshold, before[1].threshold if before else 1)
    agreed = _agreed(signed, roots)
    if agreed < needed:
        raise BadKey(f"{agreed} of the {needed} root keys that it takes have signed: no device would accept the list")
    await append(store, Series(KEYS, keys.app), keys.version, msgspec.json.encode(signed))
    return keys


def _decoded(document: bytes) -> KeyList:
    if len(document) > MAX_KEYS_BYTES:
        raise BadReleaseTerms(
            f"the list has {len(document)} bytes and devices read {MAX_KEYS_BYTES}: fewer keys or floors"
        )
    try:
        return msgspec.json.decode(document, type=KeyList)
    except ValueError as error:
        raise BadDocument(f"these bytes are no key list that devices take: {error}") from error


def _agreed(signed: SignedKeys, roots: Sequence[bytes]) -> int:
    held = (
        signature.key
        for signature in signed.signatures
        for root in roots
        if signed_by(root, signed.document, signature, KEYS_CONTEXT)
    )
    return len(set(held))
