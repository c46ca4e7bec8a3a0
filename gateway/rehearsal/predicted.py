"""The simulation of a rehearsal: the same lives, the same moments, the same flush control.

* The lives are those that the clients really had: a machine that stands still for a moment makes a thousand devices
  late at once, and what that does to a gateway's budget is no error of the simulation.
* In the simulation an answer takes no time. Here it takes what it took in the rehearsal from a launch of about the same
  moment until the answer was obeyed, which at a fast clock is a while: that is added to when devices hear of something.
* Run a few times with other dice (lost requests, jitter, who is refused), to see how much of a difference is chance.
"""

from collections.abc import Sequence
from typing import Final, Self

import numpy as np

from gateway.client.fleet.simulation.engine import Fleet
from gateway.client.fleet.simulation.gateways import Answers, SteadyGateway
from gateway.client.fleet.simulation.outage import control_of, smooth
from gateway.client.fleet.simulation.policies import Policy
from gateway.client.fleet.simulation.tallies import RATE_BIN_SECONDS, Tallies
from gateway.client.fleet.simulation.workload import Flags, Floats, Lives
from gateway.flush import FlushControl
from gateway.rehearsal.actor import Acted
from gateway.rehearsal.figures import STEADY_BINS, Figures, Trace, figures
from gateway.rehearsal.plan import Moments, Plan, workload_at
from gateway.rehearsal.script import lives_of

DRAWS: Final = 5
_TICK_SECONDS: Final = 30.0


def steady_rate(plan: Plan, policy: Policy) -> Floats:
    """Return the requests per second, minute by minute, if nothing happened but the rollout."""
    lives, moments = plan.lives(), plan.moments
    calm = Moments(moments.published, moments.stopped, plan.seconds, plan.seconds)
    rates = [_Draw(plan, lives, policy, calm, 0.0, draw).live().requests() for draw in range(DRAWS)]
    steady: Floats = np.maximum(smooth(np.sum(rates, axis=0), STEADY_BINS) / DRAWS / RATE_BIN_SECONDS, 1e-9)
    return steady


def predict(
    plan: Plan, policy: Policy, moments: Moments, steady: Floats, budget: float, everyone: Sequence[Acted]
) -> list[Figures]:
    """Return what to expect of these devices and of what happened at these moments, once for each draw of the dice."""
    lives = lives_of([acted.sessions for acted in everyone], plan.seconds)
    answers = np.array(sorted(answer for acted in everyone for answer in acted.answers) or [(0.0, 0.0)])
    ran = np.array([acted.ran_at < moments.stopped for acted in everyone])
    draws = (_Draw(plan, lives, policy, moments, budget, draw).live() for draw in range(DRAWS))
    return [figures(plan, lives, moments, steady, draw.trace(answers, ran), draw.dropped, 0) for draw in draws]


class _Draw:
    """One simulation of a rehearsal."""

    def __init__(self, plan: Plan, lives: Lives, policy: Policy, moments: Moments, budget: float, draw: int) -> None:
        self._plan, self._lives, self._moments = plan, lives, moments
        workload = workload_at(plan, moments)
        self._tallies, self._dice = Tallies(workload), np.random.default_rng([plan.seed, draw, 5])
        self._gateway = _Gateway(policy, moments, budget, self._dice)
        self._fleet = Fleet(lives, workload, policy, self._gateway, self._tallies, self._dice)
        self._fleet.on_trial[:] = plan.on_trial()

    def live(self) -> Self:
        """Live it to the end."""
        for now in np.arange(_TICK_SECONDS, self._plan.seconds, _TICK_SECONDS).tolist():
            self._fleet.advance(now)
            self._gateway.tick(now)
        self._fleet.advance(self._plan.seconds)
        self._fleet.finish()
        return self

    @property
    def dropped(self) -> int:
        """Events that no queue could hold."""
        return self._tallies.dropped

    def requests(self) -> Floats:
        """Return the requests by the minute."""
        return self._tallies.rates.settle()[: int(self._plan.seconds / RATE_BIN_SECONDS)].astype(np.float64)

    def trace(self, answers: Floats, ran: Flags) -> Trace:
        """Say what it came to.

        `answers`: launches, and the seconds until their answers were obeyed, in order; `ran`: who ran the release.
        """
        fleet, stopped, devices = self._fleet, self._moments.stopped, self._lives.devices
        learned_at, told_at = (_obeyed(heard, answers) for heard in (fleet.learned_at, fleet.told_at))
        runs = ran & (learned_at < stopped)
        told = np.where(runs, np.minimum(told_at, self._plan.seconds), stopped)
        decisions = fleet.decided(np.arange(devices), stopped, told).sum()
        return Trace(
            requests=self.requests(),
            learned_at=learned_at,
            stopped_decisions=float(decisions / max(1, runs.sum())),
            refused=self._gateway.refused,
            told_seconds_most=self._gateway.told_seconds_most,
        )


def _obeyed(heard: Floats, answers: Floats) -> Floats:
    """Add to each moment what the answer to the next launch took."""
    place = np.minimum(np.searchsorted(answers[:, 0], heard), len(answers) - 1)
    obeyed: Floats = heard + answers[place, 1]
    return obeyed


class _Gateway:
    """Takes what comes but while it is dead, shortens the lease of devices on trial, and keeps to its budget."""

    def __init__(self, policy: Policy, moments: Moments, budget: float, dice: np.random.Generator) -> None:
        self.refused = 0
        self.told_seconds_most = policy.seconds
        self._steady, self._moments, self._budget, self._dice = SteadyGateway(policy), moments, budget, dice
        self._control = control_of(policy, budget)
        self._was_dead = False

    def tick(self, now: float) -> None:
        """Let the control see what came; one that was started again knows nothing of before."""
        if self._moments.killed <= now < self._moments.back:
            self._was_dead = True
            return
        if self._was_dead:
            self._control, self._was_dead = control_of(self._steady.policy, self._budget), False
        self._control.tick(_TICK_SECONDS)
        self.told_seconds_most = max(self.told_seconds_most, self._control.everyone.seconds)

    def answer(self, at: Floats, on_trial: Flags) -> Answers:
        """Answer as the policy of the moment says."""
        moments, control = self._moments, self._control
        tried = on_trial & (at >= moments.published) & (at < moments.stopped)
        answers = self._steady.answer(at, tried)
        alive = (at < moments.killed) | (at >= moments.back)
        refused = alive & (self._dice.random(len(at)) < control.refused_share)
        answers.taken[:] = alive & ~refused
        answers.retry_after_seconds[refused] = control.wait_seconds * (1.0 + self._dice.random(int(refused.sum())))
        stretch = control.everyone.seconds / self._steady.policy.seconds
        answers.events[:] = control.everyone.events
        answers.seconds[:] = control.everyone.seconds
        answers.lease_seconds[:] = np.minimum(answers.lease_seconds * stretch, control.everyone.lease_seconds)
        self._count(control, int(alive.sum()), int(refused.sum()))
        return answers

    def _count(self, control: FlushControl, came: int, refused: int) -> None:
        control.arrived += came
        control.refused += refused
        self.refused += refused
