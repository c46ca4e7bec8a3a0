"""What a simulation counts, in memory that does not grow with the fleet.

* Times are counted in bins of a fixed width; a percentile is exact to one bin.
"""

from typing import Final

import numpy as np

from gateway.client.fleet.simulation.workload import Floats, Ints, Workload

RATE_BIN_SECONDS: Final = 60.0
_LATENCY_BIN_SECONDS: Final = 10.0
_LEARN_BIN_SECONDS: Final = 10.0
_KEPT: Final = 1_000_000


class Histogram:
    """Counts of non-negative values in bins of one width."""

    def __init__(self, width: float, most: float) -> None:
        self.width = width
        self.counts: Ints = np.zeros(int(np.ceil(most / width)) + 1, np.int64)
        self._waiting: list[Floats] = []
        self._kept = 0

    def add(self, values: Floats) -> None:
        """Count some values; the last bin takes those past the end."""
        self._waiting.append(values)
        self._kept += len(values)
        if self._kept > _KEPT:
            self.settle()

    def settle(self) -> Ints:
        """Return the counts, with all that was added."""
        if self._waiting:
            bins = np.minimum(np.concatenate(self._waiting) / self.width, len(self.counts) - 1).astype(np.int64)
            self.counts += np.bincount(bins, minlength=len(self.counts))
            self._waiting, self._kept = [], 0
        return self.counts

    def add_all(self, other: "Histogram") -> None:
        """Count what another of the same width has counted."""
        self.settle()
        self.counts += other.settle()

    def percentile(self, percent: float, of: int | None = None) -> float | None:
        """Return the value below which so many percent lie, None where there are not so many.

        `of` counts those too that never got a value.
        """
        reached = np.cumsum(self.settle())
        wanted = percent / 100 * (reached[-1] if of is None else of)
        if wanted <= 0 or wanted > reached[-1]:
            return None
        place = int(np.searchsorted(reached, wanted))
        before = reached[place - 1] if place else 0
        return float((place + (wanted - before) / (reached[place] - before)) * self.width)


class Tallies:
    """One policy's counts over all chunks. Requests are those that a radio was switched on for."""

    def __init__(self, workload: Workload) -> None:
        self.devices = 0
        self.requests = 0
        self.wake_ups = 0
        self.produced = 0
        self.delivered = 0
        self.dropped = 0
        self.running_stopped = 0
        self.stopped_decisions = 0
        self.rates = Histogram(RATE_BIN_SECONDS, workload.seconds)
        self.latencies = Histogram(_LATENCY_BIN_SECONDS, workload.seconds)
        self.used = Histogram(_LEARN_BIN_SECONDS, workload.seconds)
        self.learned = Histogram(_LEARN_BIN_SECONDS, workload.seconds)

    def add_all(self, other: "Tallies") -> None:
        """Count what other devices did under the same policy."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(mine, Histogram):
                mine.add_all(value)
            else:
                setattr(self, name, mine + value)

    @property
    def waiting(self) -> int:
        """Events that no gateway has at the end."""
        return self.produced - self.delivered - self.dropped
