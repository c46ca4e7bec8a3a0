"""How much a fleet needs: from devices and events to gateways, partitions, ClickHouse nodes and money.

* Pure arithmetic over what the bench measured (a result) and what is assumed (`deploy/capacity.json`).
* A launch sends one batch, more where its events fill more; events a batch follow, and what a batch takes of processors
  and disks is read off the sizes that were measured, on straight lines between them.
* Everything is for the busiest hour, and nothing is meant to be busier than `core_share` then.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from tests.bench.aims import OURS

_DAY_SECONDS: Final = 86_400
_MONTH_DAYS: Final = 30
_GB: Final = 1e9
_GIB: Final = 2**30

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class Fleet(Struct, frozen=True, forbid_unknown_fields=True):
    """Devices, and what each does in a day."""

    name: str
    devices: Count
    launches_per_day: Positive
    events_per_day: Positive


class Assumed(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was not measured. A share is of what is there; `_least` is what stands there in case one fails.

    Consumers and Keepers have one core each. A batch comes on a connection of its own, which sends out
    `connection_bytes_out` beside the reply: certificates, headers, acknowledgements of TCP.
    """

    as_of: str
    about: str
    fleets: list[Fleet]
    peak_to_mean: Annotated[float, Meta(ge=1)]
    core_share: Annotated[float, Meta(gt=0, le=1)]
    batch_events: Count
    gateway_cores: Count
    gateways_least: Count
    spool_gib: Positive
    brokers: Count
    broker_cores: Count
    kafka_days: Positive
    kafka_copies: Count
    partitions_step: Count
    consumers_least: Count
    clickhouse_cores: Count
    clickhouse_disk_gb: Positive
    clickhouse_copies: Count
    keepers: Count
    disk_share: Annotated[float, Meta(gt=0, le=1)]
    warehouse_days: Positive
    connection_bytes_out: Count
    usd_per_core_month: Positive
    usd_per_gb_month: Positive
    usd_per_gb_out: Positive
    prices: str


class Measured(Struct, frozen=True, kw_only=True):
    """What the bench found: processor microseconds and bytes; `batch_us` and `kept_bytes` by events a batch."""

    batch_us: dict[int, float]
    kept_bytes: dict[int, float]
    consumer_us: float
    clickhouse_us: float
    stored_bytes_per_event: float
    reply_bytes: float


class Need(Struct, frozen=True, kw_only=True):
    """What a fleet needs. Cores are busy at the peak, `clickhouse_cores` on each replica; disks are of all copies.

    Money is US dollars a month.
    """

    events_per_day: float
    batches_per_second: float
    events_per_second: float
    gateway_cores: float
    gateways: int
    spool_hours: float
    partitions: int
    kafka_gb: float
    consumer_cores: float
    consumers: int
    clickhouse_cores: float
    shards: int
    nodes: int
    warehouse_gb: float
    out_gb_per_month: float
    usd_gateways: float
    usd_kafka: float
    usd_warehouse: float
    usd_out: float

    @property
    def usd(self) -> float:
        return self.usd_gateways + self.usd_kafka + self.usd_warehouse + self.usd_out

    @property
    def usd_per_million_events(self) -> float:
        return self.usd / (self.events_per_day * _MONTH_DAYS / 1e6)


def measured(result: Mapping[str, Any]) -> Measured:
    """Read what a capacity needs out of a result. Raises KeyError or TypeError where it was not measured.

    A batch without events is an update check, which takes a shorter way: it is no point of the lines.
    """
    batch_us = {int(size): programs[OURS]["cpu_us"] for size, programs in result["other_sizes"].items() if int(size)}
    kept_bytes = {int(size): found for size, found in result.get("kept_bytes", {}).items() if int(size)}
    filled, events = result["filled"], result["events"]
    as_sent = events * result["bytes_per_event"][f"{result['signals']} signals"]
    return Measured(
        batch_us=batch_us | {events: result["programs"][OURS]["cpu_us"]},
        kept_bytes=kept_bytes or {events: as_sent},
        consumer_us=filled["consumer_us"],
        clickhouse_us=filled["clickhouse_us"],
        stored_bytes_per_event=filled["stored_bytes_per_event"],
        reply_bytes=result["beside"]["reply_bytes"],
    )


def need(fleet: Fleet, found: Measured, given: Assumed) -> Need:
    """Return what one fleet needs."""
    events, batches = _a_day(fleet, given)
    peak = given.peak_to_mean / _DAY_SECONDS
    gateway_cores = batches * peak * _at(found.batch_us, events / batches) / 1e6
    consumer_cores = events * peak * found.consumer_us / 1e6
    clickhouse_cores = events * peak * found.clickhouse_us / 1e6
    kept_gb_per_day = batches * _at(found.kept_bytes, events / batches) / _GB
    one_copy_gb = events * found.stored_bytes_per_event * given.warehouse_days / _GB
    gateways = max(given.gateways_least, _spared(gateway_cores / given.gateway_cores, given))
    consumers = max(given.consumers_least, _spared(consumer_cores, given))
    spool_gb = gateways * given.spool_gib * _GIB / _GB
    by_cores = clickhouse_cores / given.core_share / given.clickhouse_cores
    shards = max(1, math.ceil(by_cores), math.ceil(one_copy_gb / given.disk_share / given.clickhouse_disk_gb))
    nodes, warehouse_gb = shards * given.clickhouse_copies, one_copy_gb * given.clickhouse_copies
    kafka_gb = kept_gb_per_day * given.kafka_days * given.kafka_copies
    out_gb = batches * _MONTH_DAYS * (found.reply_bytes + given.connection_bytes_out) / _GB
    return Need(
        events_per_day=events,
        batches_per_second=batches * peak,
        events_per_second=events * peak,
        gateway_cores=gateway_cores,
        gateways=gateways,
        spool_hours=spool_gb / (kept_gb_per_day * given.peak_to_mean) * 24,
        partitions=_partitions(consumer_cores + clickhouse_cores, shards, given),
        kafka_gb=kafka_gb,
        consumer_cores=consumer_cores,
        consumers=consumers,
        clickhouse_cores=clickhouse_cores / shards,
        shards=shards,
        nodes=nodes,
        warehouse_gb=warehouse_gb,
        out_gb_per_month=out_gb,
        usd_gateways=_usd(gateways * given.gateway_cores, spool_gb, given),
        usd_kafka=_usd(given.brokers * given.broker_cores, kafka_gb, given),
        usd_warehouse=_usd(consumers + given.keepers + nodes * given.clickhouse_cores, warehouse_gb, given),
        usd_out=out_gb * given.usd_per_gb_out,
    )


def _a_day(fleet: Fleet, given: Assumed) -> tuple[float, float]:
    """Return a day's events and batches."""
    full = fleet.events_per_day / given.batch_events
    return fleet.devices * fleet.events_per_day, fleet.devices * max(fleet.launches_per_day, full)


def _at(sizes: Mapping[int, float], events: float) -> float:
    """Return what a batch of so many events takes: on lines between the measured sizes, and beyond them."""
    points = sorted(sizes.items())
    if len(points) == 1:
        points.insert(0, (0, 0.0))
    for (low, at_low), (high, at_high) in pairwise(points):
        if events <= high or high == points[-1][0]:
            return at_low + (at_high - at_low) * (events - low) / (high - low)
    raise ValueError("no size was measured")


def _spared(busy: float, given: Assumed) -> int:
    """Return how many it takes to keep so many busy, and one more."""
    return math.ceil(busy / given.core_share) + 1


def _partitions(busy_cores: float, shards: int, given: Assumed) -> int:
    """Return a number that is as many lanes as are needed, and that the shards divide.

    A lane reads, writes and commits one range after the other, so it is as fast as both of its sides together.
    """
    step = math.lcm(given.partitions_step, shards)
    return step * max(1, math.ceil(busy_cores / given.core_share / step))


def _usd(cores: int, filled_gb: float, given: Assumed) -> float:
    """Return the money for machines and for disks that are filled that far."""
    return cores * given.usd_per_core_month + filled_gb / given.disk_share * given.usd_per_gb_month
