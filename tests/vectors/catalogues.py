"""Write `schemas/vectors/catalogues.json`: signed catalogues, good and bad, and the verdict on each.

* `python tests/vectors/catalogues.py` writes the file again; a test compares it with what this makes.
* The verdicts are stated here by hand, never taken from the code that they judge.
* The private keys are derived from fixed texts: they sign these vectors and nothing else, ever.
"""

import base64
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

DIRECTORY: Final = Path(__file__).resolve().parents[2] / "schemas" / "vectors"
CONTEXT: Final = b"catalogue/v1\n"
NOW_MS: Final = 1_795_334_400_000
DAY_MS: Final = 86_400_000

Json = dict[str, Any]


def private_key(name: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(sha256(f"backhaul test vector key {name}".encode()).digest())


def public_key(name: str) -> bytes:
    return private_key(name).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def key_name(name: str) -> str:
    return sha256(public_key(name)).hexdigest()[:16]


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def release(number: int, sdk: str, inputs: list[str], **more: Any) -> Json:
    artifact, packed = (sha256(f"{kind} of release {number}".encode()).hexdigest() for kind in ("artifact", "xz"))
    return {
        "release": number,
        "format": "mlmodel",
        "sha256": artifact,
        "size": 7671,
        "sdk": sdk,
        "inputs": inputs,
        "parameters": {"threshold": 0.6, "explore": 0.05},
        "downloads": [
            {"encoding": "identity", "path": f"artifacts/{artifact}", "size": 7671},
            {"encoding": "xz", "path": f"artifacts/{packed}", "size": 1980},
        ],
        **more,
    }


def catalogue(**changes: Any) -> Json:
    whole: Json = {
        "type": "catalogue/v1",
        "app": "shop",
        "model": "upsell",
        "number": 17,
        "issued_at": NOW_MS - DAY_MS,
        "expires_at": NOW_MS + 89 * DAY_MS,
        "floor": 38,
        "releases": [release(42, ">=2.3,<3", ["battery_level", "charging"])],
    }
    return {**whole, **changes}


def encoded(document: Json) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


CODES: Final = {
    "ok": "The catalogue is believed; the device keeps its number and its floor.",
    "bad_signature": "A signature names a key that the device holds, and is not that key's over these bytes.",
    "unknown_key": "No signature names a key that the device holds.",
    "malformed": "The bytes are signed, and are not a catalogue/v1; or they are more than 65536, whoever signed them.",
    "wrong_app": "The catalogue is another app's.",
    "wrong_model": "The catalogue is another model's.",
    "stale": "The number is lower than one that the device has seen, a rollback; or it is that one, in other bytes.",
    "floor_lowered": "The floor is lower than one that the device has seen: a floor never falls.",
    "expired": "now_ms is at or past expires_at: the device keeps the number and the floor, and what is not listed or "
    "is below the floor stops; nothing new is installed, and what runs keeps running.",
}


def catalogue_case(
    name: str, code: str, document: Json | bytes, *, key: str = "r1", signed: bytes | None = None, **seen: Any
) -> Json:
    """One case. `signed` are the bytes that the signature is really over; `seen` is what the device holds already."""
    data = document if isinstance(document, bytes) else encoded(document)
    signature = private_key(key).sign(CONTEXT + data if signed is None else signed)
    device = {"app": "shop", "model": "upsell", "seen": 16, "floor": 38, "now_ms": NOW_MS, **seen}
    signatures = [{"key": key_name(key), "sig": text(signature)}]
    return {"name": name, "code": code, **device, "document": text(data), "signatures": signatures}


def catalogue_cases() -> Iterator[Json]:
    good, other = catalogue(), encoded(catalogue(releases=[release(66, "", [])]))
    case = catalogue_case
    yield case("a good catalogue", "ok", good)
    yield case("a good catalogue for a device that has seen none", "ok", good, seen=0, floor=0)
    yield case("the same catalogue again", "ok", good, seen=17)
    yield case("the number that was seen, in the same bytes", "ok", good, seen=17, seen_document=text(encoded(good)))
    yield case("the number that was seen, in other bytes", "stale", good, seen=17, seen_document=text(other))
    yield case("a higher number than the bytes that were seen", "ok", good, seen_document=text(other))
    yield case("a catalogue that lists nothing", "ok", catalogue(releases=[]))
    yield case("a field of a later version is ignored", "ok", catalogue(later={"field": [1]}))
    yield case(
        "whitespace and key order are the signer's affair", "ok", json.dumps(good, indent=2, sort_keys=True).encode()
    )
    yield case("the last millisecond before it expires", "ok", good, now_ms=NOW_MS + 89 * DAY_MS - 1)
    yield case("signed by the second of two keys", "ok", good, key="r2")
    two = case("one unknown and one good signature", "ok", good)
    two["signatures"].insert(0, {"key": key_name("stranger"), "sig": text(private_key("stranger").sign(CONTEXT))})
    yield two
    yield case("forged: other bytes under a real signature", "bad_signature", other, signed=CONTEXT + encoded(good))
    yield case("forged: one byte changed", "bad_signature", encoded(good)[:-1] + b" ", signed=CONTEXT + encoded(good))
    yield case("signed without the context", "bad_signature", good, signed=encoded(good))
    yield case("signed as a rollout", "bad_signature", good, signed=b"rollout/v1\n" + encoded(good))
    borrowed = case("a stranger's signature under a real key's name", "bad_signature", good, key="stranger")
    borrowed["signatures"][0]["key"] = key_name("r1")
    yield borrowed
    for name, sig in (("cut to 63 bytes", private_key("r1").sign(CONTEXT + encoded(good))[:63]), ("empty", b"")):
        short = case(f"a signature that is {name}", "bad_signature", good)
        short["signatures"][0]["sig"] = text(sig)
        yield short
    yield case("an unknown key", "unknown_key", good, key="stranger")
    yield {**case("no signature at all", "unknown_key", good), "signatures": []}
    yield case("a lower number than seen", "stale", good, seen=18)
    yield case("expired this very millisecond", "expired", good, now_ms=NOW_MS + 89 * DAY_MS)
    yield case("expired long ago", "expired", catalogue(issued_at=1, expires_at=2))
    yield case("a floor below the one seen", "floor_lowered", good, floor=39)
    yield case("a higher number with a lower floor", "floor_lowered", catalogue(number=99, floor=0))
    yield case("another app", "wrong_app", catalogue(app="other"))
    yield case("another model", "wrong_model", catalogue(model="churn"))
    yield case("another app comes before another model", "wrong_app", catalogue(app="other", model="churn"))
    yield case("stale comes before expired", "stale", good, seen=18, now_ms=NOW_MS + 90 * DAY_MS)
    yield case("a lowered floor comes before expired", "floor_lowered", good, floor=39, now_ms=NOW_MS + 90 * DAY_MS)
    yield from malformed_cases()


def malformed_cases() -> Iterator[Json]:
    case = catalogue_case
    yield case("not JSON", "malformed", b"catalogue")
    yield case("no bytes", "malformed", b"")
    yield case("cut in half", "malformed", encoded(catalogue())[:200])
    yield case("another type", "malformed", catalogue(type="keys/v1"))
    yield case("a number below 1", "malformed", catalogue(number=0))
    yield case("a path that leaves the artifacts", "malformed", catalogue(releases=[stray_release("artifacts/../x")]))
    yield case("a path to another host", "malformed", catalogue(releases=[stray_release("https://evil.example/x")]))
    yield case("a hash that is none", "malformed", catalogue(releases=[release(42, "", [], sha256="ABC")]))
    yield case("a size beyond every bound", "malformed", catalogue(releases=[release(42, "", [], size=2**40)]))
    threshold = {"threshold": 1.5, "explore": 0.0}
    yield case("a threshold above 1", "malformed", catalogue(releases=[release(42, "", [], parameters=threshold)]))
    yield case("65537 bytes", "malformed", encoded(catalogue()).ljust(65_537))
    yield case("65536 bytes", "ok", encoded(catalogue()).ljust(65_536))


def stray_release(path: str) -> Json:
    return release(42, "", [], downloads=[{"encoding": "identity", "path": path, "size": 7671}])


def catalogues() -> Json:
    about = (
        "A device that holds `keys` (raw Ed25519 keys by name; a name is the first 16 hex digits of the key's SHA-256) "
        "and is app `app` with model `model`, has seen catalogue number `seen` (its bytes are `seen_document`, where "
        "given) and floor `floor` (0: none), and whose clock says `now_ms`, is given `document` (base64 of the exact "
        "bytes) with `signatures` (over `context` + the bytes). `code` is its verdict. The signature is judged before "
        "anything is parsed; then, in this order: "
        "malformed, wrong_app, wrong_model, stale, floor_lowered, expired; the first that applies is the code."
    )
    keys = {key_name(name): text(public_key(name)) for name in ("r1", "r2")}
    return {
        "about": about,
        "codes": CODES,
        "context": CONTEXT.decode(),
        "keys": keys,
        "cases": list(catalogue_cases()),
    }


def rendered(vectors: Json) -> str:
    return json.dumps(vectors, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (DIRECTORY / "catalogues.json").write_text(rendered(catalogues()), encoding="utf-8")
