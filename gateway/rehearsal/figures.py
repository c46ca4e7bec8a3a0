"""The figures that are set side by side: made in the same way of what was measured and of what was simulated."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from msgspec import Struct

from gateway.client.fleet.simulation.outage import smooth
from gateway.client.fleet.simulation.tallies import RATE_BIN_SECONDS
from gateway.client.fleet.simulation.workload import DAY_SECONDS, HOUR_SECONDS, Floats, Lives
from gateway.rehearsal.plan import Moments, Plan

STEADY_BINS: Final = 60
# Two thousand devices send three hundred requests in an hour: in less, a peak is an accident.
_PEAK_BINS: Final = 60
_PEAK_WITHIN_SECONDS: Final = 6 * HOUR_SECONDS
# Until here devices meet the gateway for the first time.
_WARM_SHARE: Final = 1 / 8


@dataclass(frozen=True)
class Trace:
    """What a fleet did: requests by the minute, when each device heard of the new catalogue (infinity: never)."""

    requests: Floats
    learned_at: Floats
    stopped_decisions: float
    refused: int
    told_seconds_most: float


class Figures(Struct, frozen=True, kw_only=True):
    """A rehearsal's figures, measured or predicted; None where too few devices learned to say it.

    `peak_over_steady` is of an hour. `stopped_release_decisions`: per device that ran the release when it was stopped.
    """

    requests_per_device_day: float
    peak_over_steady: float
    learn_p50_hours: float | None
    learn_p95_hours: float | None
    stopped_release_decisions: float
    refused_share: float
    told_seconds_most: float
    events_lost: int
    events_doubled: int


def figures(
    plan: Plan, lives: Lives, moments: Moments, steady: Floats, trace: Trace, lost: int, doubled: int
) -> Figures:
    """Make them; `steady` is the rate per second, minute by minute, of the same fleet if nothing had happened."""
    warm = int(plan.seconds * _WARM_SHARE / RATE_BIN_SECONDS)
    learned = trace.learned_at[used_since(lives, moments.published)] - moments.published
    return Figures(
        requests_per_device_day=float(trace.requests[warm:].sum()) / plan.devices / (plan.days * (1 - _WARM_SHARE)),
        peak_over_steady=_peak(plan, moments, steady, trace.requests),
        learn_p50_hours=_hours(learned, 50),
        learn_p95_hours=_hours(learned, 95),
        stopped_release_decisions=trace.stopped_decisions,
        refused_share=trace.refused / max(1.0, float(trace.requests.sum())),
        told_seconds_most=trace.told_seconds_most,
        events_lost=lost,
        events_doubled=doubled,
    )


def used_since(lives: Lives, moment: float) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Say which devices are in use at some time from that moment on."""
    owner = np.repeat(np.arange(lives.devices), np.diff(lives.first_session))
    used: np.ndarray[tuple[int], np.dtype[np.bool_]] = (
        np.bincount(owner[lives.left >= moment], minlength=lives.devices) > 0
    )
    return used


def by_minute(plan: Plan, moments: list[float]) -> Floats:
    """Count moments by the minute."""
    bins = int(plan.seconds / RATE_BIN_SECONDS)
    counts, _ = np.histogram(moments, bins=bins, range=(0.0, bins * RATE_BIN_SECONDS))
    return counts.astype(np.float64)


def _peak(plan: Plan, moments: Moments, steady: Floats, requests: Floats) -> float:
    """Return the busiest hour that begins after the outage, over the same hour if nothing had happened."""
    half = _PEAK_BINS // 2
    first = int(moments.back / RATE_BIN_SECONDS) + half
    last = min(int((moments.back + _PEAK_WITHIN_SECONDS) / RATE_BIN_SECONDS), len(steady) - STEADY_BINS // 2)
    rate = smooth(requests.astype(np.int64), _PEAK_BINS) / RATE_BIN_SECONDS
    over = (rate / steady)[first:last]
    return float(over.max(initial=0.0))


def _hours(seconds: Floats, percent: float) -> float | None:
    """Return a percentile of the devices, those that never learned among them."""
    if not len(seconds):
        return None
    found = float(np.percentile(seconds, percent, method="higher"))
    return found / HOUR_SECONDS if np.isfinite(found) else None


def device_days(plan: Plan) -> float:
    """Return how many days the devices lived together."""
    return plan.devices * plan.seconds / DAY_SECONDS
