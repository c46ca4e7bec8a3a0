"""The warehouse consumer on a real log and a real ClickHouse: what a record becomes, and how the consumer behaves."""

import asyncio
import gzip
import signal
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from backports import zstd

from consumers.warehouse import Progress, WarehouseSettings, run
from schemas.records import DeadLetter, Told, dead_letter_record

DEVICE = "6f1c0000-0000-4000-8000-000000000001"
BATCH = "01980000-0000-7000-8000-000000000002"
QUICK = WarehouseSettings(poll_seconds=0.01, linger_seconds=0, backoff_seconds=0.01, backoff_max_seconds=0.1)


def at(ms: int) -> datetime:
    return datetime(1970, 1, 1) + timedelta(milliseconds=ms)  # noqa: DTZ001 - as the driver returns UTC columns


SIGNALS = {"upsell": ["battery_level", "charging"], "other": []}
RECEIVED = 1_795_334_401_000
SENT = RECEIVED - 500
CONTEXT = "app, device, batch, sdk, app_version, os, hardware, locale"
PHONE = ("shop", uuid.UUID(DEVICE), uuid.UUID(BATCH), "2.3.0", "5.1.0", "iOS 19.1", "iPhone15,3", "de_AT")


def full_batch(make_batch: Any, t: int) -> Any:
    """Return a batch with an event of every kind and everything that a device can say."""
    prediction = {"type": "prediction", "id": 8201, "t": t, "model": "upsell", "release": 42, "source": "ota"}
    prediction |= {"score": 0.73, "decision": True, "explored": True, "propensity": 0.95, "latency_us": 312}
    prediction |= {"signals": [0.81, None], "outcome": "purchased", "value": 1.5}
    outcome = {"type": "outcome", "id": 8200, "t": t + 1, "model": "other", "outcome": "dismissed"}
    model = {"type": "model", "t": t + 2, "model": "upsell", "release": 43, "state": "failed", "detail": "sha256"}
    model |= {"bytes": 7671, "ms": 41}
    return make_batch(
        events=[prediction, outcome, model],
        device=DEVICE,
        batch=BATCH,
        seq=1042,
        sent_at=SENT,
        received_at=RECEIVED,
        offer={"upsell": Told(use=42, arm="champion", rollout=9)},
        app_version="5.1.0",
        os="iOS 19.1",
        hardware="iPhone15,3",
        locale="de_AT",
        have={"upsell": {"catalogue": 17, "use": 41, "previous": "bundled"}, "other": {"catalogue": 0, "use": "none"}},
        ledger={"produced": 8213, "dropped": {"queue_full": 12}},
        signals=SIGNALS,
    )


async def test_every_column_of_every_kind_of_event_arrives(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any, ask: Any
) -> None:
    t, received = 1_795_334_300_000, RECEIVED
    await log.publish([full_batch(make_batch, t)])
    await drain(source, warehouse_client)
    columns = (
        "`index`, type, t, occurred_at, received_at, gateway, model, release, source, id, score, decision, explored, "
        "propensity, latency_us, signals, outcome, value, state, detail, bytes, ms, offered, arm, rollout"
    )
    found = await ask(warehouse_client, f"SELECT {columns} FROM events ORDER BY `index`")  # noqa: S608 - a constant
    described = {"battery_level": 0.81, "charging": None}
    told = ("42", "champion", 9)
    assert [row[:6] for row in found] == [
        (0, "prediction", at(t), at(t + 500), at(received), "gw"),
        (1, "outcome", at(t + 1), at(t + 501), at(received), "gw"),
        (2, "model", at(t + 2), at(t + 502), at(received), "gw"),
    ]
    assert [row[6:] for row in found] == [
        ("upsell", 42, "ota", 8201, 0.73, True, True, 0.95, 312, described, "purchased", 1.5, "", "", 0, 0, *told),
        ("other", 0, "", 8200, 0.0, False, False, 0.0, 0, {}, "dismissed", 0.0, "", "", 0, 0, "", "", 0),
        ("upsell", 43, "", 0, 0.0, False, False, 0.0, 0, {}, "", None, "failed", "sha256", 7671, 41, *told),
    ]
    assert await ask(warehouse_client, f"SELECT DISTINCT {CONTEXT} FROM events") == [PHONE]  # noqa: S608 - a constant


async def test_every_column_of_a_batch_arrives(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any, ask: Any
) -> None:
    record = full_batch(make_batch, 1_795_334_300_000)
    await log.publish([record])
    await drain(source, warehouse_client)
    columns = (
        f"{CONTEXT}, log, topic, partition, received_at, sent_at, gateway, seq, accepted, refused, produced, "
        "dropped, have, signals, offer, document_bytes"
    )
    found = await ask(warehouse_client, f"SELECT {columns} FROM batches")  # noqa: S608 - a constant
    have = {
        "upsell": {"catalogue": 17, "use": "41", "previous": "bundled"},
        "other": {"catalogue": 0, "use": "none", "previous": ""},
    }
    offer = {"upsell": {"use": "42", "arm": "champion", "rollout": 9}}
    place = (source.identity, "batches", 0, at(RECEIVED), at(SENT), "gw", 1042)
    assert found == [(*PHONE, *place, 3, 0, 8213, {"queue_full": 12}, have, SIGNALS, offer, len(record.value))]


async def test_optional_fields_that_are_absent_take_the_contracts_defaults(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any, ask: Any
) -> None:
    least = {"type": "prediction", "id": 1, "t": 5, "model": "m", "release": 1, "source": "none", "score": 0}
    await log.publish([make_batch(events=[{**least, "decision": False}])])
    await drain(source, warehouse_client)
    question = "SELECT score, decision, explored, propensity, latency_us, signals, outcome, value FROM events"
    assert await ask(warehouse_client, question) == [(0.0, False, False, 1.0, 0, {}, "", None)]


@pytest.mark.parametrize(
    ("t", "sent", "expected"),
    [(0, 2_000_000_000_000, 0), (10_413_791_999_999, 0, 10_413_791_999_999), (100, 1_795_334_401_000, 100)],
)
async def test_occurred_at_stays_within_its_column(
    log: Any,
    source: Any,
    warehouse_client: Any,
    make_batch: Any,
    t: int,
    sent: int,
    expected: int,
    drain: Any,
    ask: Any,
) -> None:
    events = [{"type": "outcome", "id": 1, "t": t, "model": "m", "outcome": "x"}]
    await log.publish([make_batch(events=events, sent_at=sent, received_at=1_795_334_401_000)])
    await drain(source, warehouse_client)
    found = await ask(warehouse_client, "SELECT toUnixTimestamp64Milli(occurred_at) FROM events")
    assert found == [(expected,)]


async def test_bodies_are_inflated_whatever_their_encoding(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any, count: Any
) -> None:
    await log.publish(
        [
            make_batch(events=3),
            make_batch(events=4, encode=lambda body: (gzip.compress(body), "gzip")),
            make_batch(events=5, encode=lambda body: (zstd.compress(body), "zstd")),
        ]
    )
    await drain(source, warehouse_client)
    assert await count(warehouse_client) == (3, 12, 0)


async def test_an_empty_batch_is_a_batch_without_events(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any, count: Any
) -> None:
    await log.publish([make_batch(events=[])])
    await drain(source, warehouse_client)
    assert await count(warehouse_client) == (1, 0, 0)


async def test_refused_events_are_left_out_and_the_others_keep_their_index(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, make_event: Any, drain: Any, ask: Any
) -> None:
    events = [make_event(0), {"type": "prediction", "score": 7}, make_event(2), "not an event", make_event(4)]
    await log.publish([make_batch(events=events, refused=(1, 3))])
    await drain(source, warehouse_client)
    assert await ask(warehouse_client, "SELECT `index`, type FROM events ORDER BY `index`") == [
        (0, "prediction"),
        (2, "prediction"),
        (4, "model"),
    ]
    assert await ask(warehouse_client, "SELECT accepted, refused FROM batches") == [(3, 2)]


async def test_dead_letters_are_kept_whole(log: Any, source: Any, warehouse_client: Any, drain: Any, ask: Any) -> None:
    refused = DeadLetter(
        app="shop", received_at=1_795_334_401_000, device=DEVICE, batch=BATCH, index=7, reason="score_out_of_range",
        encoding="json", body='{"type":"prediction","score":7,"x":"\u00e9"}',
    )  # fmt: skip
    malformed = DeadLetter(
        app="shop", received_at=1_795_334_401_001, device=None, batch=None, index=None, reason="malformed",
        encoding="gzip", body="H4sIAAAA",
    )  # fmt: skip
    await log.publish([dead_letter_record(refused), dead_letter_record(malformed)])
    await drain(source, warehouse_client)
    columns = "app, received_at, device, batch, `index`, reason, encoding, body, log, topic, partition"
    found = await ask(warehouse_client, f"SELECT {columns} FROM dead_letters ORDER BY received_at")  # noqa: S608
    place = (source.identity, "dead_letters", 0)
    assert found == [
        ("shop", at(1_795_334_401_000), DEVICE, BATCH, 7, "score_out_of_range", "json", refused.body, *place),
        ("shop", at(1_795_334_401_001), "", "", None, "malformed", "gzip", "H4sIAAAA", *place),
    ]


async def test_a_range_is_one_part_of_each_table_however_many_events_it_has(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any, ask: Any, count: Any
) -> None:
    await log.publish([make_batch(events=1000) for _ in range(100)])
    await drain(source, warehouse_client)
    assert await count(warehouse_client) == (100, 100_000, 0)
    found = await ask(
        warehouse_client,
        "SELECT table, count(), sum(rows) FROM system.parts WHERE database = currentDatabase() "
        "AND table IN ('events', 'batches') AND level = 0 GROUP BY table ORDER BY table",
    )
    assert found == [("batches", 1, 100), ("events", 1, 100_000)]


@pytest.mark.parametrize(
    ("bounds", "ranges"),
    [
        ({"range_records": 4}, [4, 4, 2]),
        ({"range_events": 250}, [2, 2, 2, 2, 2]),
        ({"range_bytes": 40_000}, [2, 2, 2, 2, 2]),
        ({"range_events": 1}, [1] * 10),
    ],
)
async def test_ranges_are_bounded_by_records_events_and_bytes_inflated(
    log: Any,
    source: Any,
    warehouse_client: Any,
    make_batch: Any,
    bounds: dict[str, Any],
    ranges: list[int],
    drain: Any,
    ask: Any,
    count: Any,
) -> None:
    # About 16 KB each, inflated; a few hundred bytes as they stand on the log.
    squeezed: Callable[[bytes], tuple[bytes, str]] = lambda body: (gzip.compress(body), "gzip")  # noqa: E731
    await log.publish([make_batch(events=100, encode=squeezed) for _ in range(10)])
    await drain(source, warehouse_client, WarehouseSettings(poll_seconds=0.01, linger_seconds=0, **bounds))
    assert await count(warehouse_client) == (10, 1000, 0)
    found = await ask(warehouse_client, "SELECT toUInt32(last - first + 1) FROM plans ORDER BY first")
    assert [size for (size,) in found] == ranges


async def test_lag_and_counts_are_told(log: Any, source: Any, warehouse_client: Any, make_batch: Any) -> None:
    seen: list[Progress] = []
    again = make_batch(events=5)
    await log.publish([make_batch(events=5), again, again])
    stop = asyncio.Event()

    def observe(now: Progress) -> None:
        if now.topic == "batches":
            seen.append(now)
            if now.next_offset and now.lag == 0:
                stop.set()

    settings = WarehouseSettings(range_records=1, poll_seconds=0.01, linger_seconds=0)
    async with asyncio.timeout(30):
        await run(source, warehouse_client, settings, stop, observe)
    assert [now.lag for now in seen if now.next_offset][-1] == 0
    assert max(now.lag for now in seen) == 2
    assert (seen[-1].records, seen[-1].resends, seen[-1].ranges, seen[-1].retries) == (3, 1, 3, 0)


async def test_a_small_range_waits_for_company_but_not_once_a_full_one_is_there(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any
) -> None:
    stop, stored = asyncio.Event(), 0

    def observe(now: Progress) -> None:
        nonlocal stored
        if now.topic == "batches":
            stored = now.records

    async def until_stored(count: int) -> None:
        while stored < count:  # noqa: ASYNC110 - the state is another task's
            await asyncio.sleep(0.01)

    settings = WarehouseSettings(range_records=10, poll_seconds=0.01, linger_seconds=3600)
    async with asyncio.timeout(30):
        await log.publish([make_batch(events=5)])
        running = asyncio.create_task(run(source, warehouse_client, settings, stop, observe))
        await until_stored(1)
        await log.publish([make_batch(events=5) for _ in range(9)])
        await asyncio.sleep(0.3)
        assert stored == 1
        await log.publish([make_batch(events=5)])
        await until_stored(11)
        stop.set()
        await running


async def test_a_warehouse_that_is_away_is_waited_for_and_nothing_is_lost(
    log: Any, source: Any, new_clickhouse: Any, make_batch: Any, drain: Any, count: Any
) -> None:
    await asyncio.to_thread(new_clickhouse.start)
    client = await new_clickhouse.connect("late")
    await log.publish([make_batch(events=5)])
    await drain(source, client)
    await asyncio.to_thread(new_clickhouse.close)

    stop = asyncio.Event()

    def observe(now: Progress) -> None:
        if now.topic == "batches" and now.ranges == 1:
            stop.set()

    async with asyncio.timeout(60):
        running = asyncio.create_task(run(source, client, QUICK, stop, observe))
        await log.publish([make_batch(events=5)])
        await asyncio.to_thread(new_clickhouse.start)  # takes many times longer than the consumer's first tries
        await running
    assert await count(client) == (2, 10, 0)
    await client.close()


async def test_stop_ends_a_consumer_whose_warehouse_hangs_within_its_bound(
    log: Any, source: Any, new_clickhouse: Any, make_batch: Any, drain: Any, count: Any
) -> None:
    await asyncio.to_thread(new_clickhouse.start)
    client = await new_clickhouse.connect("hangs")
    await log.publish([make_batch(events=5)])
    await drain(source, client)
    await log.publish([make_batch(events=5)])
    new_clickhouse.process.send_signal(signal.SIGSTOP)
    stop = asyncio.Event()
    running = asyncio.create_task(run(source, client, WarehouseSettings(stop_seconds=0.2), stop))
    try:
        asyncio.get_running_loop().call_later(0.3, stop.set)
        async with asyncio.timeout(5):
            await running
    finally:
        new_clickhouse.process.send_signal(signal.SIGCONT)
    await drain(source, client)
    assert await count(client) == (2, 10, 0)
    await client.close()


async def test_times_are_partitions_by_the_gateways_clock_alone(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any, ask: Any
) -> None:
    received = int(datetime.now(UTC).timestamp() * 1000)
    events = [{"type": "outcome", "id": i, "t": i * 86_400_000 * 365, "model": "m", "outcome": "x"} for i in range(300)]
    await log.publish([make_batch(events=events, received_at=received)])
    await drain(source, warehouse_client)
    found = await ask(warehouse_client, "SELECT uniq(_partition_id), count() FROM events")
    assert found == [(1, 300)]
