"""Read back what is stored at the end: the warehouse's tables, the loss report, the topics `batches` and `events`."""

import time
from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Any, Final

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from clickhouse_connect.driver.asyncclient import AsyncClient
from msgspec import Struct

from consumers.loss import loss
from schemas.topics import BATCHES, EVENTS
from tests.campaign.verdict import Content, Ledger, Letter, Place, Stored, Unpacked

_ROLLUP: Final = (
    "SELECT app, model, type, release, source, arm, decision, outcome, state, toStartOfHour(occurred_at) AS hour, "
    "count(), sum(latency_us), round(sum(score), 3) FROM events "
    "GROUP BY app, model, type, release, source, arm, decision, outcome, state, hour"
)
# So long nothing comes where the last offsets are nothing for readers: markers of transactions, and what was aborted.
_QUIET_SECONDS: Final = 10.0


class Spans(Struct, frozen=True):
    """How far the times reach that servers have put down, by their own clocks."""

    received_days: float
    planned_hours: float
    appended_hours: float = 0.0


async def stored(client: AsyncClient) -> Stored:
    """Read the warehouse."""
    question = "SELECT toString(batch), `index`, toString(device), id, score, signals['battery_level'] FROM events"
    events = (await client.query(question)).result_rows
    question = "SELECT toString(batch), toString(device), seq, accepted, refused FROM batches"
    batches = (await client.query(question)).result_rows
    question = "SELECT batch, ifNull(`index`, 0), device, reason, body FROM dead_letters"
    letters = (await client.query(question)).result_rows
    of_events = [letter for letter in letters if letter[0]]
    return Stored(
        events={(batch, index): (device, *content) for batch, index, device, *content in events},
        event_rows=Counter((batch, index) for batch, index, *_ in events),
        batches={batch: (device, seq, accepted, refused) for batch, device, seq, accepted, refused in batches},
        batch_rows=Counter(batch for batch, *_ in batches),
        letters={(batch, index): Letter(device, reason, body) for batch, index, device, reason, body in of_events},
        letter_rows=Counter((batch, index) for batch, index, *_ in of_events),
        bodies=Counter((reason, body) for batch, _, _, reason, body in letters if not batch),
        rollups_wrong=await _rollups_wrong(client),
        ledger=await _ledger(client),
    )


async def spans(client: AsyncClient) -> Spans:
    """Say how far the clocks that stamped the rows were apart."""
    question = "SELECT dateDiff('second', min(received_at), max(received_at)) / 86400 FROM events"
    ((days,),) = (await client.query(question)).result_rows
    question = "SELECT dateDiff('second', min(planned_at), max(planned_at)) / 3600 FROM plans"
    ((hours,),) = (await client.query(question)).result_rows
    return Spans(round(days, 1), round(hours, 1))


async def _rollups_wrong(client: AsyncClient) -> int:
    """Count the groups that the rollup has otherwise than the rows."""
    by_rollup = {"optimize_use_projections": 1, "force_optimize_projection": 1}
    by_rows = {"optimize_use_projections": 0}
    told, counted = [
        {tuple(row) for row in (await client.query(_ROLLUP, settings=settings)).result_rows}
        for settings in (by_rollup, by_rows)
    ]
    return len(told ^ counted)


async def _ledger(client: AsyncClient) -> Ledger:
    report = await loss(client)
    wrong = len(report.wrong) + report.missing + report.surplus + abs(report.waiting)
    days = report.days
    return Ledger(
        devices=report.devices,
        produced=sum(day.produced for day in days),
        stored=sum(day.stored for day in days),
        refused=sum(day.refused for day in days),
        dropped=sum(sum(day.dropped.values()) for day in days),
        unexplained=wrong,
    )


async def unpacked(bootstrap: str, window: int) -> tuple[Unpacked, float]:
    """Read the topic `events` as its readers do, what is committed; and over how many hours brokers appended."""
    events: dict[Place, Content] = {}
    rows: Counter[Place] = Counter()
    times: list[int] = []
    async with aclosing(_records(bootstrap, EVENTS)) as records:
        async for record in records:
            said = msgspec.json.decode(record.value)
            place = (said["batch"], said["index"])
            events[place] = (said["device"], said["id"], said["score"], said["signals"]["battery_level"])
            rows[place] += 1
            times.append(record.timestamp)
    batches: dict[int, list[tuple[int, str]]] = {}
    async with aclosing(_records(bootstrap, BATCHES)) as records:
        async for record in records:
            batch = dict(record.headers)["batch"].decode()
            batches.setdefault(record.partition, []).append((record.offset, batch))
            times.append(record.timestamp)
    apart_hours = (max(times, default=0) - min(times, default=0)) / 3_600_000
    return Unpacked(events, rows, promised_copies(batches.values(), window)), round(apart_hours, 1)


def promised_copies(partitions: Iterable[Sequence[tuple[int, str]]], window: int) -> Counter[str]:
    """Return how often each batch is to be unpacked: again only where it last stood further back than the window."""
    copies: Counter[str] = Counter()
    for records in partitions:
        last: dict[str, int] = {}
        for offset, batch in records:
            copies[batch] += batch not in last or last[batch] < offset - window
            last[batch] = offset
    return copies


async def _records(bootstrap: str, topic: str) -> AsyncGenerator[Any, None]:
    """Yield every committed record of the topic, each partition in order."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, isolation_level="read_committed", enable_auto_commit=False, group_id=None
    )
    await consumer.start()
    try:
        await consumer._client.add_topic(topic)
        places = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        ends = await consumer.end_offsets(places)
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        came = time.monotonic()
        while [place for place in places if await consumer.position(place) < ends[place]]:
            found = await consumer.getmany(timeout_ms=500, max_records=5000)
            came = time.monotonic() if found else came
            if time.monotonic() - came > _QUIET_SECONDS:
                break
            for records in found.values():
                for record in records:
                    yield record
    finally:
        await consumer.stop()
