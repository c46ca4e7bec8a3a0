"""Read partitions of Kafka one answer at a time: what an answer says is what the log held at that moment.

* aiokafka's consumer fetches ahead, and cannot tell "there is nothing" from "nothing has come yet"; a consumer that
  takes the second for the first would skip records. Here nothing means that the leader said so.
* By topic id: a topic made again under its name is `Recreated`, never read as if it were the old one.
* Compaction and transactions leave gaps; a position moves over them.
* Our own topics are written without transactions, but for `events`: who reads that asks for what is `committed`.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError, KafkaError, NoError, OffsetOutOfRangeError, for_code
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record.control_record import ABORT_MARKER, ControlRecord
from aiokafka.record.memory_records import MemoryRecords
from msgspec import Struct

from consumers.kafka_wire import NO_ID, PartitionFetch, TopicsRequest
from schemas.kafka import KafkaSettings
from schemas.records import StoredRecord

_log = logging.getLogger(__name__)

_UNKNOWN_TOPIC_ID: Final = 100
_INCONSISTENT_TOPIC_ID: Final = 103
_EARLIEST: Final = -2
_LATEST: Final = -1
_RETRY_SECONDS: Final = 0.2
_REQUEST_TIMEOUT_MS: Final = 15_000


class Recreated(Exception):
    """The topic of that name is not the one that was opened: it was deleted and made again."""


class Fetched(Struct, frozen=True):
    """Records from an offset on; where to go on; and one past the newest offset when they were read.

    `stable_end` is where the oldest open transaction begins, or the end; -1 where nobody asked for what is committed.
    """

    records: list[StoredRecord]
    next_offset: int
    end: int
    stable_end: int = -1


class Fetcher:
    """A connection to the leaders of some topics. Methods raise KafkaError, OSError or `Recreated`, and wait without
    bound for a partition that has no leader: callers bound them."""

    def __init__(self, kafka: KafkaSettings, topics: Sequence[str]) -> None:
        self._kafka = kafka
        self._names = {kafka.topic(topic): topic for topic in topics}
        self._client = AIOKafkaClient(**kafka.client_options(), request_timeout_ms=_REQUEST_TIMEOUT_MS)
        self._ids: dict[str, bytes] = {}
        self._leaders: dict[tuple[str, int], int] = {}
        self._oldest: dict[tuple[str, int], int] = {}
        self.cluster_id = ""

    async def open(self) -> None:
        """Wait for the brokers and for the topics, and fix the topics by their ids."""
        while True:
            try:
                await self._client.bootstrap()
                break
            except KafkaConnectionError:
                await asyncio.sleep(_RETRY_SECONDS)
        # Asked for by aiokafka, a topic that is not there would be made, where brokers are allowed to.
        while await self._refresh() or len(self._ids) < len(self._names):  # noqa: ASYNC110 - a broker is asked
            await asyncio.sleep(_RETRY_SECONDS)
        await self._client.set_topics(list(self._names))

    @property
    def topic_ids(self) -> Mapping[str, bytes]:
        """The topics' ids, by our names for them."""
        return self._ids

    def partitions(self, topic: str) -> list[int]:
        """Return the topic's partitions, as far as they are known."""
        return sorted(partition for name, partition in self._leaders if name == topic)

    async def refresh(self) -> None:
        """Learn of partitions that were added, and of leaders that moved."""
        await self._refresh()

    async def oldest(self, topic: str, partition: int) -> int:
        """Return the offset of the oldest record there is, or the end where there is none."""
        return await self._offset(topic, partition, _EARLIEST)

    async def fetch(
        self, topic: str, partition: int, first: int, max_bytes: int, *, committed: bool = False
    ) -> Fetched:
        """Return records from `first` on, or from the oldest there is; at least one where there are any.

        Raises OffsetOutOfRangeError for an offset past the end.
        """
        while True:
            request = PartitionFetch(self._ids[topic], partition, first, max_bytes, committed=committed)
            answer = await self._ask(topic, partition, request)
            if answer is not None:
                failure = for_code(answer.error_code)
                if failure is NoError:
                    return self._fetched(topic, partition, first, answer)
                if failure is OffsetOutOfRangeError:
                    first = await self._later(topic, partition, first)
                    continue
                if not failure.retriable and not _of_topic_id(answer.error_code):
                    raise failure(f"{topic}/{partition}")
            await asyncio.sleep(_RETRY_SECONDS)
            await self._refresh()

    async def end(self, topic: str, partition: int, known: int | None) -> int:
        """Return one past the newest offset; `known` is an earlier answer, which saves a request."""
        # Not by the offsets request alone: some brokers answer it with the start of the newest batch.
        if known is None:
            known = await self._offset(topic, partition, _LATEST)
        try:
            return (await self.fetch(topic, partition, known, 1)).end
        except OffsetOutOfRangeError:  # the log was cut back: a leader without the newest records took over
            return (await self.fetch(topic, partition, await self._offset(topic, partition, _LATEST), 1)).end

    async def close(self) -> None:
        await self._client.close()

    async def _ask(self, topic: str, partition: int, request: PartitionFetch) -> Any | None:
        """Return the leader's answer for the partition; None where nobody who could answer is known."""
        answer = await self._sent(self._leaders.get((topic, partition), -1), request)
        if answer is None:
            return None
        if answer.error_code:
            raise for_code(answer.error_code)(f"fetching {topic}/{partition}")
        for _, partitions, _ in answer.topics:
            for *fields, _ in partitions:
                return _Answer(*fields)
        return None

    def _fetched(self, topic: str, partition: int, first: int, answer: "_Answer") -> Fetched:
        found: list[StoredRecord] = []
        next_offset = first
        for batch, is_wanted in _batches(answer):
            next_offset = max(next_offset, batch.next_offset)
            if not is_wanted:
                continue
            if not batch.validate_crc():
                raise KafkaError(f"a damaged batch at {topic}/{partition}:{batch.base_offset}")
            found += [
                StoredRecord(
                    topic,
                    partition,
                    record.offset,
                    record.key or b"",
                    record.value or b"",
                    tuple((name, value or b"") for name, value in record.headers),
                )
                for record in batch
                if record.offset >= first
            ]
        return Fetched(found, next_offset, answer.high_watermark, answer.last_stable_offset)

    async def _later(self, topic: str, partition: int, first: int) -> int:
        """Return the oldest offset there is, where `first` is older. Raises OffsetOutOfRangeError where it is newer."""
        oldest = await self._offset(topic, partition, _EARLIEST)
        if first >= oldest:
            raise OffsetOutOfRangeError(f"offset {first} of {topic}/{partition} is past the end of the log")
        if self._oldest.get((topic, partition)) != oldest:  # where all is deleted, it is found again at every poll
            _log.error("%s/%d: offsets %d to %d are not on the log any more", topic, partition, first, oldest - 1)
        self._oldest[topic, partition] = oldest
        return oldest

    async def _offset(self, topic: str, partition: int, which: int) -> int:
        while True:
            request = OffsetRequest(-1, 0, [(self._kafka.topic(topic), [(partition, which)])])
            answer = await self._sent(self._leaders.get((topic, partition), -1), request)
            if answer is not None:
                ((_, ((_, code, _, offset),)),) = answer.topics
                failure = for_code(code)
                if failure is NoError:
                    return int(offset)
                if not failure.retriable:
                    raise failure(f"{topic}/{partition}")
            await asyncio.sleep(_RETRY_SECONDS)
            await self._refresh()

    async def _refresh(self) -> bool:
        """Learn who leads; say whether nobody answered. Raises `Recreated`."""
        answer = await self._sent(self._client.get_random_node(), TopicsRequest(list(self._names)))
        if answer is None:
            return True
        self.cluster_id = answer.cluster_id or ""
        for code, name, topic_id, _, partitions, *_ in answer.topics:
            topic = self._names.get(name)
            if topic is None or code or topic_id == NO_ID:
                continue
            if self._ids.setdefault(topic, topic_id) != topic_id:
                raise Recreated(f"topic {name} was deleted and made again")
            for _, partition, leader, *_ in partitions:
                self._leaders[topic, partition] = leader
        return False

    async def _sent(self, node: int | None, request: Any) -> Any | None:
        """Return the broker's answer; None where it cannot be had just now. Raises KafkaError where that will stay."""
        if node is None or node == -1:
            return None
        try:
            return await self._client.send(node, request)
        except KafkaError as error:
            if not error.retriable:
                raise
            return None


class _Answer(Struct, frozen=True):
    partition: int
    error_code: int
    high_watermark: int
    last_stable_offset: int
    log_start_offset: int
    aborted_transactions: list[Any] | None
    preferred_read_replica: int
    records: bytes | None


def _batches(answer: _Answer) -> Iterator[tuple[Any, bool]]:
    """Yield every batch, and whether it holds records for readers: no markers, and nothing that the answer says was
    aborted, from the offset it says on until that producer's marker."""
    waiting = sorted((first, producer) for producer, first, *_ in answer.aborted_transactions or ())
    aborted: set[int] = set()
    memory = MemoryRecords(answer.records or b"")
    while (batch := memory.next_batch()) is not None:
        while waiting and waiting[0][0] < batch.next_offset:
            aborted.add(waiting.pop(0)[1])
        if not batch.is_control_batch:
            yield batch, not (batch.is_transactional and batch.producer_id in aborted)
            continue
        if batch.producer_id in aborted and ControlRecord.parse(next(batch).key) == ABORT_MARKER:
            aborted.remove(batch.producer_id)
        yield batch, False


def _of_topic_id(code: int) -> bool:
    """Tell errors that end once metadata has spread, or show that the topic is another one."""
    return code in (_UNKNOWN_TOPIC_ID, _INCONSISTENT_TOPIC_ID)
