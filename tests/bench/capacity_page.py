"""The capacity page: what fleets need, in two tables, and what that is computed from."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tests.bench.capacity import Assumed, Measured, Need, measured, need


def page(result: Mapping[str, Any], given: Assumed) -> str:
    """Return the capacity page."""
    found = measured(result)
    needs = {fleet.name: need(fleet, found, given) for fleet in given.fleets}
    tables = [*_machines(needs, given), "", *_disks_and_money(needs)]
    return "\n".join([*_introduction(result), "", *tables, "", *_grounds(found, given)]) + "\n"


def _introduction(result: Mapping[str, Any]) -> Iterator[str]:
    machine = result["machine"]
    yield "# Capacity"
    yield ""
    yield (
        "Made by `python -m tests.bench.documents` from the newest file in `tests/bench/results` "
        f"({machine['cpu']}, {machine['cores']} cores, {result['date']}, commit {result['commit']}) and from what "
        "`capacity.json` assumes. Another processor, other habits: change the file, measure, make it anew."
    )


def _machines(needs: Mapping[str, Need], given: Assumed) -> Iterator[str]:
    heads = (
        "| fleet | events a day | batches a second, peak | gateway cores busy | gateways | partitions "
        "| consumer cores busy | consumers | ClickHouse cores busy, each node | ClickHouse nodes |"
    )
    yield from _table(
        heads,
        (
            [
                name,
                f"{its.events_per_day:,.0f}",
                f"{its.batches_per_second:,.0f}",
                f"{its.gateway_cores:.2f}",
                f"{its.gateways}",
                f"{its.partitions}",
                f"{its.consumer_cores:.2f}",
                f"{its.consumers}",
                f"{its.clickhouse_cores:.2f}",
                f"{its.nodes} ({its.shards} x {given.clickhouse_copies})",
            ]
            for name, its in needs.items()
        ),
    )


def _disks_and_money(needs: Mapping[str, Need]) -> Iterator[str]:
    heads = (
        "| fleet | Kafka GB | warehouse GB | hours without Kafka, at the peak "
        "| $ gateways | $ Kafka | $ warehouse | $ sent out | $ a month | $ a million events |"
    )
    yield from _table(
        heads,
        (
            [
                name,
                f"{its.kafka_gb:,.0f}",
                f"{its.warehouse_gb:,.0f}",
                _hours(its.spool_hours),
                f"{its.usd_gateways:,.0f}",
                f"{its.usd_kafka:,.0f}",
                f"{its.usd_warehouse:,.0f}",
                f"{its.usd_out:,.0f}",
                f"{its.usd:,.0f}",
                f"{its.usd_per_million_events:.2f}",
            ]
            for name, its in needs.items()
        ),
    )


def _hours(hours: float) -> str:
    """Return them with a tenth where they are few: to round what is survived up would promise too much."""
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}"


def _table(heads: str, rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield heads
    yield "|" + " --- |" * (heads.count("|") - 1)
    for cells in rows:
        yield f"| {' | '.join(cells)} |"


def _grounds(found: Measured, given: Assumed) -> Sequence[str]:
    habits = {(fleet.launches_per_day, fleet.events_per_day) for fleet in given.fleets}
    said = "; ".join(f"{launches:g} launches and {events:g} events" for launches, events in sorted(habits))
    return [
        "Measured:",
        "",
        f"* a batch at the gateway, with Kafka's confirmation, at full load: {_said(found.batch_us, 'µs')}; at a "
        "low one it is more, of cores that have nothing else to do;",
        f"* a batch on Kafka's disk, in one copy: {_said(found.kept_bytes, 'bytes')};",
        f"* an event in the warehouse, come in a batch of 50: {found.consumer_us:.1f} µs in the consumer and "
        f"{found.clickhouse_us:.1f} µs in ClickHouse, {found.stored_bytes_per_event:.0f} bytes on its disk, rollups "
        "included; in smaller batches it is more;",
        f"* a reply without news: {found.reply_bytes:.0f} bytes without its headers.",
        "",
        "Assumed:",
        "",
        f"* a device does a day: {said}; a launch sends one batch, or more of {given.batch_events} events; the busiest "
        f"hour has {given.peak_to_mean:g} times the mean, and nothing is busier than {given.core_share:.0%} then: what "
        "waited through an outage is caught up with in about its own time. A push that wakes all devices at once is "
        "spread by `flush_budget_requests_per_second`, not by machines;",
        f"* a gateway has {given.gateway_cores} cores, as many `--workers`, and {given.spool_gib:g} GiB for its spool; "
        f"there is one more than are needed and at least {given.gateways_least};",
        f"* {given.brokers} brokers of {given.broker_cores} cores keep {given.kafka_copies} copies for "
        f"{given.kafka_days:g} days, which is how long the warehouse may be away; a partition is written by one lane, "
        f"one range after the other; their number is a multiple of {given.partitions_step} and of the shards, and is "
        "hard to change: choose it for the fleet to come;",
        f"* a consumer has a core, there is one more than are needed and at least {given.consumers_least};",
        f"* a ClickHouse node has {given.clickhouse_cores} cores and at most {given.clickhouse_disk_gb:,.0f} GB; each "
        f"shard has {given.clickhouse_copies} replicas, each with all of its work, and keeps {given.warehouse_days:g} "
        f"days; {given.keepers} Keepers have a core each; a write waits for most of a shard's replicas, which of two "
        "is both: a third one, half as much again, lets it go on while one is away;",
        f"* disks are filled to {given.disk_share:.0%} when all days are there; GB are of all copies, "
        "and paid for as far as they are filled;",
        f"* each batch comes on a connection of its own, which sends out {given.connection_bytes_out:,} bytes beside "
        "the reply: certificates, headers, acknowledgements of TCP;",
        f"* ${given.usd_per_core_month:g} for a core and month, ${given.usd_per_gb_month:g} for a GB of disk and "
        f"month, ${given.usd_per_gb_out:g} for a GB sent out ({given.as_of}): {given.prices}.",
        "",
        "Not in it: the balancer before the gateways, which ends TLS and does as many handshakes a second as there "
        "are batches; traffic between zones; questions that people ask of the warehouse; backups; what watches all "
        "this; and downloads of models: `backhaul cost` says what one costs.",
    ]


def _said(sizes: Mapping[int, float], unit: str) -> str:
    return ", ".join(f"{found:,.0f} {unit} of {events} events" for events, found in sorted(sizes.items()))
