"""The one reader that turns a `batches` record into accepted events."""

from typing import Final

import msgspec

from schemas.encoding import Damaged, TooLarge, inflate
from schemas.records import BatchHeaders, Malformed, StoredRecord, batch_headers
from schemas.wire import Event, RawBatch

# No gateway accepts more; a record above this was not written by one.
MAX_DOCUMENT_BYTES: Final = 64 * 1024 * 1024

_batch = msgspec.json.Decoder(RawBatch)
_event: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def read_document(record: StoredRecord, about: BatchHeaders) -> bytes:
    """Return the record's JSON document, inflated. Raises `Malformed`."""
    try:
        return inflate(record.value, about.content_encoding, MAX_DOCUMENT_BYTES)
    except (Damaged, TooLarge) as error:
        raise Malformed(str(error)) from error


def read_batch(record: StoredRecord) -> tuple[BatchHeaders, RawBatch, list[tuple[int, Event]]]:
    """Return the headers, the batch and its accepted events, each with its index. Raises `Malformed`."""
    about = batch_headers(record)
    try:
        batch = _batch.decode(read_document(record, about))
        refused = frozenset(about.refused)
        events = [(i, _event.decode(raw)) for i, raw in enumerate(batch.events) if i not in refused]
    except (ValueError, RecursionError) as error:
        raise Malformed(f"batch document: {error}") from error
    return about, batch, events
