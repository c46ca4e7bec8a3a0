"""The warehouse is filled from Kafka as from the embedded log, also by consumers that come and go."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, RecordsToDelete
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import DatabaseError

from consumers.kafka import KafkaSource, KafkaSourceSettings
from consumers.lag import KafkaLags
from consumers.warehouse import WarehouseSettings, run
from gateway.publish.kafka import KafkaSink, KafkaSinkSettings
from gateway.publish.kafka_topics import ensure_topics
from schemas.kafka import KafkaSettings
from schemas.partition import partition_of
from schemas.topics import BATCHES, DEAD_LETTERS, TOPICS
from tests.kafka_fixtures import Kafka
from tests.warehouse_steps import Crash, Fuse, finish

BATCHES_SENT = 120
SMALL = WarehouseSettings(range_records=10, poll_seconds=0.05, stop_seconds=5)


async def consume_until(settings: KafkaSettings, client: AsyncClient, condition: Callable[[int], bool]) -> None:
    """Run one consumer until so many batches are stored."""
    source = await KafkaSource.open(settings, "warehouse", settings=KafkaSourceSettings(session_seconds=6))
    stop = asyncio.Event()
    task = asyncio.create_task(run(source, client, SMALL, stop))
    try:
        async with asyncio.timeout(60):
            while not task.done() and not condition(await stored(client)):  # noqa: ASYNC110 - a server is asked
                await asyncio.sleep(0.05)
    finally:
        stop.set()
        await task
        await source.close()


async def stored(client: AsyncClient) -> int:
    try:
        ((count,),) = (await client.query("SELECT count() FROM batches")).result_rows
    except DatabaseError:  # the first consumer makes the tables
        return 0
    return int(count)


async def test_consumers_that_take_turns_store_every_event_once(
    kafka: Kafka, warehouse_client: AsyncClient, make_batch: Callable[..., Any]
) -> None:
    settings = kafka.settings()
    sink = await KafkaSink.open(settings, kafka.topics(3), KafkaSinkSettings(), wait_seconds=30)
    sent = [make_batch(events=4, device=str(uuid.UUID(int=number % 30))) for number in range(BATCHES_SENT)]
    await sink.publish(sent)
    await sink.publish(sent[:20])  # devices that never heard the answer
    await sink.close()
    for enough in (1, BATCHES_SENT // 2):
        await consume_until(settings, warehouse_client, lambda count, enough=enough: count >= enough)  # type: ignore[misc]
    await asyncio.gather(
        *(consume_until(settings, warehouse_client, lambda count: count >= BATCHES_SENT) for _ in range(2))
    )
    counted = await warehouse_client.query("SELECT count(), uniqExact(batch, index) FROM events")
    assert list(counted.result_rows) == [(4 * BATCHES_SENT, 4 * BATCHES_SENT)]
    assert await stored(warehouse_client) == BATCHES_SENT


async def test_a_batch_sent_again_is_recognised_after_partitions_were_added_and_out_of_order(
    kafka: Kafka, warehouse_client: AsyncClient, make_batch: Callable[..., Any], each_once: Any
) -> None:
    if kafka.kind == "tansu":
        pytest.skip("Tansu does not change topics")
    settings = kafka.settings()
    devices = [str(uuid.UUID(int=number)) for number in range(12)]
    sent = [make_batch(events=2, device=device, seq=seq) for device in devices for seq in (1, 2, 3)]
    sink = await KafkaSink.open(settings, kafka.topics(1), KafkaSinkSettings(), wait_seconds=30)
    await sink.publish(sent[::-1])  # as from a spool whose gateway others overtook
    await sink.close()
    await consume_until(settings, warehouse_client, lambda count: count == len(sent))
    admin = AIOKafkaAdminClient(**settings.client_options())
    await admin.start()
    await admin.create_partitions({settings.topic(topic): NewPartitions(4) for topic in TOPICS})
    await admin.close()
    assert {partition_of(device.encode(), 4) for device in devices} == {0, 1, 2, 3}
    sink = await KafkaSink.open(settings, kafka.topics(4), KafkaSinkSettings(), wait_seconds=30)
    await sink.publish([*sent, *(make_batch(events=2, device=device, seq=4) for device in devices), *sent])
    await sink.close()
    source = await KafkaSource.open(settings, "warehouse", settings=KafkaSourceSettings(session_seconds=6))
    lags = await KafkaLags.open(settings, "warehouse", TOPICS)
    stop = asyncio.Event()
    task = asyncio.create_task(run(source, warehouse_client, SMALL, stop))
    async with asyncio.timeout(60):
        while any(lag.records for lag in await lags.look()):  # noqa: ASYNC110 - brokers are asked
            await asyncio.sleep(0.05)
    stop.set()
    await task
    await lags.close()
    await source.close()
    assert await each_once(warehouse_client) == (48, 96)


async def test_a_batch_half_written_when_another_topic_is_made_again_is_written_to_its_end(
    kafka: Kafka, tables: Any, warehouse_client: AsyncClient, make_batch: Callable[..., Any], each_once: Any
) -> None:
    settings, quick = kafka.settings(), KafkaSourceSettings(session_seconds=6)
    sink = await KafkaSink.open(settings, kafka.topics(1), KafkaSinkSettings(), wait_seconds=30)
    await sink.publish([make_batch(events=5) for _ in range(3)])
    await sink.close()
    source = await KafkaSource.open(settings, "warehouse", settings=quick)
    with pytest.raises(Crash):
        await finish(Fuse(1, after=False).around(source), tables)
    await source.close()
    await warehouse_client.command("ALTER TABLE events DELETE WHERE true SETTINGS mutations_sync = 2")
    admin = AIOKafkaAdminClient(**settings.client_options())
    await admin.start()
    await admin.delete_topics([settings.topic(DEAD_LETTERS)])
    await admin.close()
    await asyncio.sleep(1)
    await ensure_topics(settings, kafka.topics(1), TOPICS)
    again = await KafkaSource.open(settings, "warehouse", settings=quick)
    assert await again.position(BATCHES, 0) == 0
    await finish(again, tables)
    await again.close()
    assert await each_once(warehouse_client) == (3, 15)


@pytest.mark.parametrize("planned", [False, True], ids=["not planned", "planned"])
async def test_records_deleted_before_they_were_read_are_counted_and_the_rest_is_stored(
    kafka: Kafka, tables: Any, warehouse_client: AsyncClient, make_batch: Any, each_once: Any, planned: bool
) -> None:
    if kafka.kind == "tansu":
        pytest.skip("Tansu deletes no records")
    settings = kafka.settings()
    sink = await KafkaSink.open(settings, kafka.topics(1), KafkaSinkSettings(), wait_seconds=30)
    await sink.publish([make_batch(events=2) for _ in range(10)])
    await sink.close()
    source = await KafkaSource.open(settings, "warehouse", settings=KafkaSourceSettings(session_seconds=6))
    if planned:
        with pytest.raises(Crash):
            await finish(source, Fuse(2, after=True).around(tables))
    admin = AIOKafkaAdminClient(**settings.client_options())
    await admin.start()
    await admin.delete_records({TopicPartition(settings.topic(BATCHES), 0): RecordsToDelete(before_offset=3)})
    await admin.close()
    worker = await finish(source, tables)
    await source.close()
    assert worker.progress.skipped == 3
    assert worker.progress.records == 7
    assert await each_once(warehouse_client) == (7, 14)
    assert worker.progress.lag == 0
