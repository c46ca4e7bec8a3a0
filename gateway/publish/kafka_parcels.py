"""Gather records into parcels, the batches in which Kafka takes them: what a record costs alone is paid once for many.

* A parcel is of one partition, and each partition has one on its way at most: records of a device keep their order.
* The first record to wait sets a timer. When it is over, all that wait for a broker that is free go together; what
  waits for a broker that is not goes with its answer. So the slower a broker, the fewer and fuller its requests.
* Who waits for a record holds a future of his own and may give it up: the record is sent all the same.
* **Once.** A parcel that Kafka may have is sent again under the same number, so that it is stored once (KIP-98), until
  it is answered for or given up. After a parcel that failed for good the numbers of its partition have a hole.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Final

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import DuplicateSequenceNumber, KafkaError, UnknownError, for_code
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from gateway.publish.kafka_wire import Produce
from schemas.records import Record

_log = logging.getLogger(__name__)

Settled = Callable[[int, BaseException | None], None]

_RETRY_SECONDS: Final = 0.2
_NO_LEADER: Final = (None, -1)
_SEQUENCES: Final = 2**31


class Together:
    """The confirmation of several records: `stored` is set with the last of them, or fails with the first that does."""

    def __init__(self, count: int) -> None:
        self.stored: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._left = count

    def done(self) -> bool:
        return self.stored.done()

    def set_result(self, result: None) -> None:
        self._left -= 1
        if not self._left:
            self.stored.set_result(result)

    def set_exception(self, failure: BaseException) -> None:
        self.stored.set_exception(failure)


Confirmation = asyncio.Future[None] | Together


class Parcel:
    """Records of one partition that travel together, and the confirmations that are awaited for them."""

    __slots__ = ("_builder", "confirmations", "data", "size_bytes")

    def __init__(self, most_bytes: int) -> None:
        self._builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, 0, most_bytes)
        self.confirmations: list[Confirmation] = []
        self.size_bytes = 0
        self.data = b""

    def take(self, record: Record, size_bytes: int, confirmation: Confirmation) -> bool:
        """Take a record in; say whether there was room, which there always is in an empty parcel."""
        number, headers = len(self.confirmations), list(record.headers)
        if self.data or self._builder.append(number, None, record.key, record.value, headers) is None:
            return False
        self.size_bytes += size_bytes
        self.confirmations.append(confirmation)
        return True

    def seal(self, producer_id: int, epoch: int, sequence: int) -> None:
        """Give it the number of its first record; nothing can be added any more."""
        self._builder.set_producer_state(producer_id, epoch, sequence)
        self.data = bytes(self._builder.build())

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
    """The parcels of one producer, which has an id. `settled` is told each one's bytes, and why it failed if it did."""

    def __init__(
        self,
        client: AIOKafkaClient,
        producer: tuple[int, int],
        settled: Settled,
        *,
        parcel_bytes: int,
        linger_ms: int,
        request_timeout_ms: int,
    ) -> None:
        self._client = client
        self._producer = producer
        self._settled = settled
        self._parcel_bytes = parcel_bytes
        self._linger_seconds = linger_ms / 1000
        self._request_timeout_ms = request_timeout_ms
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._waiting: dict[TopicPartition, deque[Parcel]] = {}
        self._on_its_way: dict[TopicPartition, tuple[int, Parcel]] = {}
        self._sequences: Counter[TopicPartition] = Counter()
        self._posts: set[asyncio.Task[None]] = set()
        self._given_up: KafkaError | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def sent(self) -> int:
        """How many parcels are on their way."""
        return len(self._on_its_way)

    def add(self, place: TopicPartition, record: Record, size_bytes: int, confirmation: Confirmation) -> None:
        """Send the record with the next parcel of its partition; the confirmation is set once it is stored."""
        if self._given_up is not None:  # its publisher waited for letters, and comes too late
            if not confirmation.done():
                confirmation.set_exception(self._given_up)
            self._settled(size_bytes, self._given_up)
            return
        parcels = self._waiting.get(place)
        if parcels is None:
            parcels = self._waiting[place] = deque((Parcel(self._parcel_bytes),))
            self._empty.clear()
            self._send_in(self._linger_seconds)
        if not parcels[-1].take(record, size_bytes, confirmation):
            parcels.append(Parcel(self._parcel_bytes))
            parcels[-1].take(record, size_bytes, confirmation)

    async def wait_empty(self, seconds: float) -> bool:
        """Wait so long for Kafka to answer for everything; say whether it has."""
        if not self._empty.is_set():
            waiting = asyncio.ensure_future(self._empty.wait())
            await asyncio.wait({waiting}, timeout=seconds)
            waiting.cancel()
        return self._empty.is_set()

    def give_up(self, failure: KafkaError) -> None:
        """Fail everything now, and whatever comes later."""
        self._given_up = failure
        if self._timer is not None:
            self._timer.cancel()
        for post in self._posts:
            post.cancel()
        for place in list(self._on_its_way):
            self._settle(place, failure)
        while self._waiting:
            place, parcels = self._waiting.popitem()
            for parcel in parcels:
                self._on_its_way[place] = -1, parcel
                self._settle(place, failure)

    def _send_in(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._send)

    def _send(self) -> None:
        """Send the first parcel of every partition whose broker has nothing to answer for."""
        self._timer = None
        busy = {leader for leader, _ in self._on_its_way.values()}
        going: dict[int, list[TopicPartition]] = {}
        for place in self._waiting:
            leader = self._client.cluster.leader_for_partition(place)
            if leader in _NO_LEADER:
                self._client.force_metadata_update()
                self._send_in(_RETRY_SECONDS)
            elif leader not in busy and place not in self._on_its_way:
                going.setdefault(leader, []).append(place)
        for leader, places in going.items():
            for place in places:
                self._start(place, leader)
            post = self._loop.create_task(self._post(leader, places))
            self._posts.add(post)
            post.add_done_callback(self._posts.discard)

    def _start(self, place: TopicPartition, leader: int) -> None:
        parcels = self._waiting[place]
        parcel = parcels.popleft()
        if not parcels:
            del self._waiting[place]
        if not parcel.data:
            parcel.seal(*self._producer, self._sequences[place])
            self._sequences[place] = (self._sequences[place] + len(parcel.confirmations)) % _SEQUENCES
        self._on_its_way[place] = leader, parcel

    async def _post(self, leader: int, places: Sequence[TopicPartition]) -> None:
        """Send one request, and settle its parcels or put them back to be sent again."""
        batches = {place: self._on_its_way[place][1].data for place in places}
        failures: dict[TopicPartition, KafkaError | None]
        try:
            answer = await self._client.send(leader, Produce(batches, self._request_timeout_ms))
            failures = {place: _failure(answer.codes.get(place, UnknownError.errno)) for place in places}
        except KafkaError as error:
            failures = dict.fromkeys(places, error)
        except Exception as error:  # else they were on their way for ever, and in the way of all that goes there
            _log.exception("sending to Kafka failed")
            failures = dict.fromkeys(places, UnknownError(repr(error)))
        again = [place for place, failure in failures.items() if failure is not None and failure.retriable]
        for place in places:
            if place not in again:
                self._settle(place, failures[place])
        if again:
            self._client.force_metadata_update()
            await asyncio.sleep(_RETRY_SECONDS)
            for place in again:
                self._put_back(place)
        if self._waiting:
            self._send_in(0.0)

    def _put_back(self, place: TopicPartition) -> None:
        _, parcel = self._on_its_way.pop(place)
        self._waiting.setdefault(place, deque()).appendleft(parcel)

    def _settle(self, place: TopicPartition, failure: BaseException | None) -> None:
        _, parcel = self._on_its_way.pop(place)
        parcel.settle(failure)
        if not self._waiting and not self._on_its_way:
            self._empty.set()
        self._settled(parcel.size_bytes, failure)


def _failure(code: int) -> KafkaError | None:
    """Return what an error code means; None where the records are stored."""
    error = for_code(code)
    return None if code == 0 or error is DuplicateSequenceNumber else error()
