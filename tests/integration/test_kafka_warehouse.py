"""The warehouse is filled from Kafka as from the embedded log, also by consumers that come and go."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import DatabaseError

from consumers.kafka import KafkaSource, KafkaSourceSettings
from consumers.warehouse import WarehouseSettings, run
from gateway.publish.kafka import KafkaSink, KafkaSinkSettings
from schemas.kafka import KafkaSettings
from tests.kafka_fixtures import Kafka

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
