"""How much a fleet needs: from devices and events to gateways, partitions, ClickHouse nodes and money.

* Pure arithmetic over what the bench measured (a result) and what is assumed (`deploy/capacity.json`).
* A launch sends one batch, more where its events fill more; events a batch follow, and the processor time of a batch is
  read off the sizes that were measured, on straight lines between them.
* Everything is for the busiest hour, and nothing is meant to be busier than `core_share` then.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Final

from msgspec import Meta, Struct

from tests.bench.aims import OURS

_DAY_SECONDS: Final = 86_400
_MONTH_DAYS: Final = 30
_GB: Final = 1e9

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class Fleet(Struct, frozen=True, forbid_unknown_fields=True):
    """Devices, and what each does in a day."""

    name: str
    devices: Count
    launches_per_day: Positive
    events_per_day: Positive


class Assumed(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was not measured. A share is of what is there; `_least` is what stands there in case one fails."""

    as_of: str
    about: str
    fleets: list[Fleet]
    peak_to_mean: Annotated[float, Meta(ge=1)]
    core_share: Annotated[float, Meta(gt=0, le=1)]
    batch_events: Count
    gateway_cores: Count
    gateways_least: Count
    brokers: Count
    broker_cores: Count
    kafka_days: Positive
    kafka_copies: Count
    partitions_step: Count
    clickhouse_cores: Count
    clickhouse_disk_gb: Positive
    clickhouse_copies: Count
    disk_share: Annotated[float, Meta(gt=0, le=1)]
    warehouse_days: Positive
    usd_per_core_month: Positive
    usd_per_gb_month: Positive
    usd_per_gb_out: Positive
    prices: str


class Measured(Struct, frozen=True, kw_only=True):
    """What the bench found: processor microseconds and bytes."""

    batch_us: dict[int, float]
    consumer_us: float
    clickhouse_us: float
    sent_bytes_per_event: float
    stored_bytes_per_event: float
    reply_bytes: float


class Need(Struct, frozen=True, kw_only=True):
    """What a fleet needs; money is US dollars a month."""

    events_per_day: float
    batches_per_second: float
    events_per_second: float
    gateway_busy_cores: float
    gateways: int
    partitions: int
    kafka_gb: float
    warehouse_busy_cores: float
    shards: int
    nodes: int
    warehouse_gb: float
    usd: float
    usd_per_million_events: float


def measured(result: Mapping[str, Any]) -> Measured:
    """Read what a capacity needs out of a result. Raises KeyError or TypeError where it was not measured."""
    batch_us = {int(size): programs[OURS]["cpu_us"] for size, programs in result["other_sizes"].items()}
    filled, signals = result["filled"], f"{result['signals']} signals"
    return Measured(
        batch_us=batch_us | {result["events"]: result["programs"][OURS]["cpu_us"]},
        consumer_us=filled["consumer_us"],
        clickhouse_us=filled["clickhouse_us"],
        sent_bytes_per_event=result["bytes_per_event"][signals],
        stored_bytes_per_event=filled["stored_bytes_per_event"],
        reply_bytes=result["beside"]["reply_bytes"],
    )


def need(fleet: Fleet, found: Measured, given: Assumed) -> Need:
    """Return what one fleet needs."""
    events, batches = _a_day(fleet, given)
    peak = given.peak_to_mean / _DAY_SECONDS
    gateway_cores = batches * peak * _batch_us(found.batch_us, events / batches) / 1e6
    consumer_cores = events * peak * found.consumer_us / 1e6
    stored_cores = events * peak * found.clickhouse_us / 1e6
    gateways = max(given.gateways_least, math.ceil(gateway_cores / given.core_share / given.gateway_cores) + 1)
    # A lane reads, writes and commits one range after the other, so it is as fast as both of its sides together.
    lanes = (consumer_cores + stored_cores) / given.core_share
    kafka_gb = events * found.sent_bytes_per_event * given.kafka_days * given.kafka_copies / _GB
    warehouse_gb = events * found.stored_bytes_per_event * given.warehouse_days / _GB
    by_cores = stored_cores / given.core_share / given.clickhouse_cores
    shards = max(1, math.ceil(by_cores), math.ceil(warehouse_gb / given.disk_share / given.clickhouse_disk_gb))
    nodes = shards * given.clickhouse_copies
    cores = gateways * given.gateway_cores + given.brokers * given.broker_cores + nodes * given.clickhouse_cores
    disks_gb = (kafka_gb + warehouse_gb * given.clickhouse_copies) / given.disk_share
    out_gb = batches * _MONTH_DAYS * found.reply_bytes / _GB
    usd = (
        (cores + math.ceil(consumer_cores / given.core_share)) * given.usd_per_core_month
        + disks_gb * given.usd_per_gb_month
        + out_gb * given.usd_per_gb_out
    )
    return Need(
        events_per_day=events,
        batches_per_second=batches * peak,
        events_per_second=events * peak,
        gateway_busy_cores=gateway_cores,
        gateways=gateways,
        partitions=given.partitions_step * max(1, math.ceil(lanes / given.partitions_step)),
        kafka_gb=kafka_gb,
        warehouse_busy_cores=consumer_cores + stored_cores,
        shards=shards,
        nodes=nodes,
        warehouse_gb=warehouse_gb,
        usd=usd,
        usd_per_million_events=usd / (events * _MONTH_DAYS / 1e6),
    )


def page(result: Mapping[str, Any], given: Assumed) -> str:
    """Return the capacity page."""
    found = measured(result)
    return "\n".join([*_introduction(result), "", *_table(found, given), "", *_grounds(found, given)]) + "\n"


def _a_day(fleet: Fleet, given: Assumed) -> tuple[float, float]:
    """Return a day's events and batches."""
    full = fleet.events_per_day / given.batch_events
    return fleet.devices * fleet.events_per_day, fleet.devices * max(fleet.launches_per_day, full)


def _batch_us(sizes: Mapping[int, float], events: float) -> float:
    """Return the time of a batch of so many events: on lines between the measured sizes, and beyond the last."""
    points = sorted(sizes.items())
    for (low, low_us), (high, high_us) in pairwise(points):
        if events <= high or high == points[-1][0]:
            return low_us + (high_us - low_us) * (events - low) / (high - low)
    return points[0][1]


def _introduction(result: Mapping[str, Any]) -> Iterator[str]:
    machine = result["machine"]
    yield "# Capacity"
    yield ""
    yield (
        "Made by `python -m tests.bench.documents` from the newest file in `tests/bench/results` "
        f"({machine['cpu']}, {machine['cores']} cores, {result['date']}, commit {result['commit']}) and from what "
        "`capacity.json` assumes. Another processor, other habits: change the file, measure, make it anew."
    )


def _table(found: Measured, given: Assumed) -> Iterator[str]:
    yield (
        "| fleet | events a day | batches a second, peak | gateway cores in use | gateways | partitions "
        "| Kafka GB | warehouse cores in use | ClickHouse nodes | warehouse GB | $ a month | $ a million events |"
    )
    yield "|" + " --- |" * 12
    for fleet in given.fleets:
        its = need(fleet, found, given)
        cells = [
            fleet.name,
            f"{its.events_per_day:,.0f}",
            f"{its.batches_per_second:,.0f}",
            f"{its.gateway_busy_cores:.2f}",
            f"{its.gateways}",
            f"{its.partitions}",
            f"{its.kafka_gb:,.0f}",
            f"{its.warehouse_busy_cores:.2f}",
            f"{its.nodes} ({its.shards} x {given.clickhouse_copies})",
            f"{its.warehouse_gb:,.0f}",
            f"{its.usd:,.0f}",
            f"{its.usd_per_million_events:.2f}",
        ]
        yield f"| {' | '.join(cells)} |"


def _grounds(found: Measured, given: Assumed) -> Sequence[str]:
    sizes = ", ".join(f"{us:.0f} µs for {events} events" for events, us in sorted(found.batch_us.items()))
    habits = {(fleet.launches_per_day, fleet.events_per_day) for fleet in given.fleets}
    said = "; ".join(f"{launches:g} launches and {events:g} events" for launches, events in sorted(habits))
    return [
        "Measured:",
        "",
        f"* a batch at the gateway, with Kafka's confirmation: {sizes};",
        f"* an event in the warehouse: {found.consumer_us:.1f} µs in the consumer and {found.clickhouse_us:.1f} µs in "
        f"ClickHouse, {found.stored_bytes_per_event:.0f} bytes on its disk;",
        f"* on the wire {found.sent_bytes_per_event:.0f} bytes an event, which Kafka keeps as they are, and a reply of "
        f"{found.reply_bytes:.0f} bytes without its headers.",
        "",
        "Assumed:",
        "",
        f"* a device does a day: {said}; a launch sends one batch, or more of {given.batch_events} events; the busiest "
        f"hour has {given.peak_to_mean:g} times the mean, and nothing is busier than {given.core_share:.0%} then;",
        f"* a gateway has {given.gateway_cores} cores and as many workers, there is one more than are needed and at "
        f"least {given.gateways_least}; TLS ends at a balancer before them, which is not counted;",
        f"* {given.brokers} brokers of {given.broker_cores} cores keep {given.kafka_copies} copies for "
        f"{given.kafka_days:g} days; a partition is written to the warehouse by one lane, one range after the other;",
        f"* a ClickHouse node has {given.clickhouse_cores} cores and {given.clickhouse_disk_gb:,.0f} GB; each shard "
        f"has {given.clickhouse_copies} replicas and keeps {given.warehouse_days:g} days; disks are filled to "
        f"{given.disk_share:.0%}; questions that people ask of it are not counted;",
        f"* ${given.usd_per_core_month:g} for a core and month, ${given.usd_per_gb_month:g} for a GB of disk, "
        f"${given.usd_per_gb_out:g} for a GB sent out ({given.as_of}): {given.prices}.",
        "",
        "Downloads of models are not in it: `backhaul cost` says what one costs.",
    ]
