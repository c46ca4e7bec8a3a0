"""A record is read again by its place, and what is not there any more is nothing."""

from pathlib import Path

from consumers.one_record import record_in_file, record_on_kafka
from gateway.publish.embedded import EmbeddedLog
from gateway.publish.kafka import KafkaSink, KafkaSinkSettings
from schemas.kafka import KafkaSettings
from schemas.partition import partition_of
from schemas.records import Record
from schemas.topics import BATCHES, DEAD_LETTERS
from tests.kafka_fixtures import Kafka

RECORDS = [Record(BATCHES, b"device", b"%d" % number, (("app", b"shop"),)) for number in range(3)]


async def test_a_record_on_kafka_is_found_by_its_offset(kafka: Kafka) -> None:
    settings = kafka.settings()
    sink = await KafkaSink.open(settings, kafka.topics(2), KafkaSinkSettings(), wait_seconds=30)
    for record in RECORDS:
        await sink.publish([record])
    await sink.close()
    partition = partition_of(b"device", 2)
    found = await record_on_kafka(settings, BATCHES, partition, 1)
    assert found is not None
    assert (found.offset, found.key, found.value, found.headers) == (1, b"device", b"1", (("app", b"shop"),))
    assert await record_on_kafka(settings, BATCHES, partition, 3) is None
    assert await record_on_kafka(settings, BATCHES, partition, 4) is None
    assert await record_on_kafka(settings, DEAD_LETTERS, partition, 0) is None


async def test_a_record_in_a_file_is_found_by_its_offset(tmp_path: Path) -> None:
    log = await EmbeddedLog.open(tmp_path, max_bytes=1 << 24, max_pending_bytes=1 << 20)
    await log.publish(RECORDS)
    await log.close()
    found = record_in_file(tmp_path, BATCHES, 1)
    assert found is not None
    assert (found.offset, found.value) == (1, b"1")
    assert record_in_file(tmp_path, BATCHES, 3) is None
    assert record_in_file(tmp_path / "elsewhere", BATCHES, 0) is None


async def test_brokers_that_do_not_answer_have_nothing() -> None:
    assert await record_on_kafka(KafkaSettings(bootstrap="127.0.0.1:1"), BATCHES, 0, 0, patience_seconds=0.5) is None
