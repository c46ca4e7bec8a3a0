"""One life of aiokafka's producer: made, used, and given up within a bounded time whatever the brokers do.

* Idempotent, acks=all: a retry inside one life stores a record once, and records of a partition keep their order.
* A batch of an idempotent producer never expires and `stop()` waits for it; so a life is ended from outside, where
  aiokafka has no public way (its private parts are named in `abandon` alone, and its version is bounded).
* After any failed delivery the numbering of its partition has a hole, and every later record is refused: the caller
  gives the producer up and makes another. A new life has a new producer id; what the old one had in flight may still
  be stored.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Final, Self

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from gateway.publish.kafka_parcels import Confirmation, Parcels, Settled
from schemas.kafka import KafkaSettings
from schemas.partition import partition_of
from schemas.records import Record

_log = logging.getLogger(__name__)

_ABANDON_SECONDS: Final = 0.5
# Half of the default: a broker that hangs is left for another address sooner.
_REQUEST_TIMEOUT_MS: Final = 20_000
_RETRY_MS: Final = 200


class Abandoned(KafkaError):  # type: ignore[misc, unused-ignore]  # aiokafka has no types
    """The producer was given up before the record was confirmed; the record may be stored."""


class Producer:
    """Sends to known topics, each record to the partition of its key. Made by `start`."""

    def __init__(
        self,
        kafka: KafkaSettings,
        settled: Settled,
        *,
        batch_bytes: int,
        max_batch_bytes: int,
        max_record_bytes: int,
        linger_ms: int,
    ) -> None:
        self._kafka = kafka
        self._places: dict[str, list[TopicPartition]] = {}
        self._producer = AIOKafkaProducer(
            **kafka.client_options(),
            enable_idempotence=True,
            acks="all",
            max_batch_size=min(batch_bytes, max_batch_bytes),
            max_request_size=max_record_bytes,
            request_timeout_ms=_REQUEST_TIMEOUT_MS,
            retry_backoff_ms=_RETRY_MS,
        )
        self._parcels = Parcels(self._producer, linger_ms / 1000, settled)

    @classmethod
    async def start(cls, kafka: KafkaSettings, topics: Sequence[str], settled: Settled, **sizes: int) -> Self:
        """Connect, and learn of the topics. `settled` as for `Parcels`. Raises KafkaError or OSError; bounded by the
        caller."""
        made = cls(kafka, settled, **sizes)
        try:
            await made._producer.start()
            for topic in topics:
                made._count(topic, await made._producer.partitions_for(kafka.topic(topic)))
            made._producer.client.cluster.add_listener(made._recount)
        except BaseException:
            await made.abandon()
            raise
        return made

    @property
    def sent(self) -> int:
        """How many parcels are sent and not answered for."""
        return self._parcels.sent

    def add(self, record: Record, size_bytes: int, confirmation: Confirmation) -> None:
        """Send the record; the confirmation is set once all in-sync brokers have it. Raises KafkaError."""
        places = self._places.get(record.topic)
        if places is None:
            raise UnknownTopicOrPartitionError(record.topic)
        self._parcels.add(places[partition_of(record.key, len(places))], record, size_bytes, confirmation)

    async def wait_settled(self, seconds: float) -> bool:
        """Wait so long for the brokers to answer for all records; say whether they have."""
        return await self._parcels.wait_empty(seconds)

    async def close(self, seconds: float) -> None:
        """Let go of the connections once everything is confirmed; give up after so long."""
        with suppress(KafkaError, OSError, TimeoutError):
            if await self.wait_settled(seconds):
                await asyncio.wait_for(self._producer.stop(), seconds)
                return
        await self.abandon()

    async def abandon(self) -> None:
        """End it now: what is not confirmed fails with `Abandoned`. Takes two seconds at most."""
        self._parcels.give_up(Abandoned("the producer was given up"))
        producer = self._producer
        producer._closed = True  # what `stop` marks; without it the object complains when it is collected
        task = producer._sender.sender_task
        for _ in range(2):  # the first cancellation waits for requests in flight, the second does not
            if task is not None and not task.done():
                task.cancel()
                await asyncio.wait({task}, timeout=_ABANDON_SECONDS)
        waiting = producer._message_accumulator
        given_up = [*waiting._pending_batches, *chain.from_iterable(waiting._batches.values())]
        waiting._pending_batches.update(given_up)  # each takes itself out, also one that was queued again
        waiting.fail_all(Abandoned("the producer was given up"))
        for batch in given_up:
            batch._drain_waiter.exception()  # nobody else looks, and asyncio would complain
        closing = asyncio.ensure_future(producer.client.close())
        await asyncio.wait({closing}, timeout=_ABANDON_SECONDS)
        if not closing.done():
            closing.cancel()
        elif not closing.cancelled() and closing.exception() is not None:
            _log.debug("closing the client failed: %r", closing.exception())

    def _recount(self, cluster: Any) -> None:
        """Follow the number of partitions as every client does; a topic that is away for a moment keeps its number."""
        for topic in self._places:
            found = cluster.partitions_for_topic(self._kafka.topic(topic))
            if found:
                self._count(topic, found)

    def _count(self, topic: str, partitions: Collection[int]) -> None:
        self._places[topic] = [TopicPartition(self._kafka.topic(topic), number) for number in range(len(partitions))]
