"""The honest side of the kit's world: models, releases and signed catalogues, made afresh for each row."""

import lzma
import sys
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.client.conformance.scripted import Fault, Script
from schemas.releases import CATALOGUE_CONTEXT, Catalogue, Download, Parameters, Probe, Release
from schemas.wire import CatalogueNews, Signature

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdCompressor, ZstdDict
else:
    from backports.zstd import ZstdCompressor, ZstdDict

APP: Final = "kit"
MODEL: Final = "upsell"
INPUTS: Final = ["battery", "charging"]
DAY_MS: Final = 86_400_000
# What each release of the kit answers, so that a score says which one really ran.
SCORES: Final = {1: 0.2, 41: 0.4, 42: 0.8, 43: 0.6, 50: 0.5}
_ASKED: Final = [0.5, 1.0]


def script(number: int, *faults: Fault, size: int = 0, **changes: Any) -> bytes:
    """Return the file of a release, at least `size` bytes long."""
    told = Script(**{"score": SCORES[number], "faults": list(faults), "padding": "x" * size, **changes})
    return msgspec.json.encode(told)


class Publisher:
    """Holds the key, keeps the artifacts, signs."""

    def __init__(self, now_ms: int) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.artifacts: dict[str, bytes] = {}
        self._now_ms = now_ms

    @property
    def public(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def put(self, data: bytes) -> str:
        """Keep an artifact and return its path."""
        digest = sha256(data).hexdigest()
        self.artifacts[digest] = data
        return f"artifacts/{digest}"

    def release(self, number: int, data: bytes | None = None, **changes: Any) -> Release:
        """Make a release of a file, of its plain one by default."""
        data = script(number) if data is None else data
        path = self.put(data)
        whole: dict[str, Any] = {
            "release": number,
            "format": "opaque",
            "sha256": path.rpartition("/")[2],
            "size": len(data),
            "inputs": INPUTS,
            "parameters": Parameters(threshold=0.5),
            "probe": [Probe(_ASKED, {"Purchased": SCORES.get(number, 0.0) + _ASKED[0] / 100})],
            "downloads": [Download("identity", path, len(data))],
            **changes,
        }
        return Release(**whole)

    def patch(self, base: bytes, result: bytes, *, says: bytes | None = None) -> Download:
        """Return a patch from a base; it may say that it is one from another."""
        wire = ZstdCompressor(zstd_dict=ZstdDict(base, is_raw=True).as_prefix).compress(
            result, ZstdCompressor.FLUSH_FRAME
        )
        return Download("zstd-patch", self.put(wire), len(wire), sha256(base if says is None else says).hexdigest())

    def packed(self, result: bytes) -> Download:
        """Return a compressed download."""
        wire = lzma.compress(result, lzma.FORMAT_XZ)
        return Download("xz", self.put(wire), len(wire))

    def news(self, number: int, releases: Sequence[Release], **changes: Any) -> CatalogueNews:
        """Sign a catalogue."""
        whole: dict[str, Any] = {
            "app": APP,
            "model": MODEL,
            "number": number,
            "issued_at": self._now_ms - 3_600_000,
            "expires_at": self._now_ms + 90 * DAY_MS,
            "floor": 0,
            "releases": list(releases),
            **changes,
        }
        return self.signed(msgspec.json.encode(Catalogue(**whole)))

    def signed(self, document: bytes) -> CatalogueNews:
        """Sign any bytes as a catalogue."""
        name = sha256(self.public).hexdigest()[:16]
        return CatalogueNews(document, [Signature(name, self.key.sign(CATALOGUE_CONTEXT + document))], "/")
