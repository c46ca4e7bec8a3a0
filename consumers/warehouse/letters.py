"""Turn a range of the topic `dead_letters`, and records that nobody can read, into rows of the table `dead_letters`.

* A dead letter's identity is its digest: of app, device, batch and index, or of app and body where there is no batch;
  a device that sends the same refused thing again leaves one row.
* An unreadable record keeps its value (base64) and its headers (in the body's JSON), so that it can be replayed.
"""

import base64
import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec import Struct

from consumers.warehouse import rowbinary as rb
from consumers.warehouse.cargo import Missing
from consumers.warehouse.plans import Lane, Origin, origin_of
from consumers.warehouse.tables import Tables
from schemas.records import Malformed, StoredRecord, dead_letter

STRUCTURE: Final = (
    "digest FixedString(16), app String, received_at DateTime64(3), device String, batch String, "
    "`index` Nullable(UInt32), reason String, encoding String, body String, "
    "log String, topic String, partition UInt32, offset UInt64"
)
UNREADABLE: Final = "unreadable_record"
# ClickHouse's DateTime, by which rows expire, ends in 2106; a gateway's clock beyond 2100 is a broken one.
LAST_RECEIVED_MS: Final = 4_102_444_800_000


class Letter(Struct, frozen=True):
    """A dead letter ready to be stored."""

    origin: Origin
    digest: bytes
    app: str
    received_at: int
    device: str
    batch: str
    index: int | None
    reason: str
    encoding: str
    body: str

    @property
    def expected(self) -> int:
        """Return how many rows of `events` this makes: none."""
        return 0

    @property
    def unreadable(self) -> bool:
        """Say whether this is a record that nobody could read."""
        return self.reason == UNREADABLE

    @property
    def size_bytes(self) -> int:
        """Return what this holds of the consumer's memory, roughly."""
        return len(self.body)

    def row(self) -> bytes:
        """Return the row of the table `dead_letters`."""
        return b"".join(
            (
                self.digest,
                rb.text(self.app),
                rb.int64(kept_time(self.received_at)),
                rb.text(self.device),
                rb.text(self.batch),
                rb.nullable_uint32(self.index),
                rb.text(self.reason),
                rb.text(self.encoding),
                rb.text(self.body),
                rb.text(self.origin.log),
                rb.text(self.origin.topic),
                rb.uint32(self.origin.partition),
                rb.uint64(self.origin.offset),
            )
        )


def kept_time(received_at: int) -> int:
    """Return the time moved into what the warehouse can hold, milliseconds."""
    return min(max(received_at, 0), LAST_RECEIVED_MS)


def unreadable_letter(lane: Lane, record: StoredRecord, why: str, now_ms: int) -> Letter:
    """Return a record that nobody can read as a dead letter, with everything that was on the log."""
    headers = {name: value.decode("utf-8", "replace") for name, value in record.headers}
    received = headers.get("received_at", "")
    body = {
        "why": why,
        "key": base64.b64encode(record.key).decode(),
        "headers": [[name, base64.b64encode(value).decode()] for name, value in record.headers],
        "value": base64.b64encode(record.value).decode(),
    }
    return Letter(
        origin=origin_of(lane, record),
        digest=_digest(["record", base64.b64encode(record.key).decode(), body["headers"], body["value"]]),
        app=headers.get("app", ""),
        # A row of 1970 would expire at once, so one without a time gets the time it was read.
        received_at=int(received) if received.isascii() and received.isdigit() and len(received) < 20 else now_ms,
        device="",
        batch="",
        index=None,
        reason=UNREADABLE,
        encoding="record",
        body=msgspec.json.encode(body).decode(),
    )


def _letter_of(lane: Lane, record: StoredRecord) -> Letter:
    found = dead_letter(record)
    identity: list[str | int | None] = [found.app, found.device, found.batch, found.index]
    if found.batch is None:
        identity = [found.app, found.encoding, found.body]
    if found.index is not None and not 0 <= found.index < 2**32:
        raise Malformed(f"dead letter: index {found.index}")
    return Letter(
        origin=origin_of(lane, record),
        digest=_digest(identity),
        app=found.app,
        received_at=found.received_at,
        device=found.device or "",
        batch=found.batch or "",
        index=found.index,
        reason=found.reason,
        encoding=found.encoding,
        body=found.body,
    )


def _digest(identity: object) -> bytes:
    return hashlib.blake2b(msgspec.json.encode(identity), digest_size=16).digest()


async def fresh_letters(tables: Tables, letters: Sequence[Letter]) -> tuple[list[Letter], int]:
    """Return the letters that are not stored yet, the first of each digest, and how many came again."""
    stored = await tables.letter_origins({letter.digest for letter in letters})
    fresh: dict[bytes, Letter] = {}
    again = 0
    for letter in letters:
        origins = stored.get(letter.digest, set())
        if letter.origin in origins:
            continue
        if origins or letter.digest in fresh:
            again += 1
        else:
            fresh[letter.digest] = letter
    return list(fresh.values()), again


class Letters:
    """How the warehouse takes the topic `dead_letters`."""

    table: Final = "dead_letters"
    structure: Final = STRUCTURE

    def read(self, lane: Lane, record: StoredRecord, safe: bool, now_ms: int) -> Letter:
        """Return the record made ready; there is one way only, so `safe` changes nothing."""
        try:
            return _letter_of(lane, record)
        except Malformed as error:
            return unreadable_letter(lane, record, str(error), now_ms)

    async def missing(self, tables: Tables, items: Sequence[Letter], again: bool) -> Missing:
        """Return the rows that are not stored yet and how many letters came again."""
        fresh, repeated = await fresh_letters(tables, items)
        return Missing([letter.row() for letter in fresh], repeated, 0)
