"""Kafka as a `Source`: a consumer group shares the partitions out, and each is read wherever its lane asks.

* **Nothing is skipped**: a read that returns nothing says that the leader had nothing; anything else is `SourceError`.
* **Committed offsets are a hint.** What a consumer has stored tells where it is; after a rebalance, or in a consumer
  that was stopped for a while, two may work on one partition, and only what they store can arbitrate that. An offset
  is kept with the id of its topic: it says nothing about a topic made again.
* The group is aiokafka's; its own fetching is paused, since it reads ahead of what is asked.
* Needs Kafka 3.1 or newer.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Final, Self

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import IllegalStateError, KafkaError
from msgspec import Meta, Struct

from consumers.kafka_fetch import Fetcher, Recreated
from consumers.source import Source, SourceError
from schemas.kafka import KIB, MIB, KafkaSettings
from schemas.records import StoredRecord
from schemas.topics import TOPICS

_FOREVER_MS: Final = 2**31 - 1
_CLOSE_SECONDS: Final = 5.0


class KafkaSourceSettings(Struct, frozen=True, kw_only=True):
    """How a consumer reads Kafka."""

    session_seconds: Annotated[
        float, Meta(ge=1, le=300, description="a consumer that is silent for so long loses its partitions to others")
    ] = 10.0
    timeout_seconds: Annotated[
        float, Meta(ge=1, le=300, description="how long Kafka may take to answer before a consumer begins anew")
    ] = 30.0
    fetch_bytes: Annotated[
        int, Meta(ge=16 * KIB, le=256 * MIB, description="bytes that are asked for at once; each partition keeps some")
    ] = 2 * MIB


class _Ahead(Struct):
    """Records of a partition that came with others and were not asked for yet."""

    first: int
    records: list[StoredRecord]
    next_offset: int


class KafkaSource(Source):
    """Some topics on Kafka, read as one member of a consumer group. Made by `open`."""

    def __init__(
        self, kafka: KafkaSettings, consumer: str, topics: Sequence[str], settings: KafkaSourceSettings
    ) -> None:
        self._kafka = kafka
        self._group = kafka.topic_prefix + consumer
        self._settings = settings
        self._fetcher = Fetcher(kafka, topics)
        self._admin = AIOKafkaAdminClient(**kafka.client_options())
        self._member = AIOKafkaConsumer(
            **kafka.client_options(),
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            session_timeout_ms=int(settings.session_seconds * 1000),
            heartbeat_interval_ms=int(settings.session_seconds * 1000 / 5),
            max_poll_interval_ms=_FOREVER_MS,  # reading is not its business: a member lives as long as it beats
            fetch_max_bytes=1,  # what it asks for in the moment between an assignment and the pause
            partition_assignment_strategy=(RoundRobinPartitionAssignor,),
        )
        self._ahead: dict[tuple[str, int], _Ahead] = {}
        self._ends: dict[tuple[str, int], int] = {}
        self._closed = False
        self._recreated: str | None = None

    @classmethod
    async def open(
        cls,
        kafka: KafkaSettings,
        consumer: str,
        *,
        topics: Sequence[str] = TOPICS,
        settings: KafkaSourceSettings | None = None,
        wait_seconds: float = 30.0,
    ) -> Self:
        """Wait for the brokers and the topics, and join the group. Raises `SourceError`, or OSError for a TLS file."""
        source = cls(kafka, consumer, topics, settings or KafkaSourceSettings())
        try:
            async with source._failing(wait_seconds):
                await source._fetcher.open()
                await source._admin.start()
                names = [kafka.topic(topic) for topic in topics]
                source._member.subscribe(names, listener=_Pausing(source._member, source._ahead))
                await source._member.start()
        except BaseException:
            await source.close()
            raise
        return source

    def identity_of(self, topic: str) -> str:
        """Name this very topic: by the cluster's id and its own, which are never given twice.

        Of no other topic: what was stored from this one is known by that name for as long as its offsets are valid.
        """
        topic_id = self._fetcher.topic_ids[topic]
        return hashlib.sha256(self._fetcher.cluster_id.encode() + b"\0" + topic_id).hexdigest()[:32]

    @property
    def recreated(self) -> str | None:
        """Say which topic was made again under its name: this source reads nothing any more, a new one does."""
        return self._recreated

    @property
    def group(self) -> str:
        """The consumer group's name on Kafka."""
        return self._group

    def kept(self, topic: str, next_offset: int) -> tuple[int, str]:
        """Return what is committed for a position: the offset, and which topic it is an offset of."""
        return next_offset, self._fetcher.topic_ids[topic].hex()

    def partitions(self, topic: str) -> Sequence[int]:
        """Return the partitions that the group has given to this member; they change as members come and go."""
        name = self._kafka.topic(topic)
        return sorted(place.partition for place in self._member.assignment() if place.topic == name)

    async def read(
        self, topic: str, partition: int, first: int, *, max_records: int, max_bytes: int
    ) -> list[StoredRecord]:
        """Return records from `first` on, in order; empty when Kafka says there are none. Raises `SourceError`."""
        found: list[StoredRecord] = []
        left_bytes = max_bytes
        while len(found) < max_records and left_bytes > 0:
            ahead = await self._look_ahead(topic, partition, first, max_bytes=left_bytes)
            taken = _fitting(ahead.records, max_records - len(found), left_bytes, at_least_one=not found)
            found += taken
            left_bytes -= sum(map(size_bytes, taken))
            del ahead.records[: len(taken)]
            ahead.first = taken[-1].offset + 1 if ahead.records and taken else ahead.next_offset
            if ahead.records or ahead.first in (first, self._ends[topic, partition]):
                break
            first = ahead.first
        return found

    async def position(self, topic: str, partition: int) -> int:
        """Return the committed offset; 0 where there is none for this very topic. Raises `SourceError`."""
        async with self._failing(self._settings.timeout_seconds):
            place = self._place(topic, partition)
            kept = (await self._admin.list_consumer_group_offsets(self._group, partitions=[place])).get(place)
        return committed_offset(kept, self._fetcher.topic_ids[topic]) or 0

    async def commit(self, topic: str, partition: int, next_offset: int) -> None:
        """Keep the position. Raises `SourceError`, also where the partition has gone to another member."""
        end = self._ends.get((topic, partition), -1)
        if not 0 <= next_offset <= (end if next_offset <= end else await self.end(topic, partition)):
            raise SourceError(f"offset {next_offset} of {topic}/{partition} is not on the log")
        async with self._failing(self._settings.timeout_seconds):
            await self._member.commit({self._place(topic, partition): self.kept(topic, next_offset)})

    async def end(self, topic: str, partition: int) -> int:
        """Return one past the newest offset, as the partition's leader has it now. Raises `SourceError`."""
        async with self._failing(self._settings.timeout_seconds):
            known = self._ends.get((topic, partition))
            self._ends[topic, partition] = await self._fetcher.end(topic, partition, known)
        return self._ends[topic, partition]

    async def close(self) -> None:
        """Leave the group and let go of the brokers, within bounds."""
        if self._closed:
            return
        self._closed = True
        for client in (self._member.stop(), self._admin.close(), self._fetcher.close()):
            with suppress(KafkaError, OSError, TimeoutError):
                await asyncio.wait_for(client, _CLOSE_SECONDS)

    async def _look_ahead(self, topic: str, partition: int, first: int, *, max_bytes: int) -> _Ahead:
        """Return what is known from `first` on, fetched where nothing is."""
        ahead = self._ahead.get((topic, partition))
        if ahead is None or ahead.first != first or not ahead.records:
            async with self._failing(self._settings.timeout_seconds):
                size = max(1, min(max_bytes, self._settings.fetch_bytes))
                fetched = await self._fetcher.fetch(topic, partition, first, size)
            ahead = _Ahead(first, fetched.records, fetched.next_offset)
            self._ahead[topic, partition] = ahead
            self._ends[topic, partition] = fetched.end
            if first > fetched.end:
                raise SourceError(f"offset {first} of {topic}/{partition} is past the end of the log, {fetched.end}")
        return ahead

    def _place(self, topic: str, partition: int) -> TopicPartition:
        return TopicPartition(self._kafka.topic(topic), partition)

    @asynccontextmanager
    async def _failing(self, seconds: float) -> AsyncIterator[None]:
        """Bound what is done, and make every failure a `SourceError`. A log made again stays one."""
        if self._closed:
            raise SourceError("the source is closed")
        if self._recreated is not None:
            raise SourceError(self._recreated)
        try:
            async with asyncio.timeout(seconds):
                yield
        except Recreated as recreated:
            self._recreated = f"{recreated}: start this consumer again"
            raise SourceError(self._recreated) from recreated
        except TimeoutError:
            raise SourceError(f"Kafka at {self._kafka.bootstrap} has not answered within {seconds:g} s") from None
        except NotImplementedError as error:  # aiokafka's word for a request that the broker does not know
            raise SourceError(f"Kafka at {self._kafka.bootstrap} is older than 3.1: {error}") from error
        except (KafkaError, IllegalStateError, OSError) as error:
            raise SourceError(f"Kafka at {self._kafka.bootstrap}: {error!r}") from error


class _Pausing(ConsumerRebalanceListener):  # type: ignore[misc, unused-ignore]  # aiokafka has no types
    """Keep the group's own fetching still, and keep nothing of partitions that go to others."""

    def __init__(self, member: AIOKafkaConsumer, ahead: dict[tuple[str, int], _Ahead]) -> None:
        self._member = member
        self._ahead = ahead

    def on_partitions_revoked(self, revoked: Any) -> None:
        self._ahead.clear()

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._member.pause(*assigned)


def committed_offset(kept: Any, topic_id: bytes) -> int | None:
    """Return the offset that a group has committed for this very topic; None where there is none."""
    # Some brokers do not keep the id with the offset.
    is_ours = kept is not None and kept.offset >= 0 and kept.metadata in ("", None, topic_id.hex())
    return int(kept.offset) if is_ours else None


def size_bytes(record: StoredRecord) -> int:
    return len(record.key) + len(record.value) + sum(len(name) + len(value) for name, value in record.headers)


def _fitting(
    records: Sequence[StoredRecord], max_records: int, max_bytes: int, *, at_least_one: bool
) -> list[StoredRecord]:
    taken: list[StoredRecord] = []
    for record in records[:max_records]:
        max_bytes -= size_bytes(record)
        if max_bytes < 0 and (taken or not at_least_one):
            break
        taken.append(record)
    return taken
