"""The topic `events` holds each event once, whatever happens to those who fill it."""

import asyncio
import gc
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from consumers.kafka import KafkaSource, KafkaSourceSettings
from consumers.origins import ORIGIN, origin, unpacked_up_to
from consumers.unpack import UnpackProgress, UnpackSettings, run
from gateway.publish.kafka import KafkaSink, KafkaSinkSettings
from gateway.publish.kafka_topics import ensure_topics
from schemas.kafka import KafkaSettings
from schemas.partition import partition_of
from schemas.topics import BATCHES, EVENTS
from tests.kafka_fixtures import Kafka
from tests.kafka_groups import forget_group

PARTITIONS = 2
SMALL = UnpackSettings(range_records=7, poll_seconds=0.05, transaction_seconds=10)
BatchMaker = Callable[..., Any]


@pytest.fixture
async def settings(kafka: Kafka) -> KafkaSettings:
    if kafka.kind == "tansu":
        pytest.skip("Tansu shows readers what was aborted")
    return kafka.settings()


@pytest.fixture
async def sink(kafka: Kafka, settings: KafkaSettings) -> AsyncIterator[KafkaSink]:
    opened = await KafkaSink.open(settings, kafka.topics(PARTITIONS), KafkaSinkSettings(), wait_seconds=30)
    await ensure_topics(settings, kafka.topics(PARTITIONS), [EVENTS])
    yield opened
    await opened.close()


@asynccontextmanager
async def member(settings: KafkaSettings) -> AsyncIterator[KafkaSource]:
    source = await KafkaSource.open(settings, "unpack", settings=KafkaSourceSettings(session_seconds=6))
    try:
        yield source
    finally:
        await source.close()


async def unpack_until(
    settings: KafkaSettings, condition: Callable[[dict[int, UnpackProgress]], bool]
) -> dict[int, UnpackProgress]:
    """Run one consumer until its progress, by partition, meets the condition."""
    progress: dict[int, UnpackProgress] = {}
    enough = asyncio.Event()

    def observe(seen: UnpackProgress) -> None:
        progress[seen.partition] = seen
        if condition(progress):
            enough.set()

    async with member(settings) as source, asyncio.timeout(60):
        await run(source, settings, SMALL, enough, observe)
    return progress


def batches(progress: dict[int, UnpackProgress]) -> int:
    return sum(seen.batches for seen in progress.values())


async def events_of(settings: KafkaSettings, count: int) -> list[tuple[int, dict[str, Any]]]:
    """Return (partition, event) of all that a reader of committed records sees, once there are so many."""
    reader = AIOKafkaConsumer(
        **settings.client_options(),
        isolation_level="read_committed",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await reader.start()
    try:
        places = [TopicPartition(settings.topic(EVENTS), partition) for partition in range(PARTITIONS)]
        reader.assign(places)
        found: list[tuple[int, dict[str, Any]]] = []
        async with asyncio.timeout(30):
            while len(found) < count:
                for place, records in (await reader.getmany(timeout_ms=500)).items():
                    found += [(place.partition, msgspec.json.decode(record.value)) for record in records]
        for place, records in (await reader.getmany(timeout_ms=1500)).items():  # what is too much
            found += [(place.partition, msgspec.json.decode(record.value)) for record in records]
        return found
    finally:
        await reader.stop()


def identities(found: list[tuple[int, dict[str, Any]]]) -> list[tuple[str, int]]:
    return sorted((event["batch"], event["index"]) for _, event in found)


async def test_each_event_of_each_batch_is_there_once_on_its_devices_partition(
    settings: KafkaSettings, sink: KafkaSink, make_batch: BatchMaker
) -> None:
    sent = [make_batch(events=5, device=str(uuid.UUID(int=number % 9))) for number in range(40)]
    await sink.publish(sent)
    await unpack_until(settings, lambda progress: batches(progress) == 40)
    found = await events_of(settings, 200)
    assert len(found) == len(set(identities(found))) == 200
    assert all(place == partition_of(event["device"].encode(), PARTITIONS) for place, event in found)
    for number in range(9):
        device = str(uuid.UUID(int=number))
        wanted = [dict(record.headers)["batch"].decode() for record in sent if record.key == device.encode()]
        seen = [event["batch"] for _, event in found if event["device"] == device]
        assert list(dict.fromkeys(seen)) == wanted


async def test_a_batch_sent_again_is_there_once_also_over_a_restart(
    settings: KafkaSettings, sink: KafkaSink, make_batch: BatchMaker
) -> None:
    first = make_batch(events=3, device=str(uuid.UUID(int=1)))
    await sink.publish([first, first])
    await unpack_until(settings, lambda progress: batches(progress) == 2)
    await sink.publish([first, make_batch(events=3, device=str(uuid.UUID(int=1)))])
    progress = await unpack_until(settings, lambda progress: batches(progress) == 2)
    assert sum(seen.resends for seen in progress.values()) == 1
    found = await events_of(settings, 6)
    assert len(identities(found)) == len(set(identities(found))) == 6


async def test_a_device_that_takes_another_ones_batch_id_takes_nothing_else_of_it(
    settings: KafkaSettings, sink: KafkaSink, make_batch: BatchMaker
) -> None:
    batch = str(uuid.UUID(int=7))
    partition = partition_of(str(uuid.UUID(int=1)).encode(), PARTITIONS)
    beside = [str(uuid.UUID(int=number)) for number in range(1, 40)]
    devices = [device for device in beside if partition_of(device.encode(), PARTITIONS) == partition][:2]
    await sink.publish([make_batch(events=3, device=device, batch=batch) for device in devices])
    progress = await unpack_until(settings, lambda progress: batches(progress) == 2)
    assert sum(seen.resends for seen in progress.values()) == 0
    assert {event["device"] for _, event in await events_of(settings, 6)} == set(devices)


async def test_a_record_that_cannot_be_read_does_not_stop_the_rest(
    settings: KafkaSettings, sink: KafkaSink, make_batch: BatchMaker
) -> None:
    device = str(uuid.UUID(int=1))
    good = [make_batch(events=2, device=device) for _ in range(2)]
    await sink.publish([good[0], msgspec.structs.replace(good[0], headers=()), good[1]])
    progress = await unpack_until(settings, lambda progress: batches(progress) == 3)
    assert sum(seen.unreadable for seen in progress.values()) == 1
    assert len(await events_of(settings, 4)) == 4


async def test_consumers_cut_down_in_the_middle_leave_each_event_there_once(
    settings: KafkaSettings, sink: KafkaSink, make_batch: BatchMaker
) -> None:
    sent = [make_batch(events=4, device=str(uuid.UUID(int=number % 20))) for number in range(300)]
    await sink.publish(sent)
    for pause_seconds in (0.3, 0.15, 0.25, 0.2):
        async with member(settings) as source:
            task = asyncio.create_task(run(source, settings, SMALL, asyncio.Event()))
            await asyncio.sleep(pause_seconds)
            await cut_down(task)
    await unpack_until(settings, reached_the_end(await ends(settings)))
    found = await events_of(settings, 1200)
    assert len(identities(found)) == len(set(identities(found))) == 1200


async def test_two_that_hold_the_same_partition_for_a_while_double_nothing(
    settings: KafkaSettings, sink: KafkaSink, make_batch: BatchMaker, caplog: pytest.LogCaptureFixture
) -> None:
    await sink.publish([make_batch(events=4, device=str(uuid.UUID(int=number % 20))) for number in range(200)])
    wanted = await ends(settings)
    reached: dict[int, int] = {}
    stop = asyncio.Event()

    def observe(seen: UnpackProgress) -> None:
        reached[seen.partition] = max(seen.next_offset, reached.get(seen.partition, 0))
        if reached == wanted:
            stop.set()

    async with member(settings) as source, asyncio.timeout(90):
        # Both run on one membership: each believes that every partition is its own, as a zombie does.
        await asyncio.gather(*(run(source, settings, SMALL, stop, observe) for _ in range(2)))
    found = await events_of(settings, 800)
    assert len(identities(found)) == len(set(identities(found))) == 800
    gc.collect()
    said = [(record.name, record.levelname) for record in caplog.records if not record.name.startswith("aiokafka")]
    assert ("consumers.unpack", "WARNING") in said  # one shut the other out, and said so
    assert ("asyncio", "ERROR") not in said


async def delete_the_groups_offsets(settings: KafkaSettings) -> None:
    await forget_group(settings.client_options(), settings.topic("unpack"))


async def commit_older_offsets(settings: KafkaSettings) -> None:
    member = AIOKafkaConsumer(**settings.client_options(), group_id=settings.topic("unpack"), enable_auto_commit=False)
    await member.start()
    places = [TopicPartition(settings.topic(BATCHES), partition) for partition in range(PARTITIONS)]
    member.assign(places)
    await member.commit(dict.fromkeys(places, 3))
    await member.stop()


@pytest.mark.parametrize("lose", [delete_the_groups_offsets, commit_older_offsets])
async def test_positions_that_brokers_lost_double_nothing_and_what_is_new_still_comes(
    settings: KafkaSettings, sink: KafkaSink, make_batch: BatchMaker, lose: Callable[[KafkaSettings], Awaitable[None]]
) -> None:
    await sink.publish([make_batch(events=4, device=str(uuid.UUID(int=number % 20))) for number in range(60)])
    await unpack_until(settings, reached_the_end(await ends(settings)))
    await lose(settings)
    await sink.publish([make_batch(events=4, device=str(uuid.UUID(int=number % 20))) for number in range(20)])
    progress = await unpack_until(settings, reached_the_end(await ends(settings)))
    assert batches(progress) == 20
    found = await events_of(settings, 320)
    assert len(identities(found)) == len(set(identities(found))) == 320


async def test_a_position_that_brokers_lost_is_committed_again_though_nothing_new_came(
    settings: KafkaSettings, sink: KafkaSink, make_batch: BatchMaker
) -> None:
    await sink.publish([make_batch(events=1, device=str(uuid.UUID(int=number))) for number in range(10)])
    wanted = await ends(settings)
    await unpack_until(settings, reached_the_end(wanted))
    await delete_the_groups_offsets(settings)
    await unpack_until(settings, reached_the_end(wanted))
    async with member(settings) as source:
        assert {partition: await source.position(BATCHES, partition) for partition in wanted} == wanted


async def test_what_was_aborted_is_not_taken_for_unpacked_when_brokers_lost_the_position(
    settings: KafkaSettings, sink: KafkaSink, make_batch: BatchMaker
) -> None:
    sent = [make_batch(events=4, device=str(uuid.UUID(int=number % 20))) for number in range(40)]
    await sink.publish(sent[:20])
    await unpack_until(settings, reached_the_end(await ends(settings)))
    await sink.publish(sent[20:])
    wanted = await ends(settings)
    await delete_the_groups_offsets(settings)
    async with member(settings) as source:
        log = source.identity_of(BATCHES)
    # One says that it gave up, the other one is cut down: the next start ends its transaction.
    said, silent = [await begun(settings, log, partition, wanted[partition] - 1) for partition in range(PARTITIONS)]
    await said.abort_transaction()
    try:
        await unpack_until(settings, reached_the_end(wanted))
    finally:
        for producer in (said, silent):
            with suppress(KafkaError):
                await producer.stop()
    found = await events_of(settings, 160)
    assert len(identities(found)) == len(set(identities(found))) == 160


async def begun(settings: KafkaSettings, log: str, partition: int, offset: int) -> AIOKafkaProducer:
    """Return a partition's producer that has written an event of the batch at the offset, and not committed it."""
    producer = AIOKafkaProducer(
        **settings.client_options(), transactional_id=f"{settings.topic('unpack')}.batches.{partition}"
    )
    await producer.start()
    await producer.begin_transaction()
    headers = [(ORIGIN, origin(log, partition, offset))]
    await producer.send_and_wait(settings.topic(EVENTS), b"{}", partition=partition, headers=headers)
    return producer


async def test_a_log_made_again_is_unpacked_from_its_first_batch_on(
    kafka: Kafka, settings: KafkaSettings, sink: KafkaSink, make_batch: BatchMaker
) -> None:
    devices = [str(uuid.UUID(int=number % 20)) for number in range(30)]
    await sink.publish([make_batch(events=2, device=device) for device in devices])
    await unpack_until(settings, reached_the_end(await ends(settings)))
    await sink.close()
    admin = AIOKafkaAdminClient(**settings.client_options())
    await admin.start()
    await admin.delete_topics([settings.topic(BATCHES)])
    await admin.close()
    await asyncio.sleep(1)
    again = await KafkaSink.open(settings, kafka.topics(PARTITIONS), KafkaSinkSettings(), wait_seconds=30)
    await again.publish([make_batch(events=2, device=device) for device in devices[:20]])
    await again.close()
    progress = await unpack_until(settings, reached_the_end(await ends(settings)))
    assert batches(progress) == 20
    found = await events_of(settings, 100)
    assert len(identities(found)) == len(set(identities(found))) == 100


async def test_a_lost_position_is_found_by_events_that_lie_far_back_on_several_partitions(
    kafka: Kafka, settings: KafkaSettings, make_batch: BatchMaker
) -> None:
    sink = await KafkaSink.open(settings, kafka.topics(PARTITIONS), KafkaSinkSettings(), wait_seconds=30)
    await ensure_topics(settings, kafka.topics(3), [EVENTS])
    devices = [str(uuid.UUID(int=number)) for number in range(40)]
    early = [device for device in devices if partition_of(device.encode(), PARTITIONS) == 0]
    late = [device for device in devices if partition_of(device.encode(), PARTITIONS) == 1]
    for those, events in ((early, 5), (late, 250)):
        await sink.publish([make_batch(events=events, device=device) for device in those])
    wanted = await ends(settings)
    await unpack_until(settings, reached_the_end(wanted))
    await sink.close()
    async with member(settings) as source:
        log = source.identity_of(BATCHES)
    for search_records, found in ((200_000, wanted[0]), (50, 0)):
        assert found == await unpacked_up_to(settings, log, 0, search_records=search_records, open_seconds=10)


def reached_the_end(wanted: dict[int, int]) -> Callable[[dict[int, UnpackProgress]], bool]:
    missing = {partition: end for partition, end in wanted.items() if end}

    def check(progress: dict[int, UnpackProgress]) -> bool:
        return all(
            partition in progress and progress[partition].next_offset == end for partition, end in missing.items()
        )

    return check


async def ends(settings: KafkaSettings) -> dict[int, int]:
    source = await KafkaSource.open(settings, "looking", settings=KafkaSourceSettings(session_seconds=6))
    try:
        return {partition: await source.end(BATCHES, partition) for partition in range(PARTITIONS)}
    finally:
        await source.close()


async def cut_down(task: "asyncio.Task[None]") -> None:
    """End it as a crash does: nothing is finished, and brokers see the connections go."""
    task.cancel()
    waited: Awaitable[Any] = asyncio.wait({task}, timeout=10)
    await waited
