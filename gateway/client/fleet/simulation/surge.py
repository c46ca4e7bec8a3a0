"""Let a fleet be used more than its gateway is budgeted for, a day long: with flush control and without.

* The budget is what the same fleet does in its busiest hour of a usual day, and a little more.
"""

from dataclasses import replace
from typing import Final

import numpy as np
from msgspec import Struct

from gateway.client.fleet.simulation.gateways import SteadyGateway
from gateway.client.fleet.simulation.outage import (
    BUDGET_OVER_BUSIEST,
    STEADY_BINS,
    Outage,
    control_of,
    live,
    sessions_until_heard,
    smooth,
)
from gateway.client.fleet.simulation.policies import Policy
from gateway.client.fleet.simulation.tallies import RATE_BIN_SECONDS, Histogram
from gateway.client.fleet.simulation.workload import DAY_SECONDS, HOUR_SECONDS, Workload, draw_lives

# The busiest day of a year: half as many launches and decisions again.
TIMES: Final = 1.5
_BEGINS_SECONDS: Final = DAY_SECONDS
_DAYS: Final = 2.0
# The control is slow where it can be: devices hear of a longer interval one reply at a time.
_SETTLING_SECONDS: Final = 3 * HOUR_SECONDS
# What changes here changes within hours.
_TICK_SECONDS: Final = 60.0


class SurgeReport(Struct, frozen=True, kw_only=True):
    """How a surge went, in its busiest hour (the first three set aside) against the budget: what came, what was taken.
    `told_*`: the longest that devices were told."""

    came_over_budget: float
    taken_over_budget: float
    told_seconds_most: float
    told_lease_hours_most: float
    refused_share: float
    outcome_latency_p95_hours: float | None
    starving_devices: int
    events_lost: int


def simulate_surge(policy: Policy, usage: Workload, devices: int, seed: int) -> dict[str, SurgeReport]:
    """Run a fleet through a surge twice: without and with flush control. Memory grows with the devices."""
    workload = replace(
        usage,
        days=_DAYS,
        launches_per_day=usage.launches_per_day * TIMES,
        decisions_per_day=usage.decisions_per_day * TIMES,
        stopped_share=_BEGINS_SECONDS / (_DAYS * DAY_SECONDS),
    )
    lives = draw_lives(workload, devices, np.random.default_rng([seed, 0, 4]))
    first = int((_BEGINS_SECONDS + _SETTLING_SECONDS) / RATE_BIN_SECONDS)
    budget, reports = 0.0, {}
    for name in ("without_control", "with_control"):
        control = control_of(policy, budget) if budget else None
        gateway = Outage(SteadyGateway(policy), _BEGINS_SECONDS, _BEGINS_SECONDS, control, np.random.default_rng(seed))
        tallies, fleet = live(lives, workload, policy, gateway, control, seed, _TICK_SECONDS)
        came, taken = _busiest(tallies.rates, first), _busiest(gateway.taken, first)
        budget = budget or came / TIMES * BUDGET_OVER_BUSIEST
        _, starving = sessions_until_heard(lives, workload, fleet)
        latency = tallies.latencies.percentile(95)
        reports[name] = SurgeReport(
            came_over_budget=came / budget,
            taken_over_budget=taken / budget,
            told_seconds_most=gateway.told_seconds_most,
            told_lease_hours_most=gateway.told_lease_seconds_most / HOUR_SECONDS,
            refused_share=gateway.refused / max(1, gateway.arrived),
            outcome_latency_p95_hours=None if latency is None else latency / HOUR_SECONDS,
            starving_devices=starving,
            events_lost=tallies.dropped,
        )
    return reports


def _busiest(requests: Histogram, first: int) -> float:
    """Return the requests per second of the busiest hour from the bin `first` on, but for the smoothed edge."""
    last = int(_DAYS * DAY_SECONDS / RATE_BIN_SECONDS) - STEADY_BINS
    return float(smooth(requests.settle()[: last + STEADY_BINS], STEADY_BINS)[first:last].max()) / RATE_BIN_SECONDS
