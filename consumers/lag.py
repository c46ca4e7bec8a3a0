"""How far behind a consumer is, seen from outside: what it has committed against the log, also while it does not run.

* A consumer's own word (`Progress`) says more, but only while it runs and can reach everything it needs.
* Looks, never changes: no position is made or moved, and no group is joined.
"""

import asyncio
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from msgspec import Struct

from consumers.kafka import committed_offset
from consumers.kafka_fetch import Fetcher
from consumers.log_file import LogFile
from consumers.positions import load, positions_path
from consumers.source import SourceError
from schemas.kafka import KafkaSettings
from schemas.records import Malformed, StoredRecord, batch_headers, dead_letter
from schemas.topics import BATCHES, TOPICS

_REQUEST_TIMEOUT_MS: Final = 5000
_RETRY_SECONDS: Final = 0.2


class Lag(Struct, frozen=True):
    """One partition: `records` wait there, the oldest since `oldest_ms` (epoch, at the gateway; None: none or unknown).

    `gone` counts records that the log deleted before they were read; `known` says whether anything was ever committed.
    """

    topic: str
    partition: int
    position: int
    end: int
    records: int
    gone: int
    oldest_ms: int | None
    known: bool


def file_lags(directory: Path, consumer: str) -> list[Lag]:
    """Return how far a consumer of an embedded log is behind; nothing where there is no log. Raises `SourceError`."""
    log = LogFile(directory)
    if not log.path.exists():
        return []
    try:
        kept = load(positions_path(directory, consumer))
        positions = kept.positions if kept is not None and kept.identity == log.identity() else {}
        found = []
        for topic in TOPICS:
            position, end = positions.get(topic, 0), log.end(topic)
            waiting = log.select(topic, position, 1, 1)
            # Nothing is trimmed that a consumer has not read; one that is new begins where the log does.
            first = waiting[0].offset if waiting else end
            records = max(end - max(first, position), 0)
            found.append(Lag(topic, 0, position, end, records, 0, _received_ms(waiting), topic in positions))
    except (sqlite3.Error, OSError, ValueError) as error:
        raise SourceError(f"{directory}: {error}") from error
    finally:
        log.drop()
    return found


def file_bytes(directory: Path) -> int:
    """Return what the records of an embedded log take on the disk; 0 where there is none. Raises `SourceError`."""
    log = LogFile(directory)
    try:
        return log.held_bytes() if log.path.exists() else 0
    except (sqlite3.Error, OSError) as error:
        raise SourceError(f"{directory}: {error}") from error
    finally:
        log.drop()


class KafkaLags:
    """Looks at a group's offsets on some topics. Made by `open`; methods raise KafkaError, OSError or `Recreated`."""

    def __init__(self, kafka: KafkaSettings, group: str, topics: Sequence[str]) -> None:
        self._kafka = kafka
        self._group = kafka.topic_prefix + group
        self._topics = topics
        self._fetcher = Fetcher(kafka, topics)
        self._admin = AIOKafkaAdminClient(**kafka.client_options(), request_timeout_ms=_REQUEST_TIMEOUT_MS)

    @classmethod
    async def open(cls, kafka: KafkaSettings, group: str, topics: Sequence[str]) -> Self:
        """Connect; the caller bounds it. Raises UnknownTopicOrPartitionError where not all of the topics are there."""
        lags = cls(kafka, group, topics)
        try:
            await lags._admin.start()
            lacking = {kafka.topic(topic) for topic in topics} - set(await lags._admin.list_topics())
            if lacking:
                raise UnknownTopicOrPartitionError(", ".join(sorted(lacking)))
            await lags._fetcher.open()
        except BaseException:
            await lags.close()
            raise
        return lags

    async def look(self) -> list[Lag]:
        """Return every partition of the topics, whoever reads it; the caller bounds it."""
        await self._fetcher.refresh()
        found = []
        for topic in self._topics:
            places = {
                partition: TopicPartition(self._kafka.topic(topic), partition)
                for partition in self._fetcher.partitions(topic)
            }
            kept = await self._kept(list(places.values()))
            for partition, place in places.items():
                position = committed_offset(kept.get(place), self._fetcher.topic_ids[topic])
                found.append(await self._of(topic, partition, position))
        return found

    async def close(self) -> None:
        """Let go of the brokers."""
        for closing in (self._admin.close(), self._fetcher.close()):
            with suppress(KafkaError, OSError):
                await closing

    async def _kept(self, places: Sequence[TopicPartition]) -> Mapping[TopicPartition, Any]:
        """Return what the group has committed. On a new cluster a group has no coordinator for a moment."""
        while True:
            try:
                found: Mapping[TopicPartition, Any] = await self._admin.list_consumer_group_offsets(
                    self._group, partitions=places
                )
            except KafkaError as error:
                if not error.retriable:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)
            else:
                return found

    async def _of(self, topic: str, partition: int, position: int | None) -> Lag:
        oldest = await self._fetcher.oldest(topic, partition)
        end = await self._fetcher.end(topic, partition, None)
        first = max(position or 0, oldest)
        waiting = (await self._fetcher.fetch(topic, partition, first, 1)).records if first < end else []
        return Lag(
            topic,
            partition,
            position or 0,
            end,
            records=max(end - first, 0),
            gone=0 if position is None else max(min(oldest, end) - position, 0),
            oldest_ms=_received_ms(waiting),
            known=position is not None,
        )


def _received_ms(waiting: Sequence[StoredRecord]) -> int | None:
    """Return when a gateway took the first of the records, where that can be read."""
    if not waiting:
        return None
    record = waiting[0]
    with suppress(Malformed):
        return (batch_headers(record) if record.topic == BATCHES else dead_letter(record)).received_at
    return None
