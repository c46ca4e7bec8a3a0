"""What a batch says besides its events: who the device is, what it has, and what it lost."""

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from gateway.client.queue import Contents
from gateway.client.transport import pack
from schemas.wire import Have, RawBatch

_encode: Final = msgspec.json.Encoder().encode
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


def compose(contents: Contents, facts: Facts, have: dict[str, Have], keys: int, sent_at: int) -> bytes:
    """Return a batch's body, compressed.

    Every model's signals are named, not only those of the events inside: they bound what the gateway may offer.
    """
    carried = {model: list(names) for model, names in facts.carried.items()}
    batch = RawBatch(
        device=contents.device,
        batch=contents.batch,
        seq=contents.seq,
        sent_at=sent_at,
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
    return pack(_encode(batch))
