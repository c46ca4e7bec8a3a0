"""Gather records into parcels, the batches in which Kafka takes them: what a record costs alone is paid once for many.

* A parcel is of one partition, and each partition has one on its way at most: records of a device keep their order.
* The first record to wait sets a timer. When it is over, all that wait for a broker that is free go together; what
  waits for a broker that is not goes with its answer. So the slower a broker, the fewer and fuller its requests.
* Who waits for a record holds a future of his own and may give it up: the record is sent all the same.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.records import Record

Confirmation = asyncio.Future[None]
Settled = Callable[[int, BaseException | None], None]


class Parcel:
    """Records of one partition that travel together, and the confirmations that are awaited for them."""

    __slots__ = ("_builder", "confirmations", "size_bytes")

    def __init__(self, builder: Any) -> None:
        self._builder = builder
        self.size_bytes = 0
        self.confirmations: list[Confirmation] = []

    def take(self, record: Record, size_bytes: int, confirmation: Confirmation) -> bool:
        """Take a record in; say whether there was room, which there always is in an empty parcel."""
        headers = list(record.headers)
        if self._builder.append(timestamp=None, key=record.key, value=record.value, headers=headers) is None:
            return False
        self.size_bytes += size_bytes
        self.confirmations.append(confirmation)
        return True

    def closed(self) -> Any:
        """Return what aiokafka sends; nothing can be added any more."""
        self._builder.close()
        return self._builder

    def settle(self, failure: BaseException | None) -> None:
        """Tell all who still wait."""
        for confirmation in self.confirmations:
            if confirmation.done():
                continue
            if failure is None:
                confirmation.set_result(None)
            else:
                confirmation.set_exception(failure)


class Parcels:
    """The parcels of one producer. `settled` is told each one's bytes, and its failure where it failed."""

    def __init__(self, producer: AIOKafkaProducer, linger_seconds: float, settled: Settled) -> None:
        self._producer = producer
        self._linger_seconds = linger_seconds
        self._settled = settled
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._waiting: dict[TopicPartition, deque[Parcel]] = {}
        self._on_its_way: dict[TopicPartition, tuple[int | None, Parcel]] = {}
        self._handing_over: set[asyncio.Task[None]] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.sent = 0  # that aiokafka has, and has not answered for

    def add(self, place: TopicPartition, record: Record, size_bytes: int, confirmation: Confirmation) -> None:
        """Send the record with the next parcel of its partition; the confirmation is set once it is stored."""
        parcels = self._waiting.get(place)
        if parcels is None:
            parcels = self._waiting[place] = deque((Parcel(self._producer.create_batch()),))
            self._empty.clear()
            if self._timer is None:
                self._timer = self._loop.call_later(self._linger_seconds, self._send)
        if not parcels[-1].take(record, size_bytes, confirmation):
            parcels.append(Parcel(self._producer.create_batch()))
            parcels[-1].take(record, size_bytes, confirmation)

    async def wait_empty(self, seconds: float) -> bool:
        """Wait so long for Kafka to answer for everything; say whether it has."""
        if not self._empty.is_set():
            waiting = asyncio.ensure_future(self._empty.wait())
            await asyncio.wait({waiting}, timeout=seconds)
            waiting.cancel()
        return self._empty.is_set()

    def give_up(self, failure: KafkaError) -> None:
        """Fail everything now; what aiokafka says of it later is not heard."""
        if self._timer is not None:
            self._timer.cancel()
        for task in self._handing_over:
            task.cancel()
        for place in list(self._on_its_way):
            self._settle(place, failure)
        while self._waiting:
            place, parcels = self._waiting.popitem()
            for parcel in parcels:
                self._on_its_way[place] = None, parcel
                self._settle(place, failure)

    def _send(self) -> None:
        """Send the first parcel of every partition whose broker has nothing to answer for."""
        self._timer = None
        busy = {leader for leader, _ in self._on_its_way.values()}
        going = []
        for place, parcels in self._waiting.items():
            leader = self._producer.client.cluster.leader_for_partition(place)
            if leader not in busy and place not in self._on_its_way:
                going.append(place)
                self._on_its_way[place] = leader, parcels.popleft()
        for place in going:
            if not self._waiting[place]:
                del self._waiting[place]
        if going:
            task = self._loop.create_task(self._hand_over(going))
            self._handing_over.add(task)
            task.add_done_callback(self._handing_over.discard)

    async def _hand_over(self, places: list[TopicPartition]) -> None:
        for place in places:
            parcel = self._on_its_way[place][1]
            try:
                sent = await self._producer.send_batch(parcel.closed(), place.topic, partition=place.partition)
            except (KafkaError, AssertionError) as error:  # aiokafka asserts that a partition is known
                self._settle(place, error)
            else:
                self.sent += 1
                sent.add_done_callback(partial(self._answered, place))

    def _answered(self, place: TopicPartition, sent: "asyncio.Future[Any]") -> None:
        self.sent -= 1
        failure = KafkaError("aiokafka gave the records up") if sent.cancelled() else sent.exception()
        self._settle(place, failure)
        if self._waiting and self._timer is None:
            self._timer = self._loop.call_soon(self._send)

    def _settle(self, place: TopicPartition, failure: BaseException | None) -> None:
        if place not in self._on_its_way:  # given up
            return
        _, parcel = self._on_its_way.pop(place)
        parcel.settle(failure)
        if not self._waiting and not self._on_its_way:
            self._empty.set()
        self._settled(parcel.size_bytes, failure)
