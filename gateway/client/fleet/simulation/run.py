"""Simulate a fleet under several policies, chunk by chunk, and say what each cost and brought.

* The same lives, the same seed: what differs between two policies is the policies.
* Chunks know nothing of each other, so every core takes its own; the counts are the same however many there are.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
from msgspec import Struct

from gateway.client.fleet.simulation.engine import Fleet
from gateway.client.fleet.simulation.gateways import SteadyGateway
from gateway.client.fleet.simulation.policies import Policy
from gateway.client.fleet.simulation.tallies import RATE_BIN_SECONDS, Histogram, Tallies
from gateway.client.fleet.simulation.workload import DAY_SECONDS, HOUR_SECONDS, Workload, draw_lives

# Small enough for a chunk's columns to stay near the processor, large enough for numpy to be worth its calls.
CHUNK_DEVICES = 20_000


class PolicyReport(Struct, frozen=True, kw_only=True):
    """One policy's figures. Hours of learning are those of devices that are used after the publication, the ones that
    never heard of it among them; None is beyond the end. Latencies are those of events that arrived.
    `requests_per_second_by_hour`: of a million devices, by the hour of the day (UTC)."""

    requests_per_device_day: float
    wake_ups_per_device_day: float
    outcome_latency_p50_hours: float | None
    outcome_latency_p95_hours: float | None
    outcome_latency_p99_hours: float | None
    learn_p50_hours: float | None
    learn_p95_hours: float | None
    learn_p99_hours: float | None
    stopped_release_decisions: float
    requests_per_second_per_million: float
    requests_per_second_by_hour: list[float]
    peak_hour_over_mean: float
    events_dropped: int
    events_waiting: int


class Simulated(Struct, frozen=True, kw_only=True):
    """A fleet's figures: what its users did, what is possible at best, and what each policy makes of it."""

    devices: int
    days: float
    launches_per_device_day: float
    decisions_per_device_day: float
    used_p50_hours: float | None
    used_p95_hours: float | None
    used_p99_hours: float | None
    policies: dict[str, PolicyReport]


Watcher = Callable[[int], None]


def simulate(
    workload: Workload, devices: int, policies: Sequence[Policy], seed: int, watch: Watcher | None = None
) -> tuple[Simulated, dict[str, Tallies]]:
    """Run every policy over the same devices. Return the figures and, for plots, the counts."""
    tallies = {policy.name: Tallies(workload) for policy in policies}
    launches = decisions = done = 0
    for chunk in _lived(workload, devices, policies, seed):
        launches += chunk.launches
        decisions += chunk.decisions
        done += chunk.devices
        for name, tally in chunk.tallies.items():
            tallies[name].add_all(tally)
        if watch is not None:
            watch(done)
    device_days = devices * workload.days
    used = next(iter(tallies.values())).used
    simulated = Simulated(
        devices=devices,
        days=workload.days,
        launches_per_device_day=launches / device_days,
        decisions_per_device_day=decisions / device_days,
        used_p50_hours=_hours(used, 50),
        used_p95_hours=_hours(used, 95),
        used_p99_hours=_hours(used, 99),
        policies={name: report(tally, workload) for name, tally in tallies.items()},
    )
    return simulated, tallies


def report(tally: Tallies, workload: Workload) -> PolicyReport:
    """Turn counts into figures."""
    measured_days = (workload.seconds - workload.warm_seconds) / DAY_SECONDS
    active = int(tally.used.settle().sum())
    per_day = tally.requests / (tally.devices * measured_days)
    by_hour = rate_of_day(tally, workload, 24)
    return PolicyReport(
        requests_per_device_day=per_day,
        wake_ups_per_device_day=tally.wake_ups / (tally.devices * measured_days),
        outcome_latency_p50_hours=_hours(tally.latencies, 50),
        outcome_latency_p95_hours=_hours(tally.latencies, 95),
        outcome_latency_p99_hours=_hours(tally.latencies, 99),
        learn_p50_hours=_hours(tally.learned, 50, active),
        learn_p95_hours=_hours(tally.learned, 95, active),
        learn_p99_hours=_hours(tally.learned, 99, active),
        stopped_release_decisions=tally.stopped_decisions / max(1, tally.running_stopped),
        requests_per_second_per_million=per_day * 1_000_000 / DAY_SECONDS,
        requests_per_second_by_hour=[round(rate, 3) for rate in (by_hour * 1_000_000 / tally.devices).tolist()],
        peak_hour_over_mean=float(by_hour.max() / by_hour.mean()) if by_hour.any() else 0.0,
        events_dropped=tally.dropped,
        events_waiting=tally.waiting,
    )


def rate_of_day(tally: Tallies, workload: Workload, bins: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the requests per second of the fleet over a day, the mean of all whole days but the first."""
    counts = tally.rates.settle()
    a_day = int(DAY_SECONDS / RATE_BIN_SECONDS)
    days = int(workload.seconds // DAY_SECONDS)
    skipped = 1 if days > 1 else 0
    whole = counts[skipped * a_day : max(days, 1) * a_day]
    whole = np.pad(whole, (0, -len(whole) % a_day)).reshape(-1, bins, a_day // bins)
    rates: np.ndarray[tuple[int], np.dtype[np.float64]] = whole.sum(axis=2).mean(axis=0) / (DAY_SECONDS / bins)
    return rates


def _hours(histogram: Histogram, percent: float, of: int | None = None) -> float | None:
    seconds = histogram.percentile(percent, of)
    return None if seconds is None else seconds / HOUR_SECONDS


@dataclass(frozen=True)
class _Chunk:
    """What came of a part of the devices."""

    devices: int
    launches: int
    decisions: int
    tallies: dict[str, Tallies]


def _lived(workload: Workload, devices: int, policies: Sequence[Policy], seed: int) -> Iterator[_Chunk]:
    """Yield every chunk, each core living one at a time."""
    sizes = [min(CHUNK_DEVICES, devices - first) for first in range(0, devices, CHUNK_DEVICES)]
    live = partial(_live, workload, policies, seed)
    processes = min(os.cpu_count() or 1, len(sizes))
    if processes == 1:
        yield from map(live, range(len(sizes)), sizes)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        yield from pool.map(live, range(len(sizes)), sizes)


def _live(workload: Workload, policies: Sequence[Policy], seed: int, number: int, devices: int) -> _Chunk:
    """Live one chunk under every policy."""
    lives = draw_lives(workload, devices, np.random.default_rng([seed, number, 0]))
    tallies = {}
    for policy in policies:
        tallies[policy.name] = Tallies(workload)
        dice = np.random.default_rng([seed, number, 1])
        fleet = Fleet(lives, workload, policy, SteadyGateway(policy), tallies[policy.name], dice)
        fleet.advance(workload.seconds)
        fleet.finish()
    return _Chunk(devices, len(lives.launched), len(lives.decided), tallies)
