"""What the default policy must reach on a simulated fleet, and whether it did.

* The figures are for a usage of 3.5 launches a device-day, with 10.5 decisions or with 53; of another usage only that
  is asked which holds for any: no slower to learn than polling at every launch, outcomes within two hours, and a calm
  return after an outage.
* They are for eight days. A shorter run has its figures shown and not judged: its devices have just met the gateway for
  the first time, few are opened after the release, and what waits for days has not arrived. The outage is its own run.
"""

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from msgspec import Struct

from gateway.client.fleet.simulation.outage import OutageReport
from gateway.client.fleet.simulation.policies import BACKHAUL, NAIVE, SDK_DEFAULT
from gateway.client.fleet.simulation.run import PolicyReport, Simulated

# Name, most, found.
_Figure: TypeAlias = tuple[str, float | None, float | None]
# (launches, decisions) a device-day: requests a device-day, and those over naive and over the SDKs' defaults.
_COSTS: Final = {(3.5, 10.5): (4.3, 0.33, 0.47), (3.5, 53.0): (4.9, 0.09, None)}
_LATENCY_HOURS: Final = 2.0
_PEAK_OVER_STEADY: Final = 1.3
JUDGED_FROM_DAYS: Final = 8.0


class Target(Struct, frozen=True):
    """A figure and the most that it may be; `judged`: the run was long enough to say."""

    name: str
    most: float | None
    found: float | None
    judged: bool = True

    @property
    def reached(self) -> bool | None:
        """Where there was nothing to compare with, or none found, it was not; None is not judged."""
        if not self.judged:
            return None
        return self.found is not None and self.most is not None and self.found <= self.most


def targets(
    simulated: Simulated, usage: tuple[float, float], outage: Mapping[str, OutageReport] | None
) -> Iterator[Target]:
    """Yield every target of this usage (launches, decisions a device-day) for which there are figures."""
    judged = simulated.days >= JUDGED_FROM_DAYS
    for name, most, found in _of_days(simulated, usage):
        yield Target(name, most, found, judged)
    if outage is not None:
        after = outage["with_control"]
        yield Target("peak after the outage / steady", _PEAK_OVER_STEADY, after.peak_over_steady)
        yield Target("starving devices after it", 0, after.starving_devices)
        yield Target("events lost that a queue could hold", 0, after.events_lost)


def _of_days(simulated: Simulated, usage: tuple[float, float]) -> Iterator[_Figure]:
    ours = simulated.policies[BACKHAUL.name]
    naive = simulated.policies.get(NAIVE.name)
    yield from _costs(ours, naive, simulated.policies.get(SDK_DEFAULT.name), usage)
    yield "outcome latency p95, hours", _LATENCY_HOURS, ours.outcome_latency_p95_hours
    if naive is not None:
        yield "half have learned, hours (polling at every launch)", naive.learn_p50_hours, ours.learn_p50_hours
        yield "95 % have learned, hours (the same)", naive.learn_p95_hours, ours.learn_p95_hours


def _costs(
    ours: PolicyReport, naive: PolicyReport | None, sdk: PolicyReport | None, usage: tuple[float, float]
) -> Iterator[_Figure]:
    if usage not in _COSTS:
        return
    most, over_naive, over_sdk = _COSTS[usage]
    requests = ours.requests_per_device_day
    yield "requests a device-day", most, requests
    if naive is not None:
        yield "requests / naive", over_naive, requests / naive.requests_per_device_day
    if sdk is not None and over_sdk is not None:
        yield "requests / SDK default", over_sdk, requests / sdk.requests_per_device_day
