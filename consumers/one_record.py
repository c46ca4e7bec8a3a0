"""Read one record of the log again by its place, where it is still there; nothing is registered and nothing moves."""

import asyncio
import sqlite3
from pathlib import Path

from aiokafka.errors import KafkaError

from consumers.kafka_fetch import Fetcher, Recreated
from consumers.log_file import LogFile
from schemas.kafka import KafkaSettings
from schemas.records import StoredRecord


def record_in_file(directory: Path, topic: str, offset: int) -> StoredRecord | None:
    """Return the record of the log in the directory; None where it is not there any more."""
    log = LogFile(directory)
    try:
        found = log.select(topic, offset, 1, 1)
    except sqlite3.Error:
        return None
    finally:
        log.drop()
    return found[0] if found and found[0].offset == offset else None


async def record_on_kafka(
    kafka: KafkaSettings, topic: str, partition: int, offset: int, *, patience_seconds: float = 10.0
) -> StoredRecord | None:
    """Return the record on Kafka; None where it is not there any more, or Kafka does not answer."""
    fetcher = Fetcher(kafka, [topic])
    try:
        async with asyncio.timeout(patience_seconds):
            await fetcher.open()
            found = (await fetcher.fetch(topic, partition, offset, 1)).records
    except (KafkaError, OSError, Recreated):  # a timeout is an OSError
        return None
    finally:
        await fetcher.close()
    return found[0] if found and found[0].offset == offset else None
