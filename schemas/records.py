"""What stands on the log: a batch's record with its headers, and a dead letter.

* The value of a `batches` record is the body exactly as the device sent it; what the gateway knows is in headers.
* Header names are the contract's; `events` counts the batch's events, refused ones included, so that a consumer can
  tell when its JSON reader sees another document than the gateway's did.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from schemas.topics import BATCHES, DEAD_LETTERS
from schemas.wire import Use

# Stands for the gateway in batches that were refused once, or dropped by their device, and came back from the dead
# letters: the ledgers count them there already. No gateway can have this name, since a name has no spaces.
REPLAYED_BY: Final = "replayed dead letter"

Headers = tuple[tuple[str, bytes], ...]


class Record(Struct, frozen=True):
    """A record to publish. `key` chooses the partition; headers are (name, value) pairs, as on Kafka."""

    topic: str
    key: bytes
    value: bytes
    headers: Headers = ()


class StoredRecord(Struct, frozen=True):
    """A record read back, with its place on the log."""

    topic: str
    partition: int
    offset: int
    key: bytes
    value: bytes
    headers: Headers


class Told(Struct, frozen=True, omit_defaults=True):
    """What the gateway told a device to use of one model, and why: the arm and rollout, empty where none ran."""

    use: Use
    arm: str = ""
    rollout: int = 0


class BatchHeaders(Struct, frozen=True, kw_only=True):
    """What the gateway knows of an accepted batch. `refused` lists the event indexes to skip; `offer` is per model."""

    app: str
    content_encoding: str
    received_at: int
    gateway: str
    batch: str
    events: int
    refused: tuple[int, ...] = ()
    offer: dict[str, Told] = {}


class DeadLetter(Struct, frozen=True, kw_only=True):
    """Something refused, kept.

    * A refused event: `index` is its place in the batch, `encoding` is "json", `body` its JSON text, cut where it is
      longer than any real event (the batch's own record has all of it).
    * A refused body: `index` is null, `encoding` its content encoding, `body` base64 of the body as it was sent.
    """

    app: str
    received_at: Annotated[int, Meta(description="epoch milliseconds, gateway clock")]
    device: str | None
    batch: str | None
    index: int | None
    reason: str
    encoding: str
    body: str


class Malformed(ValueError):
    """A record on the log that is not what its topic promises."""


_offer_encoder = msgspec.json.Encoder()
_offer_decoder = msgspec.json.Decoder(dict[str, Told])
_letter_decoder = msgspec.json.Decoder(DeadLetter)


def batch_record(device: str, body: bytes, about: BatchHeaders) -> Record:
    """Put an accepted batch on the log: the body untouched, keyed by device so that its batches stay in order."""
    headers: list[tuple[str, bytes]] = [
        ("app", about.app.encode()),
        ("content-encoding", about.content_encoding.encode()),
        ("received_at", b"%d" % about.received_at),
        ("gateway", about.gateway.encode()),
        ("batch", about.batch.encode()),
        ("events", b"%d" % about.events),
    ]
    if about.refused:
        headers.append(("refused", ",".join(map(str, about.refused)).encode()))
    if about.offer:
        headers.append(("offer", _offer_encoder.encode(about.offer)))
    return Record(BATCHES, device.encode(), body, tuple(headers))


def batch_headers(record: StoredRecord) -> BatchHeaders:
    """Read back what the gateway knew. Raises `Malformed` where a header is missing or not readable."""
    found = {name: value.decode("utf-8", "replace") for name, value in record.headers}
    try:
        refused = found.get("refused", "")
        return BatchHeaders(
            app=found["app"],
            content_encoding=found["content-encoding"],
            received_at=int(found["received_at"]),
            gateway=found["gateway"],
            batch=found["batch"],
            events=int(found["events"]),
            refused=tuple(map(int, refused.split(","))) if refused else (),
            offer=_offer_decoder.decode(found.get("offer", "{}")),
        )
    except (KeyError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise Malformed(f"batch headers: {error!r}") from error


def dead_letter_record(letter: DeadLetter) -> Record:
    """Put a dead letter on the log, beside its device's others where the device is known."""
    return Record(DEAD_LETTERS, (letter.device or letter.app).encode(), msgspec.json.encode(letter))


def dead_letter(record: StoredRecord) -> DeadLetter:
    """Read a dead letter back. Raises `Malformed`."""
    try:
        return _letter_decoder.decode(record.value)
    except ValueError as error:
        raise Malformed(f"dead letter: {error}") from error
