"""Parcels against brokers that answer what a test says: what goes together, what waits, and what is sent again."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import (
    KafkaConnectionError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    OutOfOrderSequenceNumber,
    UnknownError,
)
from aiokafka.record.memory_records import MemoryRecords

from gateway.publish.kafka_parcels import Parcels, Together
from gateway.publish.kafka_wire import Produce, ProduceV7
from schemas.records import Record

NOT_LEADER, DUPLICATE, TOO_LARGE = NotLeaderForPartitionError.errno, 46, MessageSizeTooLargeError.errno
PLACES = [TopicPartition("batches", number) for number in range(4)]
Request = Mapping[TopicPartition, bytes]


class Answer:
    def __init__(self, codes: Mapping[TopicPartition, int]) -> None:
        self.codes = codes


class Brokers:
    """Stands for aiokafka's client. Partitions are led in turn by two brokers."""

    def __init__(self) -> None:
        self.cluster = self
        self.requests: list[tuple[int, Request]] = []
        self.answers: list[Mapping[TopicPartition, int] | Exception] = []
        self.leaderless: set[TopicPartition] = set()
        self.free = {0: asyncio.Event(), 1: asyncio.Event()}
        for broker in self.free.values():
            broker.set()
        self.metadata_updates = 0

    def leader_for_partition(self, place: TopicPartition) -> int | None:
        return None if place in self.leaderless else place.partition % 2

    def force_metadata_update(self) -> None:
        self.metadata_updates += 1

    async def send(self, leader: int, request: Produce) -> Answer:
        pieces = request.build(ProduceV7).pieces
        partitions = [piece for piece in pieces if len(piece) == 8], [piece for piece in pieces if len(piece) > 60]
        batches = {PLACES[int.from_bytes(head[:4])]: data for head, data in zip(*partitions, strict=True)}
        self.requests.append((leader, batches))
        await self.free[leader].wait()
        said = self.answers.pop(0) if self.answers else {}
        if isinstance(said, Exception):
            raise said
        return Answer({place: said.get(place, 0) for place in batches})


class Ground:
    """Parcels with what they said of themselves."""

    def __init__(self, parcel_bytes: int = 100_000) -> None:
        self.brokers = Brokers()
        self.settled: list[tuple[int, type[BaseException] | None]] = []
        client: Any = self.brokers
        self.parcels = Parcels(
            client,
            (7, 0),
            lambda size, failure: self.settled.append((size, type(failure) if failure else None)),
            parcel_bytes=parcel_bytes,
            linger_ms=1,
            request_timeout_ms=1000,
        )

    def add(self, place: int, value: bytes) -> "asyncio.Future[None]":
        confirmation: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.parcels.add(PLACES[place], Record("batches", b"key", value), len(value), confirmation)
        return confirmation

    def together(self, *places_and_values: tuple[int, bytes]) -> Together:
        together = Together(len(places_and_values))
        for place, value in places_and_values:
            self.parcels.add(PLACES[place], Record("batches", b"key", value), len(value), together)
        return together

    async def until_requested(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.brokers.requests) < count:  # noqa: ASYNC110 - the state is another task's
                await asyncio.sleep(0.001)

    def sent(self, number: int, place: int) -> tuple[int, list[bytes]]:
        """Return the first sequence number and the values of a place's parcel in the request of that number."""
        batch = MemoryRecords(self.brokers.requests[number][1][PLACES[place]]).next_batch()
        return batch.base_sequence, [record.value for record in batch]


async def test_what_waits_for_a_broker_goes_in_one_request() -> None:
    ground = Ground()
    await asyncio.gather(ground.add(0, b"a"), ground.add(2, b"b"), ground.add(0, b"c"), ground.add(1, b"d"))
    assert sorted((leader, len(batches)) for leader, batches in ground.brokers.requests) == [(0, 2), (1, 1)]
    assert sorted(ground.settled) == [(1, None), (1, None), (2, None)]
    assert await ground.parcels.wait_empty(0)


async def test_what_comes_while_a_broker_is_busy_goes_together_after_it_in_order() -> None:
    ground = Ground()
    ground.brokers.free[0].clear()
    first = ground.add(0, b"1")
    await ground.until_requested(1)
    later = [ground.add(0, b"2"), ground.add(2, b"x"), ground.add(0, b"3")]
    await ground.add(1, b"the other broker is not held up")
    assert len(ground.brokers.requests) == 2
    ground.brokers.free[0].set()
    await asyncio.gather(first, *later)
    assert ground.sent(0, 0) == (0, [b"1"])
    assert (ground.sent(2, 0), ground.sent(2, 2)) == ((1, [b"2", b"3"]), (0, [b"x"]))


@pytest.mark.parametrize("trouble", [{PLACES[0]: NOT_LEADER}, KafkaConnectionError("gone")])
async def test_what_may_be_stored_is_sent_again_under_its_number_before_anything_else(trouble: Any) -> None:
    ground = Ground()
    ground.brokers.answers = [trouble, {PLACES[0]: DUPLICATE}]
    first = ground.add(0, b"1")
    await ground.until_requested(1)
    second = ground.add(0, b"2")
    await asyncio.gather(first, second)
    assert ground.brokers.requests[0] == ground.brokers.requests[1]
    assert ground.sent(2, 0) == (1, [b"2"])
    assert ground.brokers.metadata_updates
    assert ground.settled == [(1, None), (1, None)]


async def test_what_can_never_be_stored_fails_alone() -> None:
    ground = Ground()
    ground.brokers.answers = [{PLACES[0]: TOO_LARGE}]
    refused, stored = ground.add(0, b"11"), ground.add(2, b"2")
    with pytest.raises(MessageSizeTooLargeError):
        await refused
    await stored
    assert ground.settled == [(2, MessageSizeTooLargeError), (1, None)]


async def test_an_error_that_is_not_kafkas_fails_what_was_sent_and_frees_its_broker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, "gateway.publish")  # the command line, run in this process, may have silenced it
    ground = Ground()
    ground.brokers.answers = [KeyError("a connection that is gone")]
    with pytest.raises(UnknownError, match="a connection that is gone"):
        await ground.add(0, b"1")
    assert [record.exc_info is not None for record in caplog.records] == [True]
    await ground.add(2, b"2")
    assert ground.settled == [(1, UnknownError), (1, None)]


async def test_records_confirmed_together_are_stored_once_the_last_of_them_is() -> None:
    ground = Ground()
    ground.brokers.free[0].clear()
    together = ground.together((0, b"1"), (1, b"2"), (0, b"3"))
    await ground.until_requested(2)
    await ground.add(1, b"after the second")
    assert not together.stored.done()
    ground.brokers.free[0].set()
    await together.stored


async def test_of_records_confirmed_together_the_first_failure_counts() -> None:
    ground = Ground()
    ground.brokers.answers = [{PLACES[0]: TOO_LARGE, PLACES[2]: TOO_LARGE}]
    together = ground.together((0, b"11"), (2, b"22"), (1, b"3"))
    with pytest.raises(MessageSizeTooLargeError):
        await together.stored
    ground.parcels.give_up(OutOfOrderSequenceNumber())
    late = ground.together((0, b"4"), (1, b"5"))
    with pytest.raises(OutOfOrderSequenceNumber):
        await late.stored


async def test_a_partition_without_a_leader_waits_for_one_and_the_others_do_not() -> None:
    ground = Ground()
    ground.brokers.leaderless.add(PLACES[0])
    waiting = ground.add(0, b"1")
    await ground.add(1, b"2")
    assert ground.brokers.metadata_updates
    assert not waiting.done()
    ground.brokers.leaderless.clear()
    await waiting


async def test_what_does_not_fit_into_a_parcel_goes_with_the_next() -> None:
    ground = Ground(parcel_bytes=1000)
    await asyncio.gather(*(ground.add(0, b"%d" % number * 600) for number in range(3)))
    assert [ground.sent(number, 0) for number in range(3)] == [(0, [b"0" * 600]), (1, [b"1" * 600]), (2, [b"2" * 600])]


async def test_who_gives_up_stops_nobody_and_the_record_is_sent() -> None:
    ground = Ground()
    given_up, other = ground.add(0, b"1"), ground.add(0, b"2")
    given_up.cancel()
    await other
    assert ground.sent(0, 0) == (0, [b"1", b"2"])


async def test_giving_up_fails_what_is_sent_and_what_waits_and_frees_all_bytes() -> None:
    ground = Ground()
    ground.brokers.free[0].clear()
    confirmations = [ground.add(0, b"1")]
    await ground.until_requested(1)
    confirmations += [ground.add(0, b"2"), ground.add(2, b"3")]
    assert not await ground.parcels.wait_empty(0.01)
    ground.parcels.give_up(OutOfOrderSequenceNumber())
    outcomes = await asyncio.gather(*confirmations, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {OutOfOrderSequenceNumber}
    assert ground.settled == [(1, OutOfOrderSequenceNumber)] * 3
    assert await ground.parcels.wait_empty(0)
    assert ground.parcels.sent == 0


async def test_what_comes_after_giving_up_fails_at_once_and_nothing_is_sent() -> None:
    ground = Ground()
    ground.parcels.give_up(OutOfOrderSequenceNumber())
    late = ground.add(0, b"1")
    assert isinstance(late.exception(), OutOfOrderSequenceNumber)
    assert ground.settled == [(1, OutOfOrderSequenceNumber)]
    assert await ground.parcels.wait_empty(0)
    assert ground.brokers.requests == []
