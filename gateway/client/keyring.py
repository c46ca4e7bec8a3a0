"""Whom a device believes: the root keys that came with the app, and the release keys that these have listed.

* With a threshold of one, a root key may sign catalogues itself; with a higher one, the app's or the list's, it only
  signs lists.
* A list is judged by roots alone, never by the list before: a stolen release key can list nothing.
* Pure: bytes, keys and what the device has seen go in; a code comes out. The golden vectors hold every SDK to it.
"""

from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from gateway.client.verify import key_name
from schemas.releases import KEYS_CONTEXT, MAX_KEYS_BYTES, KeyList
from schemas.wire import SignedKeys

KeysCode = Literal["ok", "malformed", "too_few_signatures", "wrong_app", "stale", "threshold_lowered", "expired"]
_keys: Final = msgspec.json.Decoder(KeyList)


class KeysVerdict(Struct, frozen=True):
    """What a key list turned out to be.

    `keys` is there for "ok", and for "expired" where a list was accepted before: what it no longer names is revoked as
    much as ever, and by what it names nothing is installed. On a new install it would only lend an old key a voice.
    """

    code: KeysCode
    keys: KeyList | None = None


class Keyring(Struct, frozen=True):
    """The root keys by name, how many of them must agree, and the newest list accepted, with the bytes that it came in.

    A version belongs to the bytes that came under it first: others are "stale".
    """

    roots: Mapping[str, bytes]
    threshold: int = 1
    listed: KeyList | None = None
    document: bytes = b""

    @property
    def version(self) -> int:
        """The newest list's version; 0 when there is none."""
        return 0 if self.listed is None else self.listed.version

    def floor(self, model: str) -> int:
        """Return the release below which nothing of a model runs, whoever signed the catalogue."""
        return 0 if self.listed is None else self.listed.floors.get(model, 0)

    def trusted(self, now_ms: int | None = None) -> dict[str, bytes]:
        """Return the keys any of which may sign a catalogue; at a time, without those of a list that has expired."""
        needed = self.threshold if self.listed is None else max(self.threshold, self.listed.threshold)
        keys = dict(self.roots) if needed == 1 else {}
        if self.listed is not None and (now_ms is None or now_ms < self.listed.expires_at):
            keys |= {key_name(key): key for key in self.listed.keys}
        return keys


def judge_keys(signed: SignedKeys, ring: Keyring, *, app: str, now_ms: int) -> KeysVerdict:
    """Judge a key list for an app on a device that has this keyring."""
    if len(signed.document) > MAX_KEYS_BYTES:
        return KeysVerdict("malformed")
    agreed = _agreed(signed, ring.roots)
    if agreed < ring.threshold:
        return KeysVerdict("too_few_signatures")
    try:
        keys = _keys.decode(signed.document)
    except (ValueError, RecursionError):
        return KeysVerdict("malformed")
    seen = ring.version + (ring.document not in (b"", signed.document))
    code = _content_code(keys, ring, agreed, app=app, seen=seen, now_ms=now_ms)
    counts = code == "ok" or (code == "expired" and ring.listed is not None)
    return KeysVerdict(code, keys if counts else None)


def read_keys_again(signed: SignedKeys, roots: Mapping[str, bytes], threshold: int) -> KeyList | None:
    """Read a list that was accepted earlier: None if it is damaged or an app update has changed the roots."""
    if len(signed.document) > MAX_KEYS_BYTES or _agreed(signed, roots) < threshold:
        return None
    try:
        return _keys.decode(signed.document)
    except (ValueError, RecursionError):
        return None


def _content_code(keys: KeyList, ring: Keyring, agreed: int, *, app: str, seen: int, now_ms: int) -> KeysCode:
    before = ring.listed
    if keys.app != app:
        return "wrong_app"
    if keys.version < seen:
        return "stale"
    if agreed < max(keys.threshold, 1 if before is None else before.threshold):
        return "too_few_signatures"
    if keys.threshold < ring.threshold:
        return "threshold_lowered"
    if keys.expires_at <= now_ms:
        return "expired"
    return "ok"


def _agreed(signed: SignedKeys, roots: Mapping[str, bytes]) -> int:
    """Return how many different roots signed the document."""
    known = [signature for signature in signed.signatures if signature.key in roots]
    return len({each.key for each in known if _holds(signed.document, each.sig, roots[each.key])})


def _holds(document: bytes, signature: bytes, key: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, KEYS_CONTEXT + document)
    except InvalidSignature:
        return False
    return True
