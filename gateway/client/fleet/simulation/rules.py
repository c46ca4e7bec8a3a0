"""The client's flush rules, for many devices at once.

* `gateway.client.policy` is the rule; what stands here is its array form, and a test holds every one against it. A test
  with a real client holds the order in which they are asked.
"""

from typing import Final

import numpy as np

from gateway.client.fleet.simulation.workload import Flags, Floats, Ints

_MOST_DOUBLINGS: Final = 32


def due_in(events: Ints, seconds: Floats, queued: Ints, age_seconds: Floats) -> Floats:
    """Return the seconds until each queue should be flushed, infinity where nothing waits: `policy.due_in`."""
    by_age = np.maximum(0.0, seconds - age_seconds)
    return np.where(queued <= 0, np.inf, np.where(queued >= events, 0.0, by_age))


def should_call(lease_seconds: Floats, queued: Ints, now: Floats, contact: Floats) -> Flags:
    """Say which launches should flush: `policy.should_call`, on clocks that do not go back."""
    overdue: Flags = (queued > 0) | (now - contact >= lease_seconds)
    return overdue


def backoff(failures: Ints, first_seconds: float, last_seconds: float, roll: Floats) -> Floats:
    """Return each wait by full jitter: `policy.backoff`."""
    doublings = np.minimum(np.maximum(failures - 1, 0), _MOST_DOUBLINGS)
    waits: Floats = roll * np.minimum(last_seconds, first_seconds * 2.0**doublings)
    return waits
