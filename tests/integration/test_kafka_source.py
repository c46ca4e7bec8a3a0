"""Partitions go from member to member, topics are made again, brokers die: what a consumer is told stays true."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from consumers.kafka import KafkaSource, KafkaSourceSettings
from consumers.source import SourceError
from gateway.publish import Unavailable
from gateway.publish.kafka import KafkaSink, KafkaSinkSettings, TooLarge
from gateway.publish.kafka_topics import ensure_topics, examine_topics, topic_configs
from schemas.kafka import KafkaSettings, TopicSettings
from schemas.records import Record
from schemas.topics import BATCHES, DEAD_LETTERS, TOPICS
from tests.kafka_fixtures import Kafka

LOG_APPEND_TIME = 1
QUICK = KafkaSourceSettings(session_seconds=6, timeout_seconds=20)
Opener = Callable[..., Awaitable[KafkaSource]]


@pytest.fixture
async def open_source() -> AsyncIterator[Opener]:
    opened: list[KafkaSource] = []

    async def open_one(settings: KafkaSettings, consumer: str = "reader") -> KafkaSource:
        opened.append(await KafkaSource.open(settings, consumer, settings=QUICK))
        return opened[-1]

    yield open_one
    for source in opened:
        await source.close()


async def fill(settings: KafkaSettings, topics: TopicSettings, *values: bytes, key: bytes = b"device") -> None:
    sink = await KafkaSink.open(settings, topics, KafkaSinkSettings(), wait_seconds=30)
    await sink.publish([Record(BATCHES, key, value) for value in values])
    await sink.close()


async def delete(settings: KafkaSettings, topic: str) -> None:
    admin = AIOKafkaAdminClient(**settings.client_options())
    await admin.start()
    await admin.delete_topics([settings.topic(topic)])
    await admin.close()
    await asyncio.sleep(1)


async def alter(settings: KafkaSettings, topic: str, configs: dict[str, str]) -> None:
    admin = AIOKafkaAdminClient(**settings.client_options())
    await admin.start()
    # Sets these, and puts all others back to the broker's defaults: what those tests are about must be said whole.
    whole = {**topic_configs(topic, TopicSettings(replication=1)), **configs}
    await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, settings.topic(topic), whole)])
    await admin.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(40):
        while not condition():  # noqa: ASYNC110 - looked at from outside, as a consumer does
            await asyncio.sleep(0.1)


async def test_members_share_the_partitions_and_take_over_from_one_that_leaves(
    kafka: Kafka, open_source: Opener
) -> None:
    settings = kafka.settings()
    await fill(settings, kafka.topics(4), b"a")
    one = await open_source(settings)
    assert list(one.partitions(BATCHES)) == [0, 1, 2, 3]
    await one.commit(BATCHES, 2, 0)
    other = await open_source(settings)
    await until(lambda: len(one.partitions(BATCHES)) == len(other.partitions(BATCHES)) == 2)
    assert sorted([*one.partitions(BATCHES), *other.partitions(BATCHES)]) == [0, 1, 2, 3]
    await one.close()
    await until(lambda: list(other.partitions(BATCHES)) == [0, 1, 2, 3])


async def test_a_position_of_a_partition_that_went_to_another_member_is_refused(
    kafka: Kafka, open_source: Opener
) -> None:
    settings = kafka.settings()
    await fill(settings, kafka.topics(2), b"a")
    one = await open_source(settings)
    await open_source(settings)
    await until(lambda: len(one.partitions(BATCHES)) == 1)
    (gone,) = {0, 1} - set(one.partitions(BATCHES))
    with pytest.raises(SourceError):
        await one.commit(BATCHES, gone, 0)


async def test_a_topic_made_again_is_another_log_and_the_old_one_stays_an_error(
    kafka: Kafka, open_source: Opener
) -> None:
    settings = kafka.settings()
    await fill(settings, kafka.topics(1), b"a", b"b", b"c")
    source = await open_source(settings)
    assert len(await source.read(BATCHES, 0, 0, max_records=2, max_bytes=1 << 20)) == 2
    await source.commit(BATCHES, 0, 2)
    await delete(settings, BATCHES)
    await fill(settings, kafka.topics(1), b"d", b"e", b"f", b"g")
    with pytest.raises(SourceError, match="made again"):
        await source.read(BATCHES, 0, 3, max_records=10, max_bytes=1 << 20)
    with pytest.raises(SourceError, match="made again"):
        await source.end(DEAD_LETTERS, 0)
    await source.close()
    again = await open_source(settings)
    assert again.identity_of(BATCHES) != source.identity_of(BATCHES)
    assert await again.position(BATCHES, 0) == 0
    found = await again.read(BATCHES, 0, 0, max_records=10, max_bytes=1 << 20)
    assert [record.value for record in found] == [b"d", b"e", b"f", b"g"]


async def test_a_topic_made_again_leaves_the_others_what_they_are(kafka: Kafka, open_source: Opener) -> None:
    settings = kafka.settings()
    await fill(settings, kafka.topics(1), b"a", b"b", b"c")
    source = await open_source(settings)
    await source.commit(BATCHES, 0, 2)
    await source.close()
    await delete(settings, DEAD_LETTERS)
    await ensure_topics(settings, kafka.topics(1), TOPICS)
    again = await open_source(settings)
    assert again.identity_of(DEAD_LETTERS) != source.identity_of(DEAD_LETTERS)
    assert again.identity_of(BATCHES) == source.identity_of(BATCHES)
    assert again.identity_of(BATCHES) != again.identity_of(DEAD_LETTERS)
    assert await again.position(BATCHES, 0) == 2


async def test_a_read_past_the_end_is_an_error_and_not_nothing(kafka: Kafka, open_source: Opener) -> None:
    settings = kafka.settings()
    await fill(settings, kafka.topics(1), b"a")
    source = await open_source(settings)
    with pytest.raises(SourceError, match="past the end"):
        await source.read(BATCHES, 0, 5, max_records=10, max_bytes=1 << 20)


async def test_many_records_come_in_order_and_bounded(kafka: Kafka, open_source: Opener) -> None:
    settings = kafka.settings()
    await fill(settings, kafka.topics(1), *(b"%d" % number * 500 for number in range(3000)))
    source = await open_source(settings)
    found: list[bytes] = []
    while len(found) < 3000:
        records = await source.read(BATCHES, 0, len(found), max_records=700, max_bytes=500_000)
        assert 0 < len(records) <= 700
        assert sum(len(record.key) + len(record.value) for record in records) <= 500_000
        assert [record.offset for record in records] == list(range(len(found), len(found) + len(records)))
        found += [record.value for record in records]
    assert found == [b"%d" % number * 500 for number in range(3000)]
    assert await source.read(BATCHES, 0, 3000, max_records=10, max_bytes=1000) == []


async def test_reading_goes_on_over_the_death_of_a_leader(kafka_three: Kafka, open_source: Opener) -> None:
    cluster = kafka_three.cluster
    assert cluster is not None
    settings = kafka_three.settings()
    await fill(settings, kafka_three.topics(3), *(b"%d" % number for number in range(30)))
    source = await open_source(settings)
    try:
        await asyncio.to_thread(cluster.brokers[2].kill)
        ends = [await source.end(BATCHES, partition) for partition in range(3)]
        assert sum(ends) == 30
        for partition, end in enumerate(ends):
            assert len(await source.read(BATCHES, partition, 0, max_records=100, max_bytes=1 << 20)) == end
    finally:
        await asyncio.to_thread(cluster.start)


async def test_topics_are_made_as_configured_and_differences_are_told(kafka: Kafka) -> None:
    settings = kafka.settings()
    assert (await ensure_topics(settings, kafka.topics(2), TOPICS)).differences == ()
    more = 2 * kafka.topics().replication
    other = TopicSettings(
        partitions=3, replication=more, min_insync=1, batches_retention_hours=1, max_record_bytes=1 << 20
    )
    report = await ensure_topics(settings, other, TOPICS)
    batches = settings.topic(BATCHES)
    assert f"topic {batches} has 2 partitions where 3 are configured" in report.differences
    assert f"topic {batches} has {more // 2} replicas where {more} are configured" in report.differences
    assert f"topic {batches} has retention.ms=604800000 where 3600000 is configured" in report.differences
    assert report.max_record_bytes == 1 << 20
    assert report.faults == ()


async def test_a_clock_that_is_wrong_cannot_have_records_deleted_or_refused(kafka: Kafka) -> None:
    if kafka.kind == "tansu":
        pytest.skip("Tansu keeps the sender's clock")
    settings = kafka.settings()
    await ensure_topics(settings, kafka.topics(1), TOPICS)
    now_ms = time.time_ns() // 1_000_000
    for wrong_ms in (now_ms - 8 * 86_400_000, now_ms + 2 * 3_600_000):
        async with AIOKafkaProducer(**settings.client_options(), enable_idempotence=True, acks="all") as producer:
            stored = await producer.send_and_wait(settings.topic(BATCHES), b"x", b"device", 0, timestamp_ms=wrong_ms)
        assert stored.timestamp_type == LOG_APPEND_TIME
        assert abs(stored.timestamp - now_ms) < 600_000


@pytest.mark.parametrize(
    ("key", "value", "mended"),
    [
        ("message.timestamp.type", "CreateTime", "LogAppendTime"),
        ("retention.bytes", "1000000", "-1"),
        ("unclean.leader.election.enable", "true", "false"),
        ("cleanup.policy", "compact", "delete"),
    ],
)
async def test_a_topic_that_would_lose_records_is_not_written_until_it_is_mended(
    kafka: Kafka, key: str, value: str, mended: str
) -> None:
    if kafka.kind == "tansu":
        pytest.skip("Tansu does not change topics")
    settings = kafka.settings()
    await ensure_topics(settings, kafka.topics(1), TOPICS)
    await alter(settings, BATCHES, {key: value})
    sink = await KafkaSink.open(settings, kafka.topics(1), KafkaSinkSettings())
    told = f"topic {settings.topic(BATCHES)} has {key}={value} where {mended} is configured"
    await until(lambda: told in (sink.unfit() or ""))
    assert told in (sink.trouble() or "")
    with pytest.raises(Unavailable):
        await sink.publish([Record(BATCHES, b"device", b"x")])
    await alter(settings, BATCHES, {key: mended})
    assert await sink.wait_healthy(20)
    await sink.publish([Record(BATCHES, b"device", b"x")])
    assert (sink.trouble(), sink.unfit()) == (None, None)
    await sink.close()


async def test_a_topic_changed_while_it_is_written_is_noticed_and_its_mending_too(kafka: Kafka) -> None:
    if kafka.kind == "tansu":
        pytest.skip("Tansu does not change topics")
    settings, quick = kafka.settings(), KafkaSinkSettings(topics_check_seconds=0.1)
    sink = await KafkaSink.open(settings, kafka.topics(1), quick, wait_seconds=30)
    await sink.publish([Record(BATCHES, b"device", b"x")])
    await alter(settings, BATCHES, {"cleanup.policy": "compact"})
    await until(lambda: "cleanup.policy=compact" in (sink.unfit() or ""))
    with pytest.raises(Unavailable):
        await sink.publish([Record(BATCHES, b"device", b"x")])
    await alter(settings, BATCHES, {"max.message.bytes": "90000"})
    assert await sink.wait_healthy(20)
    sink.check([Record(BATCHES, b"device", b"x" * 80_000)])
    with pytest.raises(TooLarge):
        sink.check([Record(BATCHES, b"device", b"x" * 90_000)])
    await alter(settings, BATCHES, {})
    await until(lambda: not sink.differences)
    sink.check([Record(BATCHES, b"device", b"x" * 90_000)])
    await until(lambda: sink.gauges()["kafka_connections"] == 3)
    await sink.close()


async def test_fewer_copies_than_configured_are_a_fault_and_more_are_not(kafka: Kafka) -> None:
    if kafka.kind == "tansu":
        pytest.skip("Tansu does not change topics")
    settings = kafka.settings()
    await ensure_topics(settings, TopicSettings(partitions=1, replication=1, min_insync=2), TOPICS)
    one = await ensure_topics(settings, TopicSettings(partitions=1, replication=1), TOPICS)
    assert one.faults == ()
    assert len(one.differences) == 2
    three = await ensure_topics(settings, TopicSettings(partitions=1, replication=3, min_insync=3), [BATCHES])
    assert three.faults == (f"topic {settings.topic(BATCHES)} has min.insync.replicas=2 where 3 is configured",)


async def test_a_replication_that_cannot_be_had_is_said(kafka: Kafka) -> None:
    if kafka.kind == "tansu":
        pytest.skip("Tansu takes any replication")
    wanted = TopicSettings(partitions=1, replication=9)
    sink = await KafkaSink.open(kafka.settings(), wanted, KafkaSinkSettings(), wait_seconds=3)
    assert "kafka_replication is 9" in (sink.trouble() or "")
    await sink.close()
    report = await examine_topics(kafka.settings(), wanted, TOPICS)
    assert report.unmakeable == "1 of the 9 brokers of kafka_replication are there"
    assert (await examine_topics(kafka.settings(), TopicSettings(replication=1), TOPICS)).unmakeable == ""


async def test_a_record_that_the_topic_does_not_take_is_refused_alone(kafka: Kafka) -> None:
    settings, topics = kafka.settings(), TopicSettings(partitions=1, replication=1, max_record_bytes=100_000)
    sink = await KafkaSink.open(settings, topics, KafkaSinkSettings(), wait_seconds=30)
    with pytest.raises(TooLarge):
        await sink.publish([Record(BATCHES, b"device", b"x" * 100_000)])
    assert sink.trouble() is None
    await sink.publish([Record(BATCHES, b"device", b"x" * 99_000)])
    await sink.close()


async def test_bytes_under_way_are_bounded(kafka: Kafka) -> None:
    limits = KafkaSinkSettings(max_pending_bytes=64 * 1024, linger_ms=200)
    sink = await KafkaSink.open(kafka.settings(), kafka.topics(1), limits, wait_seconds=30)
    calls = [asyncio.create_task(sink.publish([Record(BATCHES, b"device", b"x" * 10_000)])) for _ in range(10)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, Unavailable)]
    assert len(refused) == 4
    assert outcomes.count(None) == 6
    assert sink.trouble() is None
    await sink.close()
