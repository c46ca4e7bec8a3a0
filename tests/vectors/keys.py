"""Write `schemas/vectors/keys.json`: lists of release keys, good and bad, and the verdict on each.

* `python tests/vectors/keys.py` writes the file again; a test compares it with what this makes.
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
CONTEXT: Final = b"keys/v1\n"
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


def key_list(**changes: Any) -> Json:
    whole: Json = {
        "type": "keys/v1",
        "app": "shop",
        "version": 3,
        "issued_at": NOW_MS - DAY_MS,
        "expires_at": NOW_MS + 300 * DAY_MS,
        "threshold": 2,
        "keys": [text(public_key("release"))],
    }
    return {**whole, **changes}


def encoded(document: Json) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def case(
    name: str,
    code: str,
    document: Json | bytes,
    *,
    signers: tuple[str, ...] = ("r1", "r2"),
    context: bytes = CONTEXT,
    **device: Any,
) -> Json:
    data = document if isinstance(document, bytes) else encoded(document)
    signatures = [{"key": key_name(each), "sig": text(private_key(each).sign(context + data))} for each in signers]
    knows = {"threshold": 2, "seen_version": 2, "seen_threshold": 2, "now_ms": NOW_MS, **device}
    return {"name": name, "code": code, "document": text(data), "signatures": signatures, **knows}


def cases() -> Iterator[Json]:
    good = key_list()
    yield case("two of three roots", "ok", good)
    yield case("all three roots", "ok", good, signers=("r1", "r2", "r3"))
    yield case("the version that was seen", "ok", good, seen_version=3)
    yield case(
        "the version that was seen, in the same bytes", "ok", good, seen_version=3, seen_document=text(encoded(good))
    )
    yield case("the version that was seen, in other bytes", "stale", good, seen_version=3,
               seen_document=text(encoded(key_list(keys=[]))))  # fmt: skip
    yield case("a later version than the bytes that were seen", "ok", good,
               seen_document=text(encoded(key_list(version=2))))  # fmt: skip
    yield case("floors", "ok", key_list(floors={"upsell": 38, "churn": 0}))
    yield case("a field of a later version is ignored", "ok", key_list(later=[1]))
    yield case("no list seen yet", "ok", good, seen_version=0, seen_threshold=0)
    yield case("a list of no keys", "ok", key_list(keys=[]))
    yield case("one root too few", "too_few_signatures", good, signers=("r1",))
    yield case("one root twice", "too_few_signatures", good, signers=("r1", "r1"))
    yield case("a root and a stranger", "too_few_signatures", good, signers=("r1", "stranger"))
    yield case("a root and the release key", "too_few_signatures", good, signers=("r1", "release"))
    yield case("signed as a catalogue", "too_few_signatures", good, context=b"catalogue/v1\n")
    yield case("nobody signed", "too_few_signatures", good, signers=())
    yield case("fewer than the list itself asks for", "too_few_signatures", key_list(threshold=3))
    yield case("fewer than the list before asked for", "too_few_signatures", good, seen_threshold=3)
    yield case("fewer than that, though the app asks for one", "too_few_signatures", key_list(threshold=1),
               threshold=1, signers=("r1",))  # fmt: skip
    yield case("a lower threshold, signed by enough", "ok", key_list(threshold=1), threshold=1)
    yield case("a threshold below the app's", "threshold_lowered", key_list(threshold=1))
    yield case("an older version", "stale", good, seen_version=4)
    yield case("another app", "wrong_app", key_list(app="other"))
    yield case("expired this very millisecond", "expired", good, now_ms=NOW_MS + 300 * DAY_MS)
    yield case("stale comes before expired", "stale", good, seen_version=4, now_ms=NOW_MS + 301 * DAY_MS)
    yield case("expired on a device that has seen none", "expired", good, seen_version=0, seen_threshold=0,
               now_ms=NOW_MS + 301 * DAY_MS)  # fmt: skip
    yield case("not JSON", "malformed", b"keys")
    yield case("another type", "malformed", key_list(type="catalogue/v1"))
    yield case("version 0", "malformed", key_list(version=0))
    yield case("threshold 0", "malformed", key_list(threshold=0))
    yield case("a key of 31 bytes", "malformed", key_list(keys=[text(bytes(31))]))
    yield case("a floor below 0", "malformed", key_list(floors={"upsell": -1}))
    yield case("a floor beyond every release", "malformed", key_list(floors={"upsell": 2**32}))
    yield case("a floor of no model", "malformed", key_list(floors={"../upsell": 1}))
    yield case("8193 bytes", "malformed", encoded(good).ljust(8193))
    yield case("8192 bytes", "ok", encoded(good).ljust(8192))


def floors() -> Iterator[Json]:
    def case(name: str, runs: bool, release: int, seen: int, listed: Json | None) -> Json:
        return {"name": name, "runs": runs, "model": "upsell", "release": release, "seen": seen, "list": listed}

    yield case("no list, the catalogue's floor", True, 38, 38, None)
    yield case("no list, below the catalogue's floor", False, 37, 38, None)
    yield case("at the list's floor", True, 40, 38, {"upsell": 40})
    yield case("below the list's floor", False, 39, 38, {"upsell": 40})
    yield case("a list's floor below the catalogue's lowers nothing", False, 37, 38, {"upsell": 10})
    yield case("after the catalogue went with its key, the list's stays", False, 39, 0, {"upsell": 40})
    yield case("another model's floor", True, 38, 38, {"churn": 40})
    yield case("a list without floors", True, 38, 38, {})


def keys() -> Json:
    about = (
        "A device of the app `shop` that holds `roots` (raw Ed25519 keys by name), asks for `threshold` of them, and "
        "has accepted list `seen_version` with `seen_threshold` (0: none), whose bytes were `seen_document` where that "
        "is given, and whose clock says `now_ms`, is given `document` (base64 of the exact bytes) with `signatures` "
        "(over `context` + the bytes). `code` is its verdict, the first that applies: malformed for size, "
        "too_few_signatures by the app's threshold, malformed, wrong_app, stale (an older version, or the same in "
        "other bytes), too_few_signatures by the list's own threshold and the one seen, threshold_lowered, expired. "
        "A list that is ok counts from then on. So does one that is expired, on a device that has accepted one before: "
        "what it no longer names is revoked, and nothing new is installed by what it names. `floors`: a release that "
        "the catalogue lists `runs` unless it is below the highest floor `seen` in a catalogue that counts (0: none) "
        "or below its model's in `list`, the newest list's floors."
    )
    roots = {key_name(name): text(public_key(name)) for name in ("r1", "r2", "r3")}
    made = {"cases": list(cases()), "floors": list(floors())}
    return {"about": about, "context": CONTEXT.decode(), "roots": roots, **made}


def rendered(vectors: Json) -> str:
    return json.dumps(vectors, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (DIRECTORY / "keys.json").write_text(rendered(keys()), encoding="utf-8")
