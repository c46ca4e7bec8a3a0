"""Hold the fleet to a budget of requests per second, with the flush policy that replies carry and, at last, refusals.

* Pure: how much time has passed and how many requests came are parameters; the dice are the caller's.
* A fleet above its budget is told to flush and to ask less often: slowly, since devices hear of it one reply at a time.
* What comes above the budget meanwhile is refused, a share drawn at random, with a Retry-After beyond the session: a
  refused device is silent until its next launch, and launches are spread over the day. So a fleet that comes back after
  an outage comes in a broad wave. The share is the same for all, so none is refused for ever.
* Devices in a rollout that may be stopped any moment keep a lease of their own, the shorter one.
* The budget is one gateway's: several share a fleet's.
"""

import math
from typing import Final

from msgspec.structs import replace

from schemas.wire import Flush

# How far the policy may be stretched. Beyond, a device would hear of a release a day late and send batches too large.
_MOST_STRETCH: Final = 4.0
_MOST_EVENTS: Final = 500
_MOST_SECONDS: Final = 3600
_MOST_LEASE_SECONDS: Final = 86_400
# The stretch answers a mean of minutes, since what it does is seen within hours; refusals answer a shorter one.
_SLOW_SECONDS: Final = 300.0
_FAST_SECONDS: Final = 60.0
_STRETCH_FROM: Final = 0.9
_LEAST_TICK_SECONDS: Final = 0.001
_STRETCH_PER_HOUR: Final = 4.0
# Longer than most sessions: sooner, a refused device would be back in this one, and nothing would be won.
_LEAST_WAIT_SECONDS: Final = 900.0
_MOST_WAIT_SECONDS: Final = 6 * 3600.0
# A refused request still came; what is won is what its device would have sent after it.
_REFUSED_PER_EXCESS: Final = 8.0
_MOST_REFUSED: Final = 0.9
# The part of the budget that is kept for those who were refused.
_RETURN_SHARE: Final = 0.25


class FlushControl:
    """The policy of the moment. Count every request in `arrived`, and `tick` now and then.

    * `everyone`, `on_trial`: what the next replies say. `refused_share`: of the requests, to be refused.
    * A budget of 0 refuses nothing and stretches the policy only under pressure.
    """

    def __init__(self, base: Flush, trial_lease_seconds: int, budget_per_second: float = 0.0) -> None:
        self.arrived = 0
        self.refused = 0
        self.refused_share = 0.0
        self.rate_per_second = 0.0
        self._base = base
        self._trial_lease_seconds = min(trial_lease_seconds, base.lease_seconds)
        self._budget_per_second = budget_per_second
        # Two standard deviations of the fast mean of requests at random: a small gateway must not refuse by chance.
        self._noise = 2.0 * math.sqrt(budget_per_second / (2 * _FAST_SECONDS))
        self._slow_rate = _Mean(_SLOW_SECONDS)
        self._fast_rate = _Mean(_FAST_SECONDS)
        self._seen = self._seen_refused = 0
        self._returning = 0.0
        self._log_stretch = 0.0
        self._set(1.0)

    @property
    def wait_seconds(self) -> float:
        """How long a refused device should be silent at least; the caller spreads it up to twice that."""
        if self._budget_per_second <= 0:
            return _LEAST_WAIT_SECONDS
        # One after the other: the product of a budget that is next to nothing is nothing.
        room = self._returning / self._budget_per_second / _RETURN_SHARE
        return min(max(_LEAST_WAIT_SECONDS, room), _MOST_WAIT_SECONDS)

    def tick(self, elapsed_seconds: float, pressure: float = 0.0) -> None:
        """Take in what came since the last tick, and set the policy and the share that is refused.

        `pressure` says how far what is behind the gateway is from taking nothing more: 0 not at all, 1 it is full.
        """
        if elapsed_seconds < _LEAST_TICK_SECONDS:
            return
        came, self._seen = self.arrived - self._seen, self.arrived
        refused, self._seen_refused = self.refused - self._seen_refused, self.refused
        self.rate_per_second = self._fast_rate.add(came / elapsed_seconds, elapsed_seconds)
        slow = self._slow_rate.add(came / elapsed_seconds, elapsed_seconds)
        stretch = 1.0 + (_MOST_STRETCH - 1.0) * min(max(pressure, 0.0), 1.0)
        budget = self._budget_per_second
        if budget > 0:
            excess = max(0.0, 1.0 - (budget + self._noise) / max(self.rate_per_second, budget))
            self.refused_share = min(_MOST_REFUSED, _REFUSED_PER_EXCESS * excess)
            gone = budget * _RETURN_SHARE * elapsed_seconds
            self._returning = max(0.0, self._returning + refused - gone)
            stretch = max(stretch, self._stretched(slow / (budget * _STRETCH_FROM), elapsed_seconds))
        self._set(stretch)

    def _stretched(self, load: float, elapsed_seconds: float) -> float:
        """Move the stretch towards where the load is 1."""
        step = _STRETCH_PER_HOUR * elapsed_seconds / 3600.0 * math.log(max(load, 0.01))
        self._log_stretch = min(max(self._log_stretch + step, 0.0), math.log(_MOST_STRETCH))
        return math.exp(self._log_stretch)

    def _set(self, stretch: float) -> None:
        base = self._base
        self.everyone = Flush(
            events=_stretched(base.events, stretch, _MOST_EVENTS),
            seconds=_stretched(base.seconds, stretch, _MOST_SECONDS),
            lease_seconds=_stretched(base.lease_seconds, stretch, _MOST_LEASE_SECONDS),
        )
        trial_lease = min(round(self._trial_lease_seconds * stretch), self.everyone.lease_seconds)
        self.on_trial = replace(self.everyone, lease_seconds=trial_lease)


class _Mean:
    """A running mean that forgets; the first value is the mean so far, so that a gateway's first seconds count."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._value = 0.0
        self._weight = 0.0

    def add(self, value: float, elapsed_seconds: float) -> float:
        kept = math.exp(-elapsed_seconds / self._seconds)
        self._value = self._value * kept + value * (1 - kept)
        self._weight = self._weight * kept + (1 - kept)
        return self._value / self._weight


def _stretched(value: int, stretch: float, most: int) -> int:
    """A value that is configured past the bound is left alone."""
    return max(value, min(round(value * stretch), most))
