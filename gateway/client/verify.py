"""Judge a signed catalogue before anything in it is believed.

* Pure: bytes, keys and what the device has seen go in; a code comes out. The golden vectors hold every SDK to it.
* The signature is judged first, over the bytes as they came: nothing unsigned is parsed.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Final, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Struct

from schemas.releases import CATALOGUE_CONTEXT, MAX_CATALOGUE_BYTES, Catalogue
from schemas.wire import Signature

Code = Literal[
    "ok",
    "bad_signature",
    "unknown_key",
    "stale",
    "expired",
    "wrong_app",
    "wrong_model",
    "malformed",
    "floor_lowered",
]
_catalogue: Final = msgspec.json.Decoder(Catalogue)


class Verdict(Struct, frozen=True):
    """What a catalogue turned out to be.

    `catalogue` is there for "ok", and for "expired": its number, its floor and what it no longer lists count as much as
    ever, or a revocation would be lost on every device that hears of it late. Only nothing new is installed from it.
    """

    code: Code
    catalogue: Catalogue | None = None


def key_name(public: bytes) -> str:
    """Name a raw Ed25519 key: 16 hex digits of its SHA-256."""
    return sha256(public).hexdigest()[:16]


def named_keys(keys: Sequence[bytes]) -> dict[str, bytes]:
    return {key_name(key): key for key in keys}


def verify(
    document: bytes,
    signatures: Sequence[Signature],
    *,
    keys: Mapping[str, bytes],
    app: str,
    model: str,
    seen: int,
    floor: int,
    now_ms: int,
    seen_document: bytes = b"",
) -> Verdict:
    """Judge a catalogue for an app's model on a device that has seen number `seen` and the floor `floor`.

    A number belongs to the bytes that came under it first, `seen_document` where they are kept: others are "stale".
    """
    code = signature_code(document, signatures, keys)
    if code != "ok":
        return Verdict(code)
    try:
        catalogue = _catalogue.decode(document)
    except (ValueError, RecursionError):
        return Verdict("malformed")
    if seen_document and catalogue.number == seen and document != seen_document:
        seen += 1
    code = _content_code(catalogue, app=app, model=model, seen=seen, floor=floor, now_ms=now_ms)
    return Verdict(code, catalogue if code in ("ok", "expired") else None)


def read_again(document: bytes, signatures: Sequence[Signature], keys: Mapping[str, bytes]) -> Catalogue | None:
    """Read a catalogue that was accepted earlier: None if it is damaged or its key is no longer one of ours."""
    if signature_code(document, signatures, keys) != "ok":
        return None
    try:
        return _catalogue.decode(document)
    except (ValueError, RecursionError):
        return None


def signature_code(document: bytes, signatures: Sequence[Signature], keys: Mapping[str, bytes]) -> Code:
    """Say whether one of the keys signed these bytes."""
    if len(document) > MAX_CATALOGUE_BYTES:
        return "malformed"
    known = [signature for signature in signatures if signature.key in keys]
    if not known:
        return "unknown_key"
    if any(_holds(document, signature.sig, keys[signature.key]) for signature in known):
        return "ok"
    return "bad_signature"


def _holds(document: bytes, signature: bytes, key: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, CATALOGUE_CONTEXT + document)
    except InvalidSignature:
        return False
    return True


def _content_code(catalogue: Catalogue, *, app: str, model: str, seen: int, floor: int, now_ms: int) -> Code:
    if catalogue.app != app:
        return "wrong_app"
    if catalogue.model != model:
        return "wrong_model"
    if catalogue.number < seen:
        return "stale"
    if catalogue.floor < floor:
        return "floor_lowered"
    if catalogue.expires_at <= now_ms:
        return "expired"
    return "ok"
