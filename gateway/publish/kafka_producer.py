"""One life of a producer: made, used, and given up within a bounded time whatever the brokers do.

* aiokafka's client finds the brokers, talks to them and follows who leads. Its producer is not used: it gathers and
  numbers records too, at twice the price and without a way to end it while brokers hang.
* Idempotent, acks=all: a retry inside one life stores a record once, and records of a partition keep their order.
* After any failed delivery the numbering of its partition has a hole, and every later record is refused: the caller
  gives the producer up and makes another. A new life has a new producer id; what the old one had in flight may still
  be stored.
"""

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import Any, Final, Self

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.transaction import InitProducerIdRequest

from gateway.publish.kafka_parcels import Confirmation, Parcels, Settled
from schemas.kafka import KafkaSettings
from schemas.partition import partition_of
from schemas.records import Record

_log = logging.getLogger(__name__)

_ABANDON_SECONDS: Final = 0.5
# Half of aiokafka's default: a broker that hangs is left for another address sooner.
_REQUEST_TIMEOUT_MS: Final = 20_000
_RETRY_SECONDS: Final = 0.2
# Of transactions, which there are none of; the request has a field for it.
_TRANSACTION_TIMEOUT_MS: Final = 60_000


class Abandoned(KafkaError):  # type: ignore[misc, unused-ignore]  # aiokafka has no types
    """The producer was given up before the record was confirmed; the record may be stored."""


class Producer:
    """Sends to known topics, each record to the partition of its key. Made by `start`."""

    def __init__(self, kafka: KafkaSettings, client: AIOKafkaClient, parcels: Parcels) -> None:
        self._kafka = kafka
        self._client = client
        self._parcels = parcels
        self._places: dict[str, list[TopicPartition]] = {}

    @classmethod
    async def start(
        cls, kafka: KafkaSettings, topics: Sequence[str], settled: Settled, *, parcel_bytes: int, linger_ms: int
    ) -> Self:
        """Connect, learn of the topics and get an id; `settled` as for `Parcels`.

        Raises KafkaError or OSError; bounded by the caller.
        """
        client = AIOKafkaClient(**kafka.client_options(), request_timeout_ms=_REQUEST_TIMEOUT_MS)
        try:
            await client.bootstrap()
            await client.set_topics([kafka.topic(topic) for topic in topics])
            parcels = Parcels(
                client,
                await _producer_id(client),
                settled,
                parcel_bytes=parcel_bytes,
                linger_ms=linger_ms,
                request_timeout_ms=_REQUEST_TIMEOUT_MS,
            )
            made = cls(kafka, client, parcels)
            for topic in topics:
                made._count(topic, client.cluster.partitions_for_topic(kafka.topic(topic)))
                if not made._places.get(topic):
                    raise UnknownTopicOrPartitionError(kafka.topic(topic))
            client.cluster.add_listener(made._recount)
        except BaseException:
            await _closed(client)
            raise
        return made

    @property
    def sent(self) -> int:
        """How many parcels are sent and not answered for."""
        return self._parcels.sent

    def add(self, record: Record, size_bytes: int, confirmation: Confirmation) -> None:
        """Send the record; the confirmation is set once all in-sync brokers have it."""
        places = self._places[record.topic]
        self._parcels.add(places[partition_of(record.key, len(places))], record, size_bytes, confirmation)

    async def wait_settled(self, seconds: float) -> bool:
        """Wait so long for the brokers to answer for all records; say whether they have."""
        return await self._parcels.wait_empty(seconds)

    async def close(self, seconds: float) -> None:
        """Let go of the connections once everything is confirmed; give up after so long."""
        await self.wait_settled(seconds)
        await self.abandon()

    async def abandon(self) -> None:
        """End it now: what is not confirmed fails with `Abandoned`. Takes half a second at most."""
        self._parcels.give_up(Abandoned("the producer was given up"))
        await _closed(self._client)

    def _recount(self, cluster: Any) -> None:
        """Follow the number of partitions as every client does; a topic that is away for a moment keeps its number."""
        for topic in self._places:
            self._count(topic, cluster.partitions_for_topic(self._kafka.topic(topic)))

    def _count(self, topic: str, partitions: Collection[int] | None) -> None:
        if partitions:
            name = self._kafka.topic(topic)
            self._places[topic] = [TopicPartition(name, number) for number in range(len(partitions))]


async def _producer_id(client: AIOKafkaClient) -> tuple[int, int]:
    """Return an id of our own and its epoch. Raises KafkaError."""
    while True:
        request = InitProducerIdRequest(None, _TRANSACTION_TIMEOUT_MS)
        answer = await client.send(client.get_random_node(), request)
        failure = for_code(answer.error_code)
        if answer.error_code == 0:
            return answer.producer_id, answer.producer_epoch
        if not failure.retriable:
            raise failure
        await asyncio.sleep(_RETRY_SECONDS)


async def _closed(client: AIOKafkaClient) -> None:
    closing = asyncio.ensure_future(client.close())
    await asyncio.wait({closing}, timeout=_ABANDON_SECONDS)
    if not closing.done():
        closing.cancel()
    elif not closing.cancelled() and closing.exception() is not None:
        _log.debug("closing the client failed: %r", closing.exception())
