"""Measured beside predicted, and where they differ.

* A prediction is what the draws of the dice gave, from the lowest to the highest; a measurement differs when it is
  further from all of them than a tenth.
"""

from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from gateway.rehearsal.figures import Figures

_TOLERANCE: Final = 0.1
# Below this a tenth is nothing: a share, or decisions per device.
_LEAST: Final = 0.01
_NAMES: Final = {
    "requests_per_device_day": "requests a device-day",
    "peak_over_steady": "busiest hour after the outage / steady",
    "learn_p50_hours": "half have learned, hours",
    "learn_p95_hours": "95 % have learned, hours",
    "stopped_release_decisions": "decisions on the stopped release, per device that ran it",
    "refused_share": "requests refused, share",
    "told_seconds_most": "longest flush interval told, seconds",
    "events_lost": "events lost",
    "events_doubled": "events doubled",
}


class Side(Struct, frozen=True):
    """One figure on both sides; `ratio` is measured over predicted, None where there is nothing to divide by."""

    name: str
    measured: float | None
    predicted: float | None
    lowest: float | None
    highest: float | None
    ratio: float | None
    differs: bool


def sides(measured: Figures, predicted: list[Figures]) -> Iterator[Side]:
    """Yield every figure."""
    for field, name in _NAMES.items():
        found = getattr(measured, field)
        drawn = [value for each in predicted if (value := getattr(each, field)) is not None]
        if found is None or not drawn:
            # Too few have learned on one side, or on both, or it was close: in some draws enough had.
            differs = not drawn if found is not None else len(drawn) == len(predicted)
            yield Side(name, found, None, None, None, None, differs=differs)
            continue
        mean, lowest, highest = sum(drawn) / len(drawn), min(drawn), max(drawn)
        room = max(_LEAST, _TOLERANCE * mean) if mean else 0.0
        yield Side(
            name=name,
            measured=found,
            predicted=mean,
            lowest=lowest,
            highest=highest,
            ratio=found / mean if mean else None,
            differs=not lowest - room <= found <= highest + room,
        )
