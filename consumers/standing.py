"""What a consumer says about itself: numbers for Prometheus, and whether what it needs is there.

* `lag` is of the whole group, by what is committed, so any member tells all of it, also one that waits for ClickHouse;
  everything else is this process's own, since it started.
* While the log cannot be asked, the last lag stays and its age in seconds grows on: silence must not look like rest.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from aiokafka.errors import KafkaError
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from consumers.ending import until
from consumers.kafka_fetch import Recreated
from consumers.lag import KafkaLags, Lag
from consumers.source import SourceError
from schemas.kafka import KafkaSettings

_log = logging.getLogger(__name__)

LOG: Final = "log"
WAREHOUSE: Final = "warehouse"

_LOOK_EVERY_SECONDS: Final = 5.0
_LOOK_AGAIN_SECONDS: Final = 2.0
_LOOK_SECONDS: Final = 15.0
_COUNTS: Final = {
    "records": "records of the log that are done with",
    "events": "events written: those of batches that were no resends",
    "resends": "batches and letters that were stored already",
    "unreadable": "records that nobody can read",
    "skipped": "offsets that the log had no record for any more: acknowledged and lost here",
    "retries": "tries that failed and were begun again",
}


class Counted(Protocol):
    """A partition's counts since its lane began: `consumers.warehouse.Progress`, `consumers.unpack.UnpackProgress`."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def records(self) -> int: ...
    @property
    def events(self) -> int: ...
    @property
    def resends(self) -> int: ...
    @property
    def unreadable(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def retries(self) -> int: ...
    @property
    def broken(self) -> str: ...
    @property
    def trouble(self) -> str: ...


class Standing(Collector):
    """One consumer process's numbers. `clock` is the wall clock, in epoch milliseconds."""

    def __init__(self, consumer: str, clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000) -> None:
        self._consumer = consumer
        self._clock = clock
        self._last: dict[tuple[str, int], Counted] = {}
        self._totals: dict[tuple[str, str], int] = {}
        self._written_ms: int | None = None
        self._waiting: dict[str, str] = {}
        self.lags: Sequence[Lag] = ()
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def observe(self, progress: Counted) -> None:
        """Take in a partition's progress. Its counts begin at 0 again where it comes back from another member."""
        place = progress.topic, progress.partition
        before = self._last.get(place)
        again = before is None or progress.records < before.records or progress.retries < before.retries
        for name in _COUNTS:
            more = getattr(progress, name) - (0 if again else getattr(before, name))
            self._totals[progress.topic, name] = self._totals.get((progress.topic, name), 0) + more
            if name == "records" and more:
                self._written_ms = self._clock()
        self._last[place] = progress

    def wait_for(self, part: str, reason: str) -> None:
        """Say what this process waits for before it can begin; an empty reason ends that."""
        self._waiting[part] = reason

    def trouble(self) -> dict[str, str]:
        """Return what is wrong with the log and with the warehouse; nothing where nothing is."""
        lanes = {progress.broken: progress.trouble for progress in self._last.values() if progress.broken}
        return lanes | {part: reason for part, reason in self._waiting.items() if reason}

    def exposition(self) -> bytes:
        """Render everything as Prometheus reads it."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the numbers."""
        name = "backhaul_consumer_"
        yield self._gauge(f"{name}up", "whether the consumer answers", ["consumer"], {(): 1.0})
        for count, about in _COUNTS.items():
            family = CounterMetricFamily(name + count, about, labels=["consumer", "topic"])
            for (topic, counted), total in self._totals.items():
                if counted == count:
                    family.add_metric([self._consumer, topic], total)
            yield family
        broken = {(part,): float(part in self.trouble()) for part in (LOG, WAREHOUSE)}
        yield self._gauge(f"{name}trouble", "whether a part that it needs is away", ["consumer", "part"], broken)
        if self._written_ms is not None:
            ages = {(): self._age_seconds(self._written_ms)}
            yield self._gauge(f"{name}last_write_age_seconds", "since records were last done with", ["consumer"], ages)
        yield from self._lag_families(name)

    def _lag_families(self, name: str) -> Iterator[Metric]:
        labels = ["consumer", "topic", "partition"]
        for suffix, about, value in (
            ("lag_records", "records that wait, by what the group has committed", lambda lag: lag.records),
            (
                "lag_seconds",
                "since a gateway took the oldest record that waits; 0 where none does",
                lambda lag: 0.0 if lag.oldest_ms is None else self._age_seconds(lag.oldest_ms),
            ),
            ("gone_records", "records that the log deleted before they were read", lambda lag: lag.gone),
        ):
            values = {(lag.topic, str(lag.partition)): float(value(lag)) for lag in self.lags}
            yield self._gauge(name + suffix, about, labels, values)

    def _gauge(self, name: str, about: str, labels: Sequence[str], values: Mapping[Any, float]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(name, about, labels=labels)
        for place, value in values.items():
            family.add_metric([self._consumer, *place], value)
        return family

    def _age_seconds(self, since_ms: int) -> float:
        return max(self._clock() - since_ms, 0) / 1000


async def keep_looking(standing: Standing, look: Callable[[], Awaitable[Sequence[Lag]]], stop: asyncio.Event) -> None:
    """Keep the lag up to date until stopped."""
    while not stop.is_set():
        try:
            standing.lags = await look()
            seconds = _LOOK_EVERY_SECONDS
        except SourceError as error:
            _log.debug("the lag is not known: %s", error)
            seconds = _LOOK_AGAIN_SECONDS
        await until(stop, seconds)


async def keep_looking_at_kafka(
    standing: Standing, kafka: KafkaSettings, group: str, topics: Sequence[str], stop: asyncio.Event
) -> None:
    """Keep the lag of a group up to date until stopped, over any number of outages."""
    lags: KafkaLags | None = None

    async def look() -> Sequence[Lag]:
        nonlocal lags
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                lags = lags or await KafkaLags.open(kafka, group, topics)
                return await lags.look()
        except (KafkaError, OSError, Recreated) as error:  # a timeout is an OSError
            if lags is not None:
                await lags.close()
            lags = None
            raise SourceError(repr(error)) from error

    try:
        await keep_looking(standing, look, stop)
    finally:
        if lags is not None:
            await lags.close()
