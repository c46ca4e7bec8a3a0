"""Judge a dead letter again, by the rules of today, and make the records that bring it back.

* Pure: what is known of the letter's batch is a parameter.
* **Once, however often it is replayed.** An event comes back as a batch of its own, whose identity is made of the
  letter's digest; a body comes back as the batch that it is, with the identity that its device gave it. Both are
  stored once, like any batch that is sent again.
* **Where it belongs.** It keeps its device, its times, its arm and its sequence number, so that it joins what came
  with it, and says nothing newer about its device than the device did.
* **Counted once.** A refused event and a dropped body are in the ledgers as such: `REPLAYED_BY` marks what came back.
  A record that no consumer could read was accepted, so it comes back as its gateway's, into its own place.
"""

import base64
import uuid
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from gateway.decode import Caps, Decoded, decode
from gateway.letters import event_letters
from gateway.problems import BatchTooLarge, MalformedBody
from schemas.encoding import ENCODINGS
from schemas.records import (
    REPLAYED_BY,
    BatchHeaders,
    DeadLetter,
    Malformed,
    Record,
    StoredRecord,
    Told,
    batch_headers,
    batch_record,
)
from schemas.topics import BATCHES
from schemas.wire import Envelope, RawBatch

_NAMESPACE: Final = uuid.UUID("8f2f0f5c-6a3e-5c0e-9a57-4f2f5d0b7c11")
_UNREADABLE: Final = "record"
_DOCUMENT: Final = "json"


class Around(Struct, frozen=True):
    """What is known of a refused event's batch: all but its events, and what the gateway had told the device."""

    envelope: Envelope
    offer: dict[str, Told] = {}


class KeptRecord(Struct, frozen=True):
    """A record that no consumer could read, as its letter keeps it; bytes are base64 in JSON."""

    why: str
    key: bytes
    headers: list[tuple[str, bytes]]
    value: bytes


class Replayed(Struct, frozen=True):
    """What would come back: the records, their batch, how many events it accepts, and which it refuses for what."""

    records: list[Record]
    device: str
    batch: str
    accepted: int
    refused: Mapping[int, str]


class RefusedAgain(Exception):
    """The letter is refused by today's rules too; the text is the reason."""


def replayed(letter: DeadLetter, digest: str, around: Around | None, topic: str, caps: Caps, gateway: str) -> Replayed:
    """Judge the letter; `topic` is where an unreadable record stood, `around` is needed for an event.

    Raises `RefusedAgain`.
    """
    try:
        if letter.index is not None:
            return _event(letter, digest, around, caps)
        if letter.encoding == _UNREADABLE:
            return _record(letter, topic, caps, gateway)
        if letter.encoding == _DOCUMENT:
            return _batch(letter, letter.body.encode(), "identity", caps, gateway)
        if letter.encoding in ENCODINGS:
            return _batch(letter, base64.b64decode(letter.body), letter.encoding, caps, REPLAYED_BY)
    except MalformedBody as malformed:
        raise RefusedAgain(malformed.reason) from malformed
    except BatchTooLarge as error:
        raise RefusedAgain(f"too_large: {error}") from error
    except ValueError as error:
        raise RefusedAgain(f"the letter itself is damaged: {error}") from error
    raise RefusedAgain(f"unknown encoding {letter.encoding!r}")


def batch_of_event(digest: str) -> str:
    """Return the identity of the batch as which a refused event comes back."""
    return str(uuid.uuid5(_NAMESPACE, digest))


def _event(letter: DeadLetter, digest: str, around: Around | None, caps: Caps) -> Replayed:
    if around is None:
        raise RefusedAgain("its batch is not in the warehouse")
    batch = batch_of_event(digest)
    # The text may be cut; spliced in unread, half an event must not become another document.
    msgspec.json.decode(letter.body)
    whole = {name: getattr(around.envelope, name) for name in Envelope.__struct_fields__} | {"batch": batch}
    body = msgspec.json.encode(RawBatch(**whole, events=[Raw(letter.body.encode())]))
    decoded = decode(body, "identity", caps)
    if decoded.refused:
        raise RefusedAgain(decoded.refused[0].refusal.reason)
    about = _about(letter, batch, decoded, "identity", REPLAYED_BY)
    return _replayed(body, replace(about, offer=around.offer), decoded)


def _batch(letter: DeadLetter, body: bytes, encoding: str, caps: Caps, gateway: str) -> Replayed:
    decoded = decode(body, encoding, caps)
    return _replayed(body, _about(letter, decoded.envelope.batch, decoded, encoding, gateway), decoded)


def _record(letter: DeadLetter, topic: str, caps: Caps, gateway: str) -> Replayed:
    if topic != BATCHES:
        raise RefusedAgain(f"an unreadable record of {topic}, which holds no batches")
    kept = msgspec.json.decode(letter.body, type=KeptRecord)
    headers = dict(kept.headers)
    encoding = headers.get("content-encoding", b"").decode("utf-8", "replace")
    decoded = decode(kept.value, encoding, caps)
    about = _about(letter, decoded.envelope.batch, decoded, encoding, gateway)
    try:
        was = batch_headers(StoredRecord(topic, 0, 0, kept.key, kept.value, tuple(kept.headers)))
        about = replace(about, gateway=was.gateway, offer=was.offer)
    except Malformed:
        pass
    return _replayed(kept.value, about, decoded)


def _about(letter: DeadLetter, batch: str, decoded: Decoded, encoding: str, gateway: str) -> BatchHeaders:
    if not letter.app:
        raise RefusedAgain("nobody knows which app it is of")
    return BatchHeaders(
        app=letter.app,
        content_encoding=encoding,
        received_at=letter.received_at,
        gateway=gateway,
        batch=batch,
        events=decoded.events,
        refused=tuple(refused.refusal.index for refused in decoded.refused),
    )


def _replayed(body: bytes, about: BatchHeaders, decoded: Decoded) -> Replayed:
    return Replayed(
        records=[batch_record(decoded.envelope.device, body, about), *event_letters(about, decoded)],
        device=decoded.envelope.device,
        batch=about.batch,
        accepted=decoded.events - len(decoded.refused),
        refused={refused.refusal.index: refused.refusal.reason for refused in decoded.refused},
    )
