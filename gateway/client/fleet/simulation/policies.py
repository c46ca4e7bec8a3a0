"""The ways to send events and to learn of releases that are simulated side by side.

* `backhaul` is what a gateway replies by default, from its own configuration; the others are what apps do today.
"""

from dataclasses import dataclass, replace
from math import inf
from typing import Final

from gateway.client.fleet.simulation.workload import HOUR_SECONDS
from gateway.config import Config

_CONFIG: Final = Config()


@dataclass(frozen=True)
class Policy:
    """When a device sends what.

    * A flush by count, by age and on leaving the front; `calls_at_launch`: also at a launch when something waits or the
      last contact is older than the lease. `piggyback`: the reply to a flush tells of releases.
    * `defer_events`, `defer_seconds`: leaving the front flushes only so many events, or one that old.
    * `poll_seconds`: at a launch, a request of its own asks for releases if the last answer is that old;
      `polls_hourly`: also for every hour in the front.
    * `refreshes_per_day`: how often the system wakes the app in the background; it then does what it does at a launch.
    * `trial_share` of the devices run a release on trial, and are told `trial_lease_seconds`.
    """

    name: str
    events: int = _CONFIG.flush_events
    seconds: float = _CONFIG.flush_seconds
    lease_seconds: float = _CONFIG.lease_seconds
    calls_at_launch: bool = True
    piggyback: bool = True
    defer_events: int = 1
    defer_seconds: float = 0.0
    poll_seconds: float = inf
    polls_hourly: bool = False
    refreshes_per_day: float = 0.0
    trial_share: float = 1.0
    trial_lease_seconds: float | None = None


BACKHAUL: Final = Policy("backhaul")
_SEPARATE: Final = replace(BACKHAUL, lease_seconds=inf, calls_at_launch=False, piggyback=False)
# A request for each event; what could not be sent rides with the next. Polls at every launch and every hour.
NAIVE: Final = replace(_SEPARATE, name="naive", events=1, poll_seconds=0.0, polls_hourly=True)
# The defaults of the product-analytics SDKs (Segment, PostHog): 20 events, 30 seconds.
SDK_DEFAULT: Final = replace(_SEPARATE, name="sdk_default", events=20, seconds=30.0, poll_seconds=0.0)
# With the 12 hours for which Remote Config keeps an answer.
SDK_CACHED: Final = replace(SDK_DEFAULT, name="sdk_cached", poll_seconds=12 * HOUR_SECONDS)
# While a rollout runs: the twentieth of the devices that are in it keep its shorter lease.
IN_ROLLOUT: Final = replace(
    BACKHAUL, name="backhaul_in_rollout", trial_share=0.05, trial_lease_seconds=_CONFIG.rollout_lease_seconds
)

POLICIES: Final = {
    policy.name: policy
    for policy in (
        BACKHAUL,
        NAIVE,
        SDK_DEFAULT,
        SDK_CACHED,
        IN_ROLLOUT,
        # With what a phone grants to an app that is used: two refreshes in the background a day, or six.
        replace(BACKHAUL, name="backhaul_refresh", refreshes_per_day=2.0),
        replace(BACKHAUL, name="deferred_refresh", defer_events=5, defer_seconds=HOUR_SECONDS, refreshes_per_day=2.0),
        replace(NAIVE, name="naive_refresh", refreshes_per_day=6.0),
        # What each part of it does: the intervals of the SDKs; other leases; to wait for more before flushing.
        replace(BACKHAUL, name="piggyback_30s", events=20, seconds=30.0, lease_seconds=24 * HOUR_SECONDS),
        replace(BACKHAUL, name="flush_300s", seconds=300.0),
        replace(BACKHAUL, name="lease_1h", lease_seconds=HOUR_SECONDS),
        replace(BACKHAUL, name="lease_8h", lease_seconds=8 * HOUR_SECONDS),
        replace(BACKHAUL, name="lease_24h", lease_seconds=24 * HOUR_SECONDS),
        replace(BACKHAUL, name="deferred", defer_events=5, defer_seconds=HOUR_SECONDS),
        # Ask seldom where nothing is on trial, and often where something is.
        replace(
            BACKHAUL,
            name="trial_lease",
            lease_seconds=12 * HOUR_SECONDS,
            trial_share=0.05,
            trial_lease_seconds=_CONFIG.rollout_lease_seconds,
        ),
    )
}
COMPARED: Final = (BACKHAUL, NAIVE, SDK_DEFAULT, SDK_CACHED, IN_ROLLOUT)
