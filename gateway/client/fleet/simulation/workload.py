"""What a simulated fleet's users do: launches, sessions and decisions, drawn once and lived through by every policy.

* Fitted to a fleet of 3.5 launches a device-day: within a week of a moment 95.6 % of the devices are opened, half of
  those within 6.7 hours, 95 % within 3.8 days, 99 % within 6.0.
* A chunk of devices hangs on the seed and its number alone, so that a fleet of any size takes the memory of one chunk.
"""

from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.client.fleet.phones import SPELL_SECONDS

Floats: TypeAlias = NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.bool_]

HOUR_SECONDS: Final = 3600.0
DAY_SECONDS: Final = 86_400.0
# Share of the devices, launches a day: light, medium, heavy; their mean is the 3.5 that they are scaled from.
HABITS: Final = ((0.175, 0.20), (0.420, 1.10), (0.405, 7.40))
_HABITS_MEAN: Final = sum(share * rate for share, rate in HABITS)
_TIME_ZONES_HOURS: Final = (-8, -5, -3, 0, 1, 3, 8, 9)
_WAKE_SECONDS: Final = 7 * HOUR_SECONDS
_AWAKE_SECONDS: Final = 16 * HOUR_SECONDS
# Lognormal; fitted to how often a flush timer of 30 seconds, and one of 300, runs out within a session.
_SESSION_MEDIAN_SECONDS: Final = 105.0
_SESSION_SIGMA: Final = 1.05
_SESSION_LEAST_SECONDS: Final = 3.0
# A phone is not opened again in the very second in which it was put away.
_PAUSE_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Workload:
    """How a fleet is used. `decisions_per_day` is per device-day, so a session has that over the launches.

    `offline_spells`: at so many of the launches a device has lost its network for days. `crashed_sessions`: so many end
    with the app's process, which then says no more.
    """

    days: float = 8.0
    launches_per_day: float = 3.5
    decisions_per_day: float = 10.5
    offline_sessions: float = 0.06
    lost_requests: float = 0.01
    offline_spells: float = 0.0
    crashed_sessions: float = 0.0
    published_share: float = 3 / 16
    stopped_share: float = 9 / 16

    @property
    def seconds(self) -> float:
        """The whole time simulated."""
        return self.days * DAY_SECONDS

    @property
    def warm_seconds(self) -> float:
        """Until here devices meet the gateway for the first time: that lease has run out is no policy's doing."""
        return self.seconds / 8

    @property
    def published_seconds(self) -> float:
        """When a release is published: 1.5 days into 8."""
        return self.seconds * self.published_share

    @property
    def stopped_seconds(self) -> float:
        """When the release that every device runs is stopped: 4.5 days into 8."""
        return self.seconds * self.stopped_share


@dataclass(frozen=True)
class Lives:
    """A chunk of devices. Device d has the sessions `first_session[d]:first_session[d + 1]`, in order of time; session
    s has the decisions `first_decision[s]:first_decision[s + 1]`; times are in seconds from the start."""

    devices: int
    first_session: Ints
    launched: Floats
    left: Floats
    online: Flags
    crashed: Flags
    first_decision: Ints
    decided: Floats


def draw_lives(workload: Workload, devices: int, dice: np.random.Generator) -> Lives:
    """Draw a chunk of devices."""
    owner, launched = _launches(workload, devices, dice)
    sessions = len(launched)
    room = np.full(sessions, np.inf)
    same, gap = owner[1:] == owner[:-1], np.diff(launched)
    room[:-1][same] = np.maximum(gap - _PAUSE_SECONDS, gap / 2)[same]
    length = _SESSION_MEDIAN_SECONDS * np.exp(_SESSION_SIGMA * dice.standard_normal(sessions))
    length = np.minimum(np.maximum(length, _SESSION_LEAST_SECONDS), room)
    each = dice.poisson(workload.decisions_per_day / workload.launches_per_day, sessions)
    first_decision = _starts(each)
    session = np.repeat(np.arange(sessions), each)
    # Sorted within each session: the whole part keeps the sessions apart.
    place = np.sort(session + dice.random(len(session))) - session
    online = dice.random(sessions) >= workload.offline_sessions
    if workload.offline_spells:
        online &= ~_in_spell(workload, owner, launched, dice)
    return Lives(
        devices=devices,
        first_session=_starts(np.bincount(owner, minlength=devices)),
        launched=launched,
        left=launched + length,
        online=online,
        crashed=dice.random(sessions) < workload.crashed_sessions,
        first_decision=first_decision,
        decided=launched[session] + length[session] * np.clip(place, 0.0, 0.999),
    )


def _launches(workload: Workload, devices: int, dice: np.random.Generator) -> tuple[Ints, Floats]:
    """Draw (device, time) of every launch, in order: at random in waking hours of the device's own time zone."""
    whole_days = int(np.ceil(workload.days))
    rates = np.array([rate for _, rate in HABITS]) * workload.launches_per_day / _HABITS_MEAN
    habit = np.searchsorted(np.cumsum([share for share, _ in HABITS])[:-1], dice.random(devices), side="right")
    zone = np.array(_TIME_ZONES_HOURS)[dice.integers(0, len(_TIME_ZONES_HOURS), devices)] * HOUR_SECONDS
    owner = np.repeat(np.arange(devices), dice.poisson(rates[habit] * whole_days))
    day, awake = np.divmod(dice.random(len(owner)) * whole_days * _AWAKE_SECONDS, _AWAKE_SECONDS)
    period = whole_days * DAY_SECONDS
    at = (day * DAY_SECONDS + _WAKE_SECONDS + awake - zone[owner]) % period
    at = np.sort(owner * period + at) - owner * period
    kept = (at >= 0.0) & (at < workload.seconds)
    return owner[kept], at[kept]


def _in_spell(workload: Workload, owner: Ints, launched: Floats, dice: np.random.Generator) -> Flags:
    """Say which launches fall into a spell that began at a launch of the same device, or begin one."""
    period = workload.seconds + SPELL_SECONDS[1]
    begins = dice.random(len(owner)) < workload.offline_spells
    over = np.where(begins, owner * period + launched + dice.uniform(*SPELL_SECONDS, len(owner)), -np.inf)
    within: Flags = np.maximum.accumulate(over) > owner * period + launched
    return within


def _starts(counts: Ints) -> Ints:
    return np.concatenate(([0], np.cumsum(counts)))
