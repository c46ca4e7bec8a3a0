"""What happens when, in device time: a rollout, its stop, an outage; and who is opened when.

* Pure but for numpy: the same plan gives the same lives in every process.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from gateway.client.fleet.life import USUAL
from gateway.client.fleet.phones import OLD_SDK, phone
from gateway.client.fleet.simulation.policies import BACKHAUL, Policy
from gateway.client.fleet.simulation.workload import DAY_SECONDS, HOUR_SECONDS, Flags, Lives, Workload, draw_lives
from gateway.config import Config

# Of the whole: the rollout begins, is taken back, and the gateway is killed; then comes the rest to be seen.
_PUBLISHED: Final = 0.2
_STOPPED: Final = 0.5
_KILLED: Final = 0.8


@dataclass(frozen=True)
class Plan:
    """A rehearsal. Moments are in device seconds from the beginning; a device's day takes `day_seconds` of ours.

    `budget_share`: the gateway's budget over what the fleet asks for in its busiest hour; 0: it has none.
    """

    devices: int = 2000
    days: float = 3.0
    day_seconds: float = 60.0
    outage_hours: float = 1.0
    budget_share: float = 1.02
    seed: int = 1

    @property
    def pace(self) -> float:
        """Device seconds in a second."""
        return DAY_SECONDS / self.day_seconds

    @property
    def seconds(self) -> float:
        """The whole of it, in device seconds."""
        return self.days * DAY_SECONDS

    @property
    def moments(self) -> "Moments":
        """When it should happen."""
        killed = self.seconds * _KILLED
        return Moments(
            published=self.seconds * _PUBLISHED,
            stopped=self.seconds * _STOPPED,
            killed=killed,
            back=killed + self.outage_hours * HOUR_SECONDS,
        )

    @property
    def workload(self) -> Workload:
        """How the devices are used."""
        return workload_at(self, self.moments)

    def lives(self) -> Lives:
        """Draw the lives."""
        return draw_lives(self.workload, self.devices, np.random.default_rng([self.seed, 0, 0]))

    def on_trial(self) -> Flags:
        """Say which devices can run the release that is rolled out: not those with the old SDK."""
        return np.array([phone(self.seed, number).sdk != OLD_SDK for number in range(self.devices)])


@dataclass(frozen=True)
class Moments:
    """When it happens, in device seconds: as planned, or as it was."""

    published: float
    stopped: float
    killed: float
    back: float


def workload_at(plan: Plan, moments: Moments) -> Workload:
    """Return the usage, with what it names a publication and a stop at these moments."""
    return replace(
        Workload(days=plan.days, offline_spells=USUAL.offline_spells, crashed_sessions=USUAL.crashed_sessions),
        published_share=moments.published / plan.seconds,
        stopped_share=moments.stopped / plan.seconds,
    )


def policy_of(config: Config) -> Policy:
    """Return what a gateway with this configuration tells devices, as the simulation puts it."""
    return replace(
        BACKHAUL,
        events=config.flush_events,
        seconds=config.flush_seconds,
        lease_seconds=config.lease_seconds,
        trial_lease_seconds=config.rollout_lease_seconds,
    )
