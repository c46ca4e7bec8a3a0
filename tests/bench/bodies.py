"""Make up batches of the contract's shape: the same seed gives the same bytes to every program that is measured.

* Encoded by the wire's own types, so a body cannot drift from the contract.
* What compresses is as in life: values of a device hang together, times are a session's, scores are as the client
  records them.
"""

import gzip
import math
import uuid
import zlib
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from struct import pack
from typing import Final

import msgspec
from msgspec import Struct

from gateway.client.decision import SCORE_DIGITS
from schemas.wire import Batch, Event, Have, Ledger, ModelEvent, Outcome, Prediction

MODEL: Final = "upsell"
SIGNALS: Final = (
    "battery_level",
    "charging",
    "session_seconds",
    "items_viewed",
    "days_since_install",
    "sessions_today",
    "low_power_mode",
    "scroll_speed",
    "volume",
    "hour_of_day",
    "wifi",
    "last_purchase_days",
)
GZIP_LEVEL: Final = 6
_GZIP_HEADER: Final = bytes.fromhex("1f8b08000000000000ff")
_UUID_CHARACTERS: Final = 36
_FIRST_MS: Final = 1_795_334_400_000
_HARDWARE: Final = ("iPhone15,3", "iPhone16,1", "iPhone14,5", "iPhone17,2")
_LOCALES: Final = ("de_AT", "en_US", "fr_FR", "ja_JP")


class Shape(Struct, frozen=True):
    """How large a batch is; `catalogue` and `use` are what its device has of the model."""

    events: int
    signals: int
    catalogue: int = 2
    use: int = 1


def bodies(shape: Shape, count: int, seed: int) -> list[bytes]:
    """Return batches as devices send them, compressed."""
    dice = Random(seed)  # noqa: S311 - made-up devices
    return [gzip.compress(_document(shape, dice), GZIP_LEVEL, mtime=0) for _ in range(count)]


def distinct(some: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Yield `count` batches, each with an identity of its own, out of some bodies: what is stored once is not repeated.

    To compress each anew would take minutes. A gzip body may begin with bytes that are stored as they are, so only
    these, which hold the identity, and the checksum are new.
    """
    dice = Random(seed)  # noqa: S311 - made-up devices
    split = [_split(gzip.decompress(body)) for body in some]
    for number in range(count):
        before, rest, packed = split[number % len(split)]
        head = before + _uuid(dice).encode()
        stored = pack("<BHH", 0, len(head), len(head) ^ 0xFFFF) + head
        check = pack("<II", zlib.crc32(rest, zlib.crc32(head)), len(head) + len(rest))
        yield _GZIP_HEADER + stored + packed + check


def _split(document: bytes) -> tuple[bytes, bytes, bytes]:
    """Return what stands before a document's identity, what stands after it, and that compressed."""
    before, name, after = document.partition(b'"batch":"')
    rest = after[_UUID_CHARACTERS:]
    packer = zlib.compressobj(GZIP_LEVEL, wbits=-zlib.MAX_WBITS)
    return before + name, rest, packer.compress(rest) + packer.flush()


def framed(all_bodies: Iterable[bytes]) -> bytes:
    """Return bodies as the load generator reads them: each after its length in four bytes."""
    return b"".join(pack("<I", len(body)) + body for body in all_bodies)


def _document(shape: Shape, dice: Random) -> bytes:
    started_ms = _FIRST_MS + dice.randrange(86_400_000)
    events = _events(shape, dice, started_ms)
    batch = Batch(
        device=_uuid(dice),
        batch=_uuid(dice),
        seq=dice.randrange(1, 3000),
        sent_at=(events[-1].t if events else started_ms) + dice.randrange(50, 5000),
        sdk="2.3.0",
        app_version=f"5.{dice.randrange(4)}.0",
        os=f"iOS 19.{dice.randrange(3)}",
        hardware=dice.choice(_HARDWARE),
        locale=dice.choice(_LOCALES),
        have={MODEL: Have(catalogue=shape.catalogue, use=shape.use)},
        ledger=Ledger(produced=dice.randrange(100, 50_000)),
        signals={MODEL: list(SIGNALS[: shape.signals])},
        events=events,
    )
    return msgspec.json.encode(batch)


def _events(shape: Shape, dice: Random, t: int) -> list[Event]:
    """Return mostly predictions, some with their outcome, some outcomes that came later, and a step of an update."""
    number, values, events = dice.randrange(1, 20_000), _first_signals(dice), list[Event]()
    for index in range(shape.events):
        t += math.ceil(dice.expovariate(1 / 9000))
        kind = dice.random()
        if index == 0 and kind < 0.1:
            events.append(ModelEvent(t=t, model=MODEL, release=shape.use, state="activated", bytes=7671, ms=41))
        elif kind > 0.9:
            events.append(Outcome(id=number - dice.randrange(1, 9), t=t, model=MODEL, outcome=_label(dice)))
        else:
            number += 1
            values = _next_signals(values, dice)
            events.append(_prediction(shape, dice, number, t, values))
    return events


def _prediction(shape: Shape, dice: Random, number: int, t: int, values: list[float | None]) -> Prediction:
    score = 1 / (1 + math.exp(-dice.gauss(-1.0, 1.0)))
    known = dice.random() < 0.6
    return Prediction(
        id=number,
        t=t,
        model=MODEL,
        release=shape.use,
        source="ota",
        score=round(score, SCORE_DIGITS),
        decision=score > 0.6,
        explored=dice.random() < 0.05,
        propensity=0.95,
        latency_us=dice.randrange(180, 900),
        signals=values[: shape.signals],
        outcome=_label(dice) if known else None,
        value=0.0 if known else None,
    )


def _label(dice: Random) -> str:
    return "Purchased" if dice.random() < 0.1 else "Dismissed"


def _first_signals(dice: Random) -> list[float | None]:
    return [
        round(dice.uniform(0.03, 1.0), 2),
        float(dice.random() < 0.35),
        0.0,
        0.0,
        float(dice.randrange(400)),
        float(dice.randrange(1, 9)),
        float(dice.random() < 0.1),
        round(dice.lognormvariate(0.0, 0.7), 2),
        round(dice.random(), 2),
        float(dice.randrange(24)),
        float(dice.random() < 0.7),
        float(dice.randrange(90)) if dice.random() < 0.3 else None,
    ]


def _next_signals(values: list[float | None], dice: Random) -> list[float | None]:
    """Return the values some seconds on: a session grows, the battery falls, most others stay."""
    battery, _, seconds, viewed, *_ = values
    after = list(values)
    after[0] = max(0.01, round((battery or 0.0) - 0.01 * (dice.random() < 0.2), 2))
    after[2] = (seconds or 0.0) + math.ceil(dice.expovariate(1 / 9))
    after[3] = (viewed or 0.0) + float(dice.random() < 0.5)
    after[7] = round(dice.lognormvariate(0.0, 0.7), 2)
    return after


def _uuid(dice: Random) -> str:
    return str(uuid.UUID(int=dice.getrandbits(128), version=4))
