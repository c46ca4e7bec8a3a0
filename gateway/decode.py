"""Turn a body into a batch and its refusals: pure, strict, and never larger in memory than its caps allow.

* The usual batch costs one typed pass. Only when that finds fault is each event judged alone, from its own text.
* Every event ends as accepted or refused: `len(refused)` plus the accepted ones is `events`.
* Tried and not kept, on 12 signals: one array per field instead of one object per event takes 6 % fewer bytes and 26
  microseconds to decode where these take 27, since most of both are numbers; `list[float]` first, and nulls only where
  it fails, wins a tenth of that for the few batches without a null.
* What is not UTF-8 JSON from end to end, or nested deeper than the decoder goes, is no batch: nothing of it is taken.
"""

import re
from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Struct

from gateway.problems import BatchTooLarge, MalformedBody
from schemas import reasons
from schemas.encoding import Damaged, TooLarge, inflate
from schemas.wire import MAX_SIGNALS, Batch, Envelope, Event, Prediction, RawBatch, Refusal

# A small hostile body inflates into millions of tiny values, each some fifty bytes as an object. An event that the
# types accept has fewer values than this; below the length, even nothing but values cannot hurt.
_VALUES_PER_EVENT: Final = MAX_SIGNALS + 64
_CROWD_BYTES: Final = 256 * 1024

_FIELD: Final = re.compile(r" - at `(?:key` in `)?\$\.(\w+)[^`]*`\Z")
_MISSING_FIELD: Final = re.compile(r"Object missing required field `(\w+)`\Z")
_NOT_AN_OBJECT: Final = re.compile(r"Expected `object`, got `\w+`\Z")

_batch: Final = msgspec.json.Decoder(Batch)
_raw_batch: Final = msgspec.json.Decoder(RawBatch)
_event: Final[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)


class Caps(Struct, frozen=True):
    """How large a batch may be."""

    inflated_max_bytes: int
    batch_max_events: int


class Refused(Struct, frozen=True):
    """An event that was not accepted, with its JSON text."""

    refusal: Refusal
    text: str


class Decoded(Struct, frozen=True):
    """A batch without its events: how many there were, and those that were refused."""

    envelope: Envelope
    events: int
    refused: tuple[Refused, ...] = ()


def decode(body: bytes, encoding: str, caps: Caps) -> Decoded:
    """Return what a body holds. Raises `MalformedBody` or `BatchTooLarge`."""
    document = _document(body, encoding, caps)
    try:
        batch = _batch.decode(document)
    except msgspec.ValidationError:
        return _event_by_event(document, caps)
    except ValueError as error:
        raise MalformedBody(reasons.NOT_JSON, str(error)) from error
    except RecursionError as error:
        raise MalformedBody(reasons.NESTED_TOO_DEEP, "nested too deep") from error
    if batch.events and not _signals_match(batch.events, _signal_counts(batch)):
        return _event_by_event(document, caps)
    events = _counted(len(batch.events), caps)
    # Thousands of objects that live on while the log is awaited cost a fifth of the throughput.
    batch.events.clear()
    return Decoded(batch, events)


def _document(body: bytes, encoding: str, caps: Caps) -> bytes:
    try:
        document = inflate(body, encoding, caps.inflated_max_bytes)
    except TooLarge as error:
        raise BatchTooLarge(f"the body inflates to {error}") from error
    except Damaged as error:
        raise MalformedBody(reasons.ENCODING_DAMAGED, str(error)) from error
    if not document:
        raise MalformedBody(reasons.NOT_JSON, "the body is empty")
    if not document.isascii():
        _check_utf8(document)
    if len(document) > _CROWD_BYTES and document.count(b",") > caps.batch_max_events * _VALUES_PER_EVENT:
        raise BatchTooLarge(f"more values than {caps.batch_max_events} events can have")
    return document


def _check_utf8(document: bytes) -> None:
    """Raises `MalformedBody`. The decoder skips unknown fields unread, so they could carry anything."""
    try:
        document.decode()
    except UnicodeDecodeError as error:
        raise MalformedBody(reasons.NOT_UTF8, f"not UTF-8 at byte {error.start}") from error


def _event_by_event(document: bytes, caps: Caps) -> Decoded:
    try:
        batch = _raw_batch.decode(document)
        count = _counted(len(batch.events), caps)
        refused = tuple(_refused(batch.events, _signal_counts(batch)))
    except msgspec.ValidationError as error:
        raise MalformedBody(reasons.ENVELOPE_INVALID, _readable(str(error))) from error
    except ValueError as error:
        raise MalformedBody(reasons.NOT_JSON, str(error)) from error
    except RecursionError as error:
        raise MalformedBody(reasons.NESTED_TOO_DEEP, "nested too deep") from error
    batch.events.clear()
    return Decoded(batch, count, refused)


def _readable(message: str) -> str:
    """Say a broken pattern in words: an identity is the only part of an envelope that has one."""
    field = _FIELD.search(message)
    if field is None or "matching regex" not in message:
        return message
    return f"{field.group(1)}: a UUID in lower-case canonical form"


def _refused(events: list[msgspec.Raw], counts: dict[str, int]) -> Iterable[Refused]:
    for index, raw in enumerate(events):
        reason = _fault(raw, counts)
        if reason is not None:
            yield Refused(Refusal(index, reason), bytes(raw).decode())


def _fault(raw: msgspec.Raw, counts: dict[str, int]) -> str | None:
    """Return why an event is refused, None where it is accepted."""
    try:
        event = _event.decode(raw)
    except msgspec.ValidationError as error:
        return reason_of(str(error))
    return None if _signals_match((event,), counts) else reasons.SIGNALS_MISMATCH


def _signal_counts(batch: Envelope) -> dict[str, int]:
    # A name that repeats would lose a value where names become keys: no list of values matches such names.
    return {model: len(names) if len(set(names)) == len(names) else -1 for model, names in batch.signals.items()}


def _signals_match(events: Iterable[Event], counts: dict[str, int]) -> bool:
    # Fifty times a batch: `type is` costs a third of an isinstance, a list three quarters of `all` with a generator.
    named = counts.get
    return not [event for event in events if type(event) is Prediction and len(event.signals) != named(event.model, 0)]


def _counted(events: int, caps: Caps) -> int:
    if events > caps.batch_max_events:
        raise BatchTooLarge(f"{events} events; a batch may have {caps.batch_max_events}")
    return events


def reason_of(message: str) -> str:
    """Return the reason code for what msgspec says of an event.

    Its messages name the field and the constraint; no other part of its errors does. The golden vectors pin them.
    """
    if missing := _MISSING_FIELD.search(message):
        return _known(missing.group(1), reasons.MISSING)
    if field := _FIELD.search(message):
        return _known(field.group(1), _fault_kind(message))
    return reasons.NOT_AN_OBJECT if _NOT_AN_OBJECT.match(message) else reasons.INVALID


def _fault_kind(message: str) -> str:
    if message.startswith("Invalid "):  # a value that its enumeration does not list
        return reasons.UNKNOWN
    if " of length " in message:
        return reasons.WRONG_LENGTH
    if "out of range" in message or "` >= " in message or "` <= " in message:
        return reasons.OUT_OF_RANGE
    return reasons.WRONG_TYPE


def _known(field: str, fault: str) -> str:
    reason = f"{field}_{fault}"
    return reason if reason in reasons.EVENT_REASONS else reasons.INVALID
