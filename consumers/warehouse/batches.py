"""Turn a range of the topic `batches` into rows for the landing table.

* The fast path moves bytes: the document as the device sent it, inflated, beside what the gateway knew of it.
* A batch with refused events, and every batch of a range in which the server saw another batch, count or bound, is
  rendered anew from its accepted events: the one reader of `schemas` decides, and the server gets plain JSON.
* A record that even that reader cannot read becomes a dead letter, whole, with its place on the log.
"""

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct

from consumers.warehouse import rowbinary as rb
from consumers.warehouse.cargo import Missing
from consumers.warehouse.letters import Letter, fresh_letters, kept_time, unreadable_letter
from consumers.warehouse.plans import Lane, Origin, origin_of
from consumers.warehouse.tables import BatchKey, Tables
from schemas.reading import read_batch, read_document
from schemas.records import BatchHeaders, StoredRecord, batch_headers
from schemas.wire import Batch, Envelope

STRUCTURE: Final = (
    "log String, topic String, partition UInt32, offset UInt64, app String, device UUID, batch UUID, "
    "received_at Int64, gateway String, expected UInt32, refused UInt32, indexes Array(UInt32), offer String, "
    "document String, strict Bool, already_batch Bool, already_events Bool, digest FixedString(16), "
    "reason String, encoding String"
)
_NIL: Final = "00000000-0000-0000-0000-000000000000"
_NO_OFFER: Final = b"{}"
_encoder = msgspec.json.Encoder()


class Document(Struct, frozen=True):
    """A batch ready to land: its row but for the two flags that say what is stored of it already."""

    origin: Origin
    key: BatchKey
    received_at: int
    expected: int
    strict: bool
    digest: bytes
    before: bytes
    json: bytes
    after: bytes

    @property
    def unreadable(self) -> bool:
        """Say that this could be read."""
        return False

    @property
    def size_bytes(self) -> int:
        """Return what this holds of the consumer's memory, roughly."""
        return len(self.before) + len(self.json)

    def row(self, already_batch: bool, already_events: bool) -> tuple[bytes, bytes, bytes]:
        """Return the row of the landing table, in pieces: the document is copied once, into what is sent."""
        flags = rb.boolean(self.strict) + rb.boolean(already_batch) + rb.boolean(already_events)
        return self.before, self.json, flags + self.after


def _head(origin: Origin, app: str, device: str, batch: str, received_at: int, gateway: str) -> bytes:
    return b"".join(
        (
            rb.text(origin.log),
            rb.text(origin.topic),
            rb.uint32(origin.partition),
            rb.uint64(origin.offset),
            rb.text(app),
            rb.uuid(device),
            rb.uuid(batch),
            rb.int64(kept_time(received_at)),
            rb.text(gateway),
        )
    )


def _letter_row(letter: Letter) -> bytes:
    nothing = rb.uint32(0) + rb.uint32(0) + rb.uint32_array(()) + rb.blob(_NO_OFFER)
    flags = rb.FALSE * 3
    return b"".join(
        (
            _head(letter.origin, letter.app, _NIL, _NIL, letter.received_at, ""),
            nothing,
            rb.text(letter.body),
            flags,
            letter.digest,
            rb.text(letter.reason),
            rb.text(letter.encoding),
        )
    )


def _quickly(lane: Lane, record: StoredRecord) -> Document:
    about = batch_headers(record)
    if about.refused:
        return _safely(lane, record)
    json = read_document(record, about)
    return _document(lane, record, about, record.key.decode(), json, about.events, (), strict=True)


def _safely(lane: Lane, record: StoredRecord, *, strict: bool = True) -> Document:
    about, raw, events = read_batch(record)
    context = {name: getattr(raw, name) for name in Envelope.__struct_fields__}
    json = _encoder.encode(Batch(**context, events=[event for _, event in events]))
    indexes = tuple(index for index, _ in events)
    return _document(lane, record, about, raw.device, json, len(events), indexes, strict=strict)


def _document(
    lane: Lane,
    record: StoredRecord,
    about: BatchHeaders,
    device: str,
    json: bytes,
    expected: int,
    indexes: tuple[int, ...],
    *,
    strict: bool,
) -> Document:
    origin = origin_of(lane, record)
    key = (about.app, str(UUID(device)), str(UUID(about.batch)))
    # What the server calls unreadable becomes a dead letter under this digest; a strict insert makes none.
    digest = bytes(16) if strict else hashlib.blake2b(json, digest_size=16).digest()
    before = (
        _head(origin, *key, about.received_at, about.gateway),
        rb.uint32(expected),
        rb.uint32(len(about.refused)),
        rb.uint32_array(indexes),
        rb.blob(_encoder.encode(about.offer) if about.offer else _NO_OFFER),
        rb.varint(len(json)),
    )
    after = digest + rb.text("") + rb.text("json")
    return Document(origin, key, about.received_at, expected, strict, digest, b"".join(before), json, after)


def _first_of_each(documents: Sequence[Document], stored: Mapping[BatchKey, set[Origin]]) -> list[Document]:
    """Return the documents that are no resends: the lowest offset of each batch, unless stored from elsewhere."""
    fresh: dict[BatchKey, Document] = {}
    for document in documents:
        origins = stored.get(document.key)
        if document.origin in origins if origins else document.key not in fresh:
            fresh[document.key] = document
    return list(fresh.values())


class Batches:
    """How the warehouse takes the topic `batches`."""

    table: Final = "landing"
    structure: Final = STRUCTURE

    def read(self, lane: Lane, record: StoredRecord, safe: bool, now_ms: int) -> Document | Letter:
        """Return the record made ready; `safe` renders its document anew, and lands it whatever the server thinks."""
        try:
            return _safely(lane, record, strict=False) if safe else _quickly(lane, record)
        except (ValueError, OverflowError, struct.error) as error:  # Malformed is a ValueError
            return unreadable_letter(lane, record, str(error), now_ms)

    async def missing(self, tables: Tables, items: Sequence[Document | Letter], again: bool) -> Missing:
        """Return the rows that are not stored yet, and how many batches and letters were sent again.

        `again`: an earlier try may have written some of them, so every table is asked, not only `batches`.
        """
        documents = [item for item in items if isinstance(item, Document)]
        stored = await tables.batch_origins({item.key for item in documents})
        refused = await tables.letter_origins({item.digest for item in documents if not item.strict})
        fresh = [item for item in _first_of_each(documents, stored) if item.strict or item.digest not in refused]
        own = {item.key for item in fresh if item.origin in stored.get(item.key, ())}
        with_events = await _with_events(tables, fresh) if fresh and (again or own) else set()
        rows = [
            piece
            for item in fresh
            if item.key not in own or (item.expected and item.key not in with_events)
            for piece in item.row(item.key in own, item.key in with_events)
        ]
        letters, repeated = await fresh_letters(tables, [item for item in items if isinstance(item, Letter)])
        rows += [_letter_row(letter) for letter in letters]
        return Missing(rows, len(documents) - len(fresh) + repeated, sum(item.expected for item in fresh))


async def _with_events(tables: Tables, documents: Sequence[Document]) -> set[BatchKey]:
    times = [kept_time(document.received_at) for document in documents]
    return await tables.batches_with_events({document.key for document in documents}, (min(times), max(times)))
