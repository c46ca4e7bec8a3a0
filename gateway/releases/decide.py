"""Decide what a device runs: a pure function of the snapshot and of what the device says of itself."""

from collections.abc import Mapping

from msgspec import Struct

from gateway.releases.rules import ModelRules
from schemas.records import Told
from schemas.wire import CatalogueNews, Envelope, Use


class Decision(Struct, frozen=True):
    """What one batch is answered. `told` goes on the log's `offer` header; the rest into the reply, where not empty."""

    told: dict[str, Told]
    use: dict[str, Use]
    catalogues: dict[str, CatalogueNews]
    inline: dict[str, bytes]


def decide(models: Mapping[str, ModelRules], envelope: Envelope) -> Decision:
    """Answer every model that the device names in `have` and that has a catalogue."""
    raise NotImplementedError
