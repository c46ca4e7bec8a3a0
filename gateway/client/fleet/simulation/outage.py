"""Turn the gateway off for an hour and see the fleet come back: with flush control and without.

* `gateway.flush` is what a gateway runs, not a model of it; here it is told of requests by the thousand.
* `Outage`, `live` and `sessions_until_heard` are for a surge too, which is an outage of no length under control.
* Steady is the same fleet at the same time of day without an outage, so that the day's own waves do not count.
"""

from dataclasses import replace
from typing import Final

import numpy as np
from msgspec import Struct

from gateway.client.fleet.simulation.engine import Fleet
from gateway.client.fleet.simulation.gateways import Answers, Gateway, SteadyGateway
from gateway.client.fleet.simulation.policies import Policy
from gateway.client.fleet.simulation.tallies import RATE_BIN_SECONDS, Histogram, Tallies
from gateway.client.fleet.simulation.workload import (
    DAY_SECONDS,
    HOUR_SECONDS,
    Flags,
    Floats,
    Ints,
    Lives,
    Workload,
    draw_lives,
)
from gateway.flush import FlushControl
from schemas.wire import Flush

# Over at the busiest time of the day, where it hurts.
_BEGINS_SECONDS: Final = DAY_SECONDS + 11 * HOUR_SECONDS
# All devices at once, since they share a gateway: three kilobytes each. Fewer, and their peaks are accidents.
LEAST_DEVICES: Final = 100_000
MOST_DEVICES: Final = 300_000
_AFTER_SECONDS: Final = 24 * HOUR_SECONDS
_TICK_SECONDS: Final = 10.0
# Five minutes of 100,000 devices are a thousand requests, so a peak is no accident of the dice; fewer take longer.
_PEAK_BINS: Final = 5
STEADY_BINS: Final = 60
# The budget that an operator sets: a little above what the fleet does at its busiest.
BUDGET_OVER_BUSIEST: Final = 1.02
# A device that was opened with network so often, over so long, without being heard is starving. Requests that the
# network lost on their way are not the gateway's doing: each takes one off.
_PATIENCE_SESSIONS: Final = 3
_PATIENCE_SECONDS: Final = 2 * HOUR_SECONDS


class OutageReport(Struct, frozen=True, kw_only=True):
    """How a fleet came back. Rates are requests in five minutes over the steady ones of that time of day; fewer than
    100,000 devices are given as much longer.

    `sessions_until_heard_*`: sessions with network after the outage until the gateway took a batch.
    """

    peak_over_steady: float
    first_hour_over_steady: float
    refused_share: float
    sessions_until_heard_mean: float
    sessions_until_heard_most: int
    starving_devices: int
    events_lost: int


class Outage:
    """A gateway that is away from `begins` to `ends`, and whose replies are controlled from then on."""

    def __init__(
        self, steady: SteadyGateway, begins: float, ends: float, control: FlushControl | None, dice: np.random.Generator
    ) -> None:
        self._steady, self._begins, self._ends = steady, begins, ends
        self._control, self._dice = control, dice
        self.arrived = self.refused = 0
        self.taken = Histogram(RATE_BIN_SECONDS, ends + _AFTER_SECONDS)
        self.told_seconds_most, self.told_lease_seconds_most = steady.policy.seconds, steady.policy.lease_seconds

    def answer(self, at: Floats, on_trial: Flags) -> Answers:
        """Answer nothing while away; after that, refuse what the control says."""
        answers = self._steady.answer(at, on_trial)
        answers.taken[:] = (at < self._begins) | (at >= self._ends)
        back = at >= self._ends
        if self._control is not None and back.any():
            self._obey(self._control, answers, back)
        self.taken.add(at[answers.taken])
        return answers

    def _obey(self, control: FlushControl, answers: Answers, back: Flags) -> None:
        refused = back & (self._dice.random(len(back)) < control.refused_share)
        answers.taken[refused] = False
        answers.retry_after_seconds[refused] = control.wait_seconds * (1.0 + self._dice.random(int(refused.sum())))
        answers.events[back] = control.everyone.events
        answers.seconds[back] = control.everyone.seconds
        answers.lease_seconds[back] = control.everyone.lease_seconds
        self.arrived += int(back.sum())
        self.refused += int(refused.sum())
        control.arrived, control.refused = self.arrived, self.refused
        self.told_seconds_most = max(self.told_seconds_most, control.everyone.seconds)
        self.told_lease_seconds_most = max(self.told_lease_seconds_most, control.everyone.lease_seconds)


def simulate_outage(policy: Policy, usage: Workload, devices: int, hours: float, seed: int) -> dict[str, OutageReport]:
    """Run a fleet through an outage twice: without and with flush control. Memory grows with the devices."""
    ends = _BEGINS_SECONDS + hours * HOUR_SECONDS
    days = (ends + _AFTER_SECONDS) / DAY_SECONDS
    # `told_at` is then when a device was first heard after the outage.
    workload = replace(usage, days=days, stopped_share=ends / (days * DAY_SECONDS))
    lives = draw_lives(workload, devices, np.random.default_rng([seed, 0, 2]))
    steady, _ = live(lives, workload, policy, SteadyGateway(policy), None, seed)
    usual = smooth(steady.rates.settle(), STEADY_BINS)
    budget = float(usual[int(DAY_SECONDS / 4 / RATE_BIN_SECONDS) :].max()) / RATE_BIN_SECONDS * BUDGET_OVER_BUSIEST
    reports = {}
    for name, control in (("without_control", None), ("with_control", control_of(policy, budget))):
        gateway = Outage(SteadyGateway(policy), _BEGINS_SECONDS, ends, control, np.random.default_rng([seed, 0, 3]))
        tallies, fleet = live(lives, workload, policy, gateway, control, seed)
        reports[name] = _report(lives, workload, tallies, fleet, usual, gateway)
    return reports


def control_of(policy: Policy, budget_per_second: float) -> FlushControl:
    """Make the control of a gateway that replies with this policy."""
    base = Flush(policy.events, round(policy.seconds), round(policy.lease_seconds))
    return FlushControl(base, base.lease_seconds, budget_per_second)


def live(
    lives: Lives,
    workload: Workload,
    policy: Policy,
    gateway: Gateway,
    control: FlushControl | None,
    seed: int,
    tick_seconds: float = _TICK_SECONDS,
) -> tuple[Tallies, Fleet]:
    """Live to the end; a control ticks from the moment on that the workload has for a stopped release."""
    tallies = Tallies(workload)
    fleet = Fleet(lives, workload, policy, gateway, tallies, np.random.default_rng([seed, 0, 1]))
    if control is not None:
        now = workload.stopped_seconds
        fleet.advance(now)
        while now < workload.seconds:
            now += tick_seconds
            fleet.advance(now)
            control.tick(tick_seconds)
    fleet.advance(workload.seconds)
    fleet.finish()
    return tallies, fleet


def _report(
    lives: Lives, workload: Workload, tallies: Tallies, fleet: Fleet, usual: Floats, gateway: Outage
) -> OutageReport:
    first = int(workload.stopped_seconds / RATE_BIN_SECONDS)
    last = len(usual) - STEADY_BINS  # the smoothed edge is none
    bins = max(_PEAK_BINS, _PEAK_BINS * LEAST_DEVICES // lives.devices)
    over = smooth(tallies.rates.settle(), bins)[first:last] / usual[first:last]
    heard, starving = sessions_until_heard(lives, workload, fleet)
    return OutageReport(
        peak_over_steady=float(over[bins // 2 :].max()),
        first_hour_over_steady=float(over[: int(HOUR_SECONDS / RATE_BIN_SECONDS)].mean()),
        refused_share=gateway.refused / max(1, gateway.arrived),
        sessions_until_heard_mean=float(heard.mean()),
        sessions_until_heard_most=int(heard.max()),
        starving_devices=starving,
        events_lost=tallies.dropped,
    )


def sessions_until_heard(lives: Lives, workload: Workload, fleet: Fleet) -> tuple[Ints, int]:
    """Return how many sessions with network each device had until it was heard, and how many starve."""
    owner = np.repeat(np.arange(lives.devices), np.diff(lives.first_session))
    tried = lives.online & (lives.launched >= workload.stopped_seconds) & (lives.launched <= fleet.told_at[owner])
    who, at = owner[tried], lives.launched[tried]
    tries = np.bincount(who, minlength=lives.devices)
    heard = np.isfinite(fleet.told_at) & (tries > 0)
    first, last = np.full(lives.devices, np.inf), np.full(lives.devices, -np.inf)
    np.minimum.at(first, who, at)
    np.maximum.at(last, who, at)
    unheard = ~np.isfinite(fleet.told_at) & (tries - fleet.lost >= _PATIENCE_SESSIONS)
    return tries[heard], int((unheard & (last - first > _PATIENCE_SECONDS)).sum())


def smooth(counts: Ints, bins: int) -> Floats:
    """Return the running mean; within half of it of the edges it is none."""
    smooth: Floats = np.convolve(counts, np.ones(bins) / bins, "same")
    return smooth
