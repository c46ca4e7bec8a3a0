"""Count what happens to requests and events, for Prometheus.

* One registry per application and nothing global: two gateways in one process do not mix.
* `settle` is the one place where events are counted, each under the one outcome it ended with.
* What others know (bytes in flight, the log's size, the snapshot's age) is asked for when it is scraped.
"""

import asyncio
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from schemas.wire import Refusal

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
# Decoding 50 events takes 0.1 ms, the largest body some 50 ms; an fsync 0.1 ms to a slow disk's seconds.
_DECODE_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25)
_PUBLISH_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
_ACCEPTED: Final = ("accepted", "")
STALL_TICK_SECONDS: Final = 0.1
STALL_WINDOW_SECONDS: Final = 60.0


class Metrics:
    """The gateway's own counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Tally("backhaul_requests", "requests answered", ("route", "status", "code"))
        self._events = Tally("backhaul_events", "events durable, by how they ended", ("outcome", "reason"))
        self._events.counts[_ACCEPTED] = 0
        self.decode_seconds = Durations("backhaul_decode_seconds", "inflating and judging a body", _DECODE_BUCKETS)
        self.publish_seconds = Durations("backhaul_publish_seconds", "waiting for the log", _PUBLISH_BUCKETS)
        for counted in (self._requests, self._events, self.decode_seconds, self.publish_seconds):
            self.registry.register(counted)

    def answered(self, route: str, status: int, code: str) -> None:
        """Count a request under its route, status and problem code ("" for none)."""
        self._requests.counts[route, status, code] += 1

    def settle(self, events: int, refusals: Collection[Refusal]) -> None:
        """Count each event of a durable batch under the outcome that it ended with."""
        self._events.counts[_ACCEPTED] += events - len(refusals)
        for refusal in refusals:
            self._events.counts["refused", refusal.reason] += 1

    def watch(self, name: str, about: str, value: Callable[[], float]) -> None:
        """Show what `value` returns whenever somebody looks."""
        Gauge(f"backhaul_{name}", about, registry=self.registry).set_function(value)

    def watch_all(self, prefix: str, values: Callable[[], Mapping[str, float]]) -> None:
        """Show a mapping that somebody else keeps, each entry under its own name."""
        self.registry.register(_Gauges(f"backhaul_{prefix}", values))

    def exposition(self) -> bytes:
        """Render everything as Prometheus reads it."""
        return generate_latest(self.registry)


class Tally(Collector):
    """A counter with labels for one thread, so without a lock: prometheus_client's own takes five times as long."""

    def __init__(self, name: str, about: str, labels: Sequence[str]) -> None:
        self._name = name
        self._about = about
        self._labels = labels
        self.counts: Counter[tuple[object, ...]] = Counter()

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Yield the counter, with a sample for each combination of labels that was counted."""
        family = CounterMetricFamily(self._name, self._about, labels=self._labels)
        for labels, count in self.counts.items():
            family.add_metric([str(label) for label in labels], count)
        yield family


class Durations(Collector):
    """A histogram for one thread, as `Tally`."""

    def __init__(self, name: str, about: str, bounds_seconds: Sequence[float]) -> None:
        self._name = name
        self._about = about
        self._bounds = bounds_seconds
        self._counts = [0] * (len(bounds_seconds) + 1)
        self._sum_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self._counts[bisect_left(self._bounds, seconds)] += 1
        self._sum_seconds += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram; a bucket counts what is no longer than its bound, shorter ones included."""
        bounds = [*map(str, self._bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._name, self._about, buckets=buckets, sum_value=self._sum_seconds)


class _Gauges(Collector):
    """Gauges whose names are known only when they are read."""

    def __init__(self, prefix: str, values: Callable[[], Mapping[str, float]]) -> None:
        self._prefix = prefix
        self._values = values

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing yet: without this the registry would read the values to learn the names."""
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield one gauge per entry."""
        for name, value in self._values().items():
            yield GaugeMetricFamily(f"{self._prefix}_{name}", f"{name} of the {self._prefix}", value)


class Stalls:
    """The longest time for which the event loop was not free, over the last one to two windows."""

    def __init__(self) -> None:
        self._window = -1
        self._now_seconds = 0.0
        self._before_seconds = 0.0

    def record(self, stall_seconds: float, at_seconds: float) -> None:
        """Take in one observation, made at a monotonic time."""
        window = int(at_seconds // STALL_WINDOW_SECONDS)
        if window != self._window:
            self._before_seconds = self._now_seconds if window == self._window + 1 else 0.0
            self._now_seconds = 0.0
            self._window = window
        self._now_seconds = max(self._now_seconds, stall_seconds)

    def longest_seconds(self) -> float:
        """Return the longest stall seen."""
        return max(self._now_seconds, self._before_seconds)

    async def observe(self) -> None:
        """Sleep briefly again and again, and record how late each waking is. Runs until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + STALL_TICK_SECONDS
            await asyncio.sleep(STALL_TICK_SECONDS)
            self.record(max(0.0, loop.time() - due), due)
