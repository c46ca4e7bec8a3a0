"""Turn a batch record into plain JSON events: what stands once in the batch is repeated in each of its events.

* Names are those of the warehouse's table. A field that is absent has its default, as on the wire.
* (app, device, batch, index) is the event's identity: a batch that a device sent again gives the same again. Devices
  choose the batch's id, so by itself it identifies nothing.
* (seq, index) is its place among its device's events, whichever way they came.
* The event's own JSON is encoded once and spliced behind the batch's: 3 microseconds an event.
"""

from typing import Final

import msgspec
from msgspec import Struct

from schemas.reading import read_batch
from schemas.records import StoredRecord, Told
from schemas.wire import LAST_MILLISECOND, Event, Prediction, RawBatch

_encoder: Final = msgspec.json.Encoder()


class Context(Struct, frozen=True, omit_defaults=True):
    """What all events of a batch share."""

    app: str
    device: str
    batch: str
    seq: int
    received_at: int
    gateway: str
    sdk: str
    app_version: str = ""
    os: str = ""
    hardware: str = ""
    locale: str = ""


class Place(Struct, frozen=True, omit_defaults=True):
    """What is an event's own beside what the device said: `offered`, `arm` and `rollout` are of its model."""

    index: int
    occurred_at: int
    signals: dict[str, float | None] = {}
    offered: str = ""
    arm: str = ""
    rollout: int = 0


def plain_events(record: StoredRecord) -> list[bytes]:
    """Return the JSON of each accepted event of a batch. Raises `Malformed`."""
    about, batch, events = read_batch(record)
    context = Context(
        app=about.app,
        device=batch.device,
        batch=batch.batch,
        seq=batch.seq,
        received_at=about.received_at,
        gateway=about.gateway,
        sdk=batch.sdk,
        app_version=batch.app_version,
        os=batch.os,
        hardware=batch.hardware,
        locale=batch.locale,
    )
    head = _encoder.encode(context)[:-1] + b","
    moved = about.received_at - batch.sent_at
    untold = Told(use="")  # type: ignore[arg-type]  # nothing was told of this model
    plain = []
    for index, event in events:
        place = _place(index, event, batch, moved, about.offer.get(event.model, untold))
        if isinstance(event, Prediction) and event.signals:
            event = msgspec.structs.replace(event, signals=[])
        plain.append(head + _encoder.encode(place)[1:-1] + b"," + _encoder.encode(event)[1:])
    return plain


def _place(index: int, event: Event, batch: RawBatch, moved_ms: int, told: Told) -> Place:
    occurred_at = max(0, min(event.t + moved_ms, LAST_MILLISECOND))
    values = event.signals if isinstance(event, Prediction) else []
    signals = dict(zip(batch.signals.get(event.model, ()), values, strict=False))
    return Place(index, occurred_at, signals, str(told.use), told.arm, told.rollout)
