"""Turn samples into a table: medians over rounds, and each program's quotient to the floor of the same round.

* Pure. A quotient is taken round by round before its median, so that a disturbed round disturbs both of its sides.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from statistics import median
from typing import Final

from msgspec import Struct

FLOOR: Final = "floor"


class Sample(Struct, frozen=True):
    """One program in one round."""

    program: str
    round: int
    batches: int
    cpu_us: float
    system_share: float
    batches_per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    peak_mib: float


class Row(Struct, frozen=True, kw_only=True):
    """One program over all rounds. Processor time is per batch; `events_per_second` is per core."""

    about: str
    quotient_to_floor: float | None
    quotient_least: float | None
    quotient_most: float | None
    cpu_us: float
    cpu_us_least: float
    user_us: float
    system_us: float
    events_per_second: float
    batches_per_second: float
    p50_ms: float
    p99_ms: float
    peak_mib: float
    batches: int
    rounds: int


def rows(samples: Sequence[Sample], about: Mapping[str, str], events: int) -> dict[str, Row]:
    """Return one row per program, the cheapest first."""
    by_program: dict[str, list[Sample]] = {}
    for sample in samples:
        by_program.setdefault(sample.program, []).append(sample)
    floor = {sample.round: sample.cpu_us for sample in by_program.get(FLOOR, [])}
    made = {name: _row(own, floor, about.get(name, ""), events) for name, own in by_program.items()}
    return dict(sorted(made.items(), key=lambda item: item[1].cpu_us))


def _row(samples: Sequence[Sample], floor: Mapping[int, float], about: str, events: int) -> Row:
    cpu_us = median(sample.cpu_us for sample in samples)
    system = median(sample.system_share for sample in samples)
    quotients = [sample.cpu_us / floor[sample.round] for sample in samples if sample.round in floor]
    return Row(
        about=about,
        quotient_to_floor=median(quotients) if quotients else None,
        quotient_least=min(quotients, default=None),
        quotient_most=max(quotients, default=None),
        cpu_us=cpu_us,
        cpu_us_least=min(sample.cpu_us for sample in samples),
        user_us=cpu_us * (1 - system),
        system_us=cpu_us * system,
        events_per_second=events / cpu_us * 1e6,
        batches_per_second=median(sample.batches_per_second for sample in samples),
        p50_ms=median(sample.p50_ms for sample in samples),
        p99_ms=median(sample.p99_ms for sample in samples),
        peak_mib=max(sample.peak_mib for sample in samples),
        batches=sum(sample.batches for sample in samples),
        rounds=len(samples),
    )


def paired(
    samples: Sequence[Sample], one: str, other: str, of: Callable[[Sample], float] = attrgetter("cpu_us")
) -> float | None:
    """Return a figure of one program, its processor time, as a multiple of another's, taken round by round."""
    found = {(sample.program, sample.round): of(sample) for sample in samples}
    rounds = {sample.round for sample in samples}
    times = [found[one, n] / found[other, n] for n in rounds if (one, n) in found and (other, n) in found]
    return median(times) if times else None
