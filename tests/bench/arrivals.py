"""Count what has arrived on a program's log: offsets on Kafka, or in the embedded log's file."""

import asyncio
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition

from consumers.source import EmbeddedSource
from deploy.local_kafka import LocalKafka
from schemas.topics import BATCHES
from tests.bench.ours import BATCHES_PREFIX, PARTITIONS
from tests.bench.programs import Ground, Program


class Arrivals:
    """The log of one program."""

    def __init__(self, program: Program, directory: Path, ground: Ground) -> None:
        self._keeps = program.keeps
        self._log = directory / "data" / "log"
        self._ground = ground

    def count(self) -> int:
        """Return how many records there are."""
        if self._keeps == "nothing":
            return 0
        return asyncio.run(self._embedded()) if self._keeps == "embedded" else kafka_records(self._ground.bootstrap)

    def of(self, batches: int) -> int | None:
        """Return how many records so many acknowledged batches must be; None where nothing is kept."""
        each = {"nothing": None, "embedded": 1, "one record a batch": 1, "one record an event": self._ground.events}
        records = each[self._keeps]
        return None if records is None else records * batches

    async def _embedded(self) -> int:
        source = await EmbeddedSource.open(self._log, "bench")
        try:
            return await source.end(BATCHES, 0)
        finally:
            await source.close()


def kafka_records(bootstrap: str) -> int:
    """Return how many records Kafka has been sent."""
    return asyncio.run(_end_offsets(bootstrap))


def kafka_bytes(kafka: LocalKafka) -> int:
    """Return what they take on its disks, without the indexes beside them."""
    files = f"data/{BATCHES_PREFIX}{BATCHES}-*/*.log"
    return sum(path.stat().st_size for broker in kafka.brokers for path in broker.home.glob(files))


async def _end_offsets(bootstrap: str) -> int:
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap)
    await consumer.start()
    try:
        partitions = [TopicPartition(BATCHES_PREFIX + BATCHES, number) for number in range(PARTITIONS)]
        return sum((await consumer.end_offsets(partitions)).values())
    finally:
        await consumer.stop()
