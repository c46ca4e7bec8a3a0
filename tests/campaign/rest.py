"""Whether anything is still on its way: records in spools, and records that a consumer has not committed."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from consumers.log_file import LogFile
from consumers.positions import load, positions_path
from gateway.clickhouse_server import url_of
from schemas.topics import TOPICS


async def spooled(port: int) -> int:
    """Return how many records a gateway still keeps for Kafka. Raises OSError, aiohttp's errors and ValueError."""
    async with aiohttp.ClientSession() as session, session.get(f"{url_of(port)}/metrics") as answer:
        found = re.search(r"^\S*spool_left_records (\S+)$", await answer.text(), re.MULTILINE)
    if found is None:
        raise ValueError("the gateway does not say what is in its spool")
    return int(float(found.group(1)))


async def left_on_kafka(bootstrap: str, groups: Mapping[str, Sequence[str]], partitions: int) -> int:
    """Return how many records the groups have not committed, each of its topics. Raises KafkaError."""
    places = [TopicPartition(topic, number) for topic in TOPICS for number in range(partitions)]
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False, group_id=None)
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await consumer.start()
        await admin.start()
        ends = await consumer.end_offsets(places)
        left = 0
        for group, topics in groups.items():
            wanted = [place for place in places if place.topic in topics]
            kept = await admin.list_consumer_group_offsets(group, partitions=wanted)
            left += sum(ends[place] - max(0, kept[place].offset) for place in wanted)
    finally:
        await admin.close()
        await consumer.stop()
    return left


def left_in_file(directory: Path, topics: Sequence[str] = TOPICS) -> int:
    """Return how many records of the embedded log lie past the consumer's position. Raises OSError, sqlite3.Error."""
    kept = load(positions_path(directory, "warehouse"))
    log = LogFile(directory)
    try:
        return sum(log.end(topic) - (kept.positions.get(topic, 0) if kept else 0) for topic in topics)
    finally:
        log.drop()
