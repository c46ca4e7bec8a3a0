"""What a batch says besides its events: who the device is, what it has, and what it lost.

* The kept document says when it was made; what is sent says when it is sent. A reader dates events by the difference
  between `sent_at` and its own clock, so the hours that a batch waited for its retry must not be in it.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway.client.queue import Contents
from gateway.client.transport import pack
from schemas.wire import Have, RawBatch

_encode: Final = msgspec.json.Encoder().encode
_batch: Final = msgspec.json.Decoder(RawBatch)
# Labels on the wire are at most this long; a longer system name is cut rather than refused with its whole batch.
_LABEL_CHARACTERS: Final = 64


class Facts(Struct, frozen=True):
    """What does not change while the app runs. `carried` names per model the values that predictions carry."""

    sdk: str
    app_version: str
    os: str
    hardware: str
    locale: str
    carried: Mapping[str, Sequence[str]]


class Unreadable(Exception):
    """A kept document that is no batch: what the disk says is not what was written."""


def compose(contents: Contents, facts: Facts, have: dict[str, Have], keys: int, made_at: int) -> bytes:
    """Return a batch's document, to be kept until it is answered.

    Every model's signals are named, not only those of the events inside: they bound what the gateway may offer.
    """
    carried = {model: list(names) for model, names in facts.carried.items()}
    batch = RawBatch(
        device=contents.device,
        batch=contents.batch,
        seq=contents.seq,
        sent_at=made_at,
        sdk=facts.sdk,
        app_version=facts.app_version[:_LABEL_CHARACTERS],
        os=facts.os[:_LABEL_CHARACTERS],
        hardware=facts.hardware[:_LABEL_CHARACTERS],
        locale=facts.locale[:_LABEL_CHARACTERS],
        have=have,
        ledger=contents.ledger,
        signals=carried | contents.signals,
        keys=keys,
        events=[msgspec.Raw(event) for event in contents.events],
    )
    return _encode(batch)


def made_at(document: bytes) -> int:
    """Return when a document was made, in epoch ms of the device. Raises `Unreadable`."""
    return _read(document).sent_at


def sent_now(document: bytes, now_ms: int) -> bytes:
    """Return the body to send now, compressed. Raises `Unreadable`."""
    return pack(_encode(replace(_read(document), sent_at=now_ms)))


def _read(document: bytes) -> RawBatch:
    try:
        return _batch.decode(document)
    except ValueError as error:
        raise Unreadable(str(error)) from error
