"""Signing keys: made and used where releases are published, never where the gateway runs.

* Ed25519 (RFC 8032). The private key is a PKCS#8 PEM file that only its owner can read; beside it stands `<file>.pub`,
  one line of base64 of the 32 raw bytes, which is what an app embeds.
* A key's name is the first 16 hex digits of the SHA-256 of its public bytes: nobody has to agree on names.
"""

import base64
import binascii
import os
from hashlib import sha256
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from gateway.releases.errors import BadKey
from schemas.releases import CATALOGUE_CONTEXT
from schemas.wire import Signature

PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64


def generate_key(path: Path) -> bytes:
    """Write a new private key to `path` and its public half beside it; return the public bytes. Raises `BadKey`."""
    if public_path(path).exists():  # a private key beside another one's public half would mislead whoever embeds it
        raise BadKey(f"{public_path(path)} exists already: choose another file, a key is never overwritten")
    key = Ed25519PrivateKey.generate()
    public = public_bytes(key)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write_new(path, pem, mode=0o600)
    _write_new(public_path(path), base64.b64encode(public) + b"\n", mode=0o644)
    return public


def public_path(path: Path) -> Path:
    """Where the public half of the key at `path` stands."""
    return path.with_name(path.name + ".pub")


def load_private(path: Path) -> Ed25519PrivateKey:
    """Read a private key. Raises `BadKey`."""
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as error:  # TypeError: the file is encrypted with a password
        raise BadKey(f"{path} is not a private key in PEM without a password: make one with 'key generate'") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey(f"{path} is not an Ed25519 key: make one with 'key generate'")
    return key


def load_public(path: Path) -> bytes:
    """Read a public key: 32 raw bytes. Raises `BadKey`."""
    try:
        raw = base64.b64decode(_read(path).strip(), validate=True)
    except binascii.Error as error:
        raise BadKey(f"{path} is not a public key: one line of base64 is expected") from error
    if len(raw) != PUBLIC_BYTES:
        raise BadKey(f"{path} is not a public key: {len(raw)} bytes instead of {PUBLIC_BYTES}")
    return raw


def load_signature(path: Path) -> bytes:
    """Read a signature that was made elsewhere: 64 raw bytes, or their base64. Raises `BadKey`."""
    found = _read(path)
    if len(found) != SIGNATURE_BYTES:
        try:
            found = base64.b64decode(found.strip(), validate=True)
        except binascii.Error:
            found = b""
    if len(found) != SIGNATURE_BYTES:
        raise BadKey(f"{path} is not an Ed25519 signature: {SIGNATURE_BYTES} raw bytes, or their base64, are expected")
    return found


def public_bytes(key: Ed25519PrivateKey) -> bytes:
    """Return the 32 raw bytes of a key's public half."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def key_name(public: bytes) -> str:
    """Return the name that signatures carry for this public key."""
    return sha256(public).hexdigest()[:16]


def sign(key: Ed25519PrivateKey, document: bytes, context: bytes = CATALOGUE_CONTEXT) -> Signature:
    """Sign a document's exact bytes, by default a catalogue's."""
    return Signature(key=key_name(public_bytes(key)), sig=key.sign(context + document))


def signed_by(public: bytes, document: bytes, signature: Signature, context: bytes = CATALOGUE_CONTEXT) -> bool:
    """Say whether this key made this signature over these exact bytes."""
    if signature.key != key_name(public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature.sig, context + document)
    except InvalidSignature:
        return False
    return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadKey(f"cannot read the key {path}: {error.strerror}") from error


def _write_new(path: Path, data: bytes, *, mode: int) -> None:
    # O_EXCL: a key that is overwritten is lost for ever, and with it every device that trusts it.
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise BadKey(f"{path} exists already: choose another file, a key is never overwritten") from error
    except OSError as error:
        raise BadKey(f"cannot write {path}: {error.strerror}") from error
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
