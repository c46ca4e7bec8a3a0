"""Ten thousand bodies, good and hostile, through a real gateway onto a real log.

Every answer is one that the contract knows, nothing fails unforeseen, and what was received is on the log to the event.
"""

import asyncio
import gzip
import io
import json
import logging
import random
import struct
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import orjson
import pytest
from aiohttp import web
from backports.zstd import compress

from consumers.source import EmbeddedSource
from gateway.app import create_app
from gateway.config import Config
from gateway.publish.embedded import EmbeddedLog
from gateway.releases import apps
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store
from schemas import reasons
from schemas.reading import read_batch
from schemas.topics import BATCHES, DEAD_LETTERS

BODIES: Final = 10_000
AT_ONCE: Final = 32
SEED: Final = 20261122
VECTORS: Final = orjson.loads((Path(reasons.__file__).parent / "vectors" / "batches.json").read_bytes())
ENVELOPE: Final[dict[str, Any]] = VECTORS["envelope"]
GOOD: Final = [vector["event"] for vector in VECTORS["events"] if vector["reason"] is None]
BAD: Final = [vector["event"] for vector in VECTORS["events"] if vector["reason"] is not None and "event" in vector]
PACK: Final[dict[str, Callable[[bytes], bytes]]] = {
    "gzip": lambda body: gzip.compress(body, 1),
    "zstd": compress,
    "identity": bytes,
}
# Every status of the contract but 401, 403, 429 and 503, which no body brings about.
ANY: Final = frozenset({200, 400, 413})


class Shot(NamedTuple):
    """A request, and which statuses may answer it; `accepted` where it is known beforehand."""

    kind: str
    encoding: str
    body: bytes
    statuses: frozenset[int]
    accepted: int | None = None
    refused: int | None = None


def of(kind: str, encoding: str, body: bytes, *statuses: int) -> Shot:
    return Shot(kind, encoding, body, frozenset(statuses) or ANY)


def document(dice: random.Random, events: list[Any]) -> bytes:
    return orjson.dumps({**ENVELOPE, "seq": dice.randrange(2**53), "events": events})


def mixed(dice: random.Random) -> Shot:
    """Good and bad events side by side: the counts are known."""
    good = [dice.choice(GOOD) for _ in range(dice.choice((0, 1, 3, 50)))]
    bad = [dice.choice(BAD) for _ in range(dice.choice((0, 0, 1, 2)))]
    events = good + bad
    dice.shuffle(events)
    encoding = dice.choice(list(PACK))
    body = PACK[encoding](document(dice, events))
    return Shot("mixed", encoding, body, frozenset({200}), len(good), len(bad))


def odd_value(dice: random.Random) -> Any:
    return dice.choice(
        (None, True, -1, 0.5, 2**64, -(10**300), "", "x" * 65, "\u0000", "é", [], {}, [[]], {"a": {}}, float("nan"))
    )


def odd_field(dice: random.Random) -> Shot:
    """One value of the envelope or of an event replaced or taken away."""
    batch = orjson.loads(document(dice, [dict(dice.choice(GOOD)) for _ in range(3)]))
    target = dice.choice([batch, *batch["events"]])
    field = dice.choice(list(target))
    if dice.random() < 0.2:
        del target[field]
    else:
        target[field] = odd_value(dice)
    encoding = dice.choice(list(PACK))
    return of("odd field", encoding, PACK[encoding](json.dumps(batch).encode()), 200, 400)


def flipped(dice: random.Random) -> Shot:
    """A few bytes of the JSON, or of its packed form, changed."""
    body = bytearray(document(dice, [dice.choice(GOOD + BAD) for _ in range(3)]))
    encoding = dice.choice(list(PACK))
    packed = bytearray(PACK[encoding](bytes(body)))
    victim = body if dice.random() < 0.7 else packed
    for _ in range(dice.randint(1, 4)):
        victim[dice.randrange(len(victim))] = dice.randrange(256)
    return of("flipped", encoding, bytes(packed) if victim is packed else PACK[encoding](bytes(body)))


def cut(dice: random.Random) -> Shot:
    encoding = dice.choice(list(PACK))
    packed = PACK[encoding](document(dice, [dice.choice(GOOD)]))
    return of("cut", encoding, packed[: dice.randrange(len(packed))], 400)


def mislabelled(dice: random.Random) -> Shot:
    packed = dice.choice((PACK["gzip"], PACK["zstd"], zlib.compress))(document(dice, [dice.choice(GOOD)]))
    return of("mislabelled", "identity", packed, 400)


def unpacked(dice: random.Random) -> Shot:
    return of("unpacked", dice.choice(("gzip", "zstd")), document(dice, [dice.choice(GOOD)]), 400)


def doubled(dice: random.Random) -> Shot:
    encoding = dice.choice(("gzip", "zstd"))
    packed = PACK[encoding](document(dice, []))
    return of("doubled", encoding, packed + dice.choice((packed, b"\0", b"x" * 9)), 400)


def nested(dice: random.Random) -> Shot:
    depth = dice.choice((10, 300, 5_000, 100_000))
    inner = dice.choice((b"[" * depth + b"]" * depth, b"[" * depth, b'{"a":' * depth + b"1" + b"}" * depth))
    place = dice.choice((b'"x":%b,"events":[]}', b'"events":[%b]}', b'"events":%b}'))
    return of("nested", "gzip", gzip.compress(orjson.dumps(ENVELOPE)[:-1] + b"," + place % inner, 1), 200, 400)


BOMBS: Final = [
    ("gzip", gzip.compress(b" " * (2**23 + 1), 9)),
    ("gzip", gzip.compress(orjson.dumps(ENVELOPE)[:-1] + b',"events":[' + b"0," * 4_000_000 + b"0]}", 9)),
    ("gzip", gzip.compress(orjson.dumps(ENVELOPE)[:-1] + b',"events":[{"signals":[' + b"0," * 4_000_000 + b"0]}]}", 9)),
    ("zstd", compress(b" " * (2**23 + 1))),
    ("zstd", compress(b"[" * 2**23 + b" ")),
]


def bomb(dice: random.Random) -> Shot:
    return of("bomb", *dice.choice(BOMBS), 413)


def declared(dice: random.Random) -> Shot:
    """A zstd frame that declares one size and holds another (RFC 8878, section 3.1.1.1)."""
    size = dice.choice((0, 1, 2**20, 2**31, 2**40, 2**63))
    blocks = b"".join(struct.pack("<I", 0b010 | (131_072 << 3))[:3] + b" " for _ in range(dice.choice((0, 1, 100))))
    last = struct.pack("<I", 0b001 | (2 << 3))[:3] + b"{}"
    head = b"\x28\xb5\x2f\xfd\xc0" + dice.choice((b"\x58", b"\xf8")) + struct.pack("<Q", size)
    return of("declared", "zstd", head + blocks + last, 400, 413)


def crowded(dice: random.Random) -> Shot:
    events = [dice.choice(GOOD)] * dice.choice((1000, 1001, 1500)) + [7] * dice.choice((0, 1))
    status = 200 if len(events) <= 1000 else 413
    return of("crowded", "gzip", PACK["gzip"](document(dice, events)), status)


def noise(dice: random.Random) -> Shot:
    return of("noise", dice.choice(list(PACK)), dice.randbytes(dice.choice((0, 1, 20, 2000))), 400)


def too_long(dice: random.Random) -> Shot:
    return of("too long", "gzip", dice.randbytes(2**20 + 1), 413)


KINDS: Final[dict[Callable[[random.Random], Shot], int]] = {
    mixed: 300, odd_field: 250, flipped: 250, cut: 60, mislabelled: 20, unpacked: 20,
    doubled: 20, nested: 20, declared: 20, noise: 20, crowded: 5, bomb: 8, too_long: 2,
}  # fmt: skip


def shots(seed: int) -> Iterator[Shot]:
    dice = random.Random(seed)  # noqa: S311 - a repeatable test
    for kind in dice.choices(list(KINDS), list(KINDS.values()), k=BODIES):
        yield kind(dice)


class Target(NamedTuple):
    """What is shot at."""

    url: str
    key: str
    session: aiohttp.ClientSession
    source: EmbeddedSource


@pytest.fixture
async def target(tmp_path: Path) -> AsyncIterator[Target]:
    store = Store.open("memory://")
    key = await apps.create_app(store, "shop", 1)
    snapshots = SnapshotKeeper(store)
    await snapshots.refresh()
    sink = await EmbeddedLog.open(tmp_path, max_bytes=2**32, max_pending_bytes=2**28)
    app = create_app(Config(), sink=sink, snapshots=snapshots, store=store)
    runner = web.AppRunner(app, auto_decompress=False, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    source = await EmbeddedSource.open(tmp_path, "reader")
    host, port = runner.addresses[0][:2]
    async with aiohttp.ClientSession() as session:
        yield Target(f"http://{host}:{port}", key, session, source)
    await source.close()
    await runner.cleanup()
    await sink.close()


async def shoot(target: Target, shot: Shot, dice: random.Random) -> tuple[int, dict[str, Any]]:
    headers = {
        "Authorization": f"Bearer {target.key}",
        "Content-Type": "application/json",
        "Content-Encoding": shot.encoding,
    }
    data = pieces(shot.body) if dice.random() < 0.1 else io.BytesIO(shot.body)
    async with target.session.post(f"{target.url}/v1/batches", data=data, headers=headers) as response:
        return response.status, orjson.loads(await response.read())


async def pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 4096):
        yield body[start : start + 4096]


async def test_ten_thousand_bodies_end_as_the_contract_says(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    dice = random.Random(SEED)  # noqa: S311 - a repeatable test
    ends: Counter[str] = Counter()
    queue = shots(SEED)

    async def worker() -> None:
        for shot in queue:
            status, answer = await shoot(target, shot, dice)
            assert status in shot.statuses, (shot.kind, status, answer, shot.body[:200])
            ends[f"{shot.kind} {status}"] += 1
            ends[str(status)] += 1
            if status != 200:
                assert answer["status"] == status
                continue
            refused = len(answer.get("refused", []))
            ends["accepted"] += answer["accepted"]
            ends["refused"] += refused
            if shot.accepted is not None:
                assert (answer["accepted"], refused) == (shot.accepted, shot.refused)

    async with asyncio.TaskGroup() as workers:
        for _ in range(AT_ONCE):
            workers.create_task(worker())
    print(dict(sorted(ends.items())))  # noqa: T201 - shown when the test fails
    assert ends["200"] + ends["400"] + ends["413"] == BODIES
    assert min(ends["200"], ends["400"], ends["413"]) > 50
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    await check_the_log(target.source, ends)
    await check_the_counts(target, ends)


async def check_the_log(source: EmbeddedSource, ends: Counter[str]) -> None:
    """What was answered is what is stored: the same batches, the same events, a letter for each refusal."""
    stored = events = first = 0
    while records := await source.read(BATCHES, 0, first, max_records=500, max_bytes=2**26):
        first = records[-1].offset + 1
        stored += len(records)
        events += sum(len(read_batch(record)[2]) for record in records)
    assert (stored, events) == (ends["200"], ends["accepted"])
    assert await source.end(DEAD_LETTERS, 0) == ends["400"] + ends["refused"]


async def check_the_counts(target: Target, ends: Counter[str]) -> None:
    async with target.session.get(f"{target.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    counts: Counter[str] = Counter()
    for line in lines:
        name, _, value = line.rpartition(" ")
        counts[name.partition("{")[0]] += int(float(value)) if name.startswith("backhaul_events_total{") else 0
    assert counts["backhaul_events_total"] == ends["accepted"] + ends["refused"]
    assert "backhaul_in_flight_bytes 0.0" in lines
