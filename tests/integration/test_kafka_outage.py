"""Nothing that was acknowledged is lost, whatever happens to brokers and gateways."""

import asyncio
import gc
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from consumers.kafka_fetch import Fetcher
from consumers.source import EmbeddedSource
from deploy.local_kafka import LocalKafka
from gateway.publish import Sink, Unavailable
from gateway.publish.kafka import KafkaSink, KafkaSinkSettings
from gateway.publish.spool import Spool, SpoolSettings
from schemas.kafka import KafkaSettings
from schemas.records import Record
from schemas.topics import BATCHES, DEAD_LETTERS, TOPICS
from tests.kafka_fixtures import Kafka

PATIENT = KafkaSinkSettings(publish_timeout_seconds=2, renew_seconds=10)
DEVICES = 20

Fault = Callable[[LocalKafka], None]


def kill_one(cluster: LocalKafka) -> None:
    cluster.brokers[0].kill()


def pause_one(cluster: LocalKafka) -> None:
    cluster.brokers[1].pause()


def pause_all(cluster: LocalKafka) -> None:
    for broker in cluster.brokers:
        broker.pause()


def kill_all(cluster: LocalKafka) -> None:
    for broker in cluster.brokers:
        broker.kill()


def heal(cluster: LocalKafka) -> None:
    for broker in cluster.brokers:
        broker.resume()
    cluster.start()


def batch(device: int, number: int) -> Record:
    return Record(BATCHES, b"device-%d" % device, b"%d" % number, (("app", b"shop"),))


class Fleet:
    """Devices that each send one batch after another, a dead letter now and then, and note what was acknowledged."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.acknowledged: dict[int, list[int]] = {device: [] for device in range(DEVICES)}
        self.letters = 0
        self.refused = 0
        self._stop = asyncio.Event()
        self._tasks = [asyncio.create_task(self._live(device)) for device in range(DEVICES)]

    @property
    def count(self) -> int:
        return sum(map(len, self.acknowledged.values()))

    async def stop(self) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _live(self, device: int) -> None:
        number = 0
        while not self._stop.is_set():
            records = [batch(device, number)]
            if number % 10 == 0:
                records.append(Record(DEAD_LETTERS, b"device-%d" % device, b"%d" % number))
            try:
                await self._sink.publish(records)
            except Unavailable:
                self.refused += 1
                await asyncio.sleep(0.1)  # and sends the same batch again
            else:
                self.acknowledged[device].append(number)
                self.letters += len(records) - 1
                number += 1
                await asyncio.sleep(0.01)


async def on_kafka(settings: KafkaSettings, topic: str, partitions: int) -> dict[bytes, list[int]]:
    """Return what stands there: the numbers of each device, in order."""
    fetcher = Fetcher(settings, TOPICS)
    found: dict[bytes, list[int]] = {}
    try:
        async with asyncio.timeout(60):
            await fetcher.open()
            for partition in range(partitions):
                at, end = 0, 1
                while at < end:
                    fetched = await fetcher.fetch(topic, partition, at, 1 << 20)
                    at, end = fetched.next_offset, fetched.end
                    for record in fetched.records:
                        found.setdefault(record.key, []).append(int(record.value))
    finally:
        await fetcher.close()
    return found


async def check_nothing_lost(fleet: Fleet, settings: KafkaSettings, partitions: int) -> None:
    stored = await on_kafka(settings, BATCHES, partitions)
    letters = await on_kafka(settings, DEAD_LETTERS, partitions)
    for device, acknowledged in fleet.acknowledged.items():
        first_copies = list(dict.fromkeys(stored[b"device-%d" % device]))
        assert first_copies[: len(acknowledged)] == acknowledged
        assert set(letters[b"device-%d" % device]) >= {number for number in acknowledged if number % 10 == 0}


async def until(condition: Callable[[], object], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - looked at from outside, as devices do
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("fault", [kill_one, pause_one, pause_all, kill_all])
async def test_nothing_is_lost_and_with_a_spool_devices_hear_nothing_of_it(
    kafka_three: Kafka, tmp_path: Path, fault: Fault
) -> None:
    cluster = kafka_three.cluster
    assert cluster is not None
    settings, bare = kafka_three.settings(), kafka_three.settings()
    kafka = await KafkaSink.open(settings, kafka_three.topics(3), PATIENT, wait_seconds=60)
    assert kafka.differences == ()
    spool = await Spool.open(tmp_path / "spool", kafka, SpoolSettings(), EmbeddedSource.open)
    without = await KafkaSink.open(bare, kafka_three.topics(3), PATIENT, wait_seconds=60)
    spooled, direct = Fleet(spool), Fleet(without)
    try:
        await until(lambda: min(spooled.count, direct.count) > DEVICES)
        await asyncio.to_thread(fault, cluster)
        if fault in (pause_all, kill_all):
            await until(lambda: spool.gauges()["spool_stored_records"] > 5 * DEVICES and direct.refused > DEVICES)
            assert spool.gauges()["spool_direct"] == 0
        else:  # others lead what it led once it is given up, after 3 seconds
            before = direct.count, spooled.count
            await asyncio.sleep(4)
            await until(lambda: direct.count > before[0] + DEVICES and spooled.count > before[1] + DEVICES)
    finally:
        await asyncio.to_thread(heal, cluster)
    before = direct.count, spooled.count
    await until(lambda: direct.count > before[0] + DEVICES and spooled.count > before[1] + DEVICES)
    await asyncio.gather(direct.stop(), spooled.stop())
    await until(lambda: spool.gauges()["spool_direct"])
    await asyncio.gather(spool.close(), without.close())
    assert spooled.refused == 0
    await check_nothing_lost(spooled, settings, 3)
    await check_nothing_lost(direct, bare, 3)


async def test_only_the_first_publish_waits_for_a_kafka_that_hangs(kafka_three: Kafka) -> None:
    cluster = kafka_three.cluster
    assert cluster is not None
    loop = asyncio.get_running_loop()
    sink = await KafkaSink.open(kafka_three.settings(), kafka_three.topics(1), PATIENT, wait_seconds=30)
    try:
        pause_all(cluster)
        began = loop.time()
        with pytest.raises(Unavailable, match="not confirmed within 2 s"):
            await sink.publish([batch(1, 1)])
        waited = loop.time()
        with pytest.raises(Unavailable):
            await sink.publish([batch(1, 2)])
        assert waited - began == pytest.approx(2, abs=0.5)
        assert loop.time() - waited < 0.1
        assert sink.trouble()
        assert sink.gauges()["kafka_pending_bytes"] > 0
    finally:
        await asyncio.to_thread(heal, cluster)
    assert await sink.wait_healthy(30)
    await sink.publish([batch(1, 3)])
    assert sink.gauges()["kafka_pending_bytes"] == 0
    await sink.close()


async def test_what_waits_for_a_kafka_that_hangs_is_bounded_and_stored_once_it_goes_on(kafka_three: Kafka) -> None:
    cluster = kafka_three.cluster
    assert cluster is not None
    settings, bound = kafka_three.settings(), 256 * 1024
    limits = KafkaSinkSettings(publish_timeout_seconds=2, renew_seconds=60, max_pending_bytes=bound)
    sink = await KafkaSink.open(settings, kafka_three.topics(3), limits, wait_seconds=30)
    records = [replace(batch(number, 1), headers=(("padding", b"x" * 10_000),)) for number in range(1000)]
    try:
        pause_all(cluster)
        calls = [asyncio.create_task(sink.publish([record])) for record in records]
        await asyncio.sleep(0.5)
        pending = sink.gauges()["kafka_pending_bytes"]
        assert bound - 20_000 < pending <= bound
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {Unavailable}
        assert sink.gauges()["kafka_pending_bytes"] == pending, "Kafka may still have them"
    finally:
        await asyncio.to_thread(heal, cluster)
    assert await sink.wait_healthy(60)
    assert sink.gauges()["kafka_pending_bytes"] == 0
    await sink.close()
    found = await on_kafka(settings, BATCHES, 3)
    assert len(found) == pending // 10_000
    assert {len(numbers) for numbers in found.values()} == {1}


async def test_closing_is_bounded_while_kafka_hangs(kafka_three: Kafka) -> None:
    cluster = kafka_three.cluster
    assert cluster is not None
    sink = await KafkaSink.open(
        kafka_three.settings(), kafka_three.topics(1), KafkaSinkSettings(close_seconds=1), wait_seconds=30
    )
    try:
        pause_all(cluster)
        call = asyncio.create_task(sink.publish([batch(1, 1)]))
        await asyncio.sleep(0.2)
        async with asyncio.timeout(5):
            await sink.close()
            with pytest.raises(Unavailable):
                await call
    finally:
        await asyncio.to_thread(heal, cluster)


async def test_every_failure_of_a_publish_is_looked_at(kafka: Kafka, caplog: pytest.LogCaptureFixture) -> None:
    settings = KafkaSinkSettings(close_seconds=0, linger_ms=1000)
    sink = await KafkaSink.open(kafka.settings(), kafka.topics(), settings, wait_seconds=30)
    call = asyncio.create_task(sink.publish([batch(1, 1), batch(2, 1)]))
    await asyncio.sleep(0)
    await sink.close()
    with pytest.raises(Unavailable):
        await call
    del call
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_a_sink_opened_before_kafka_is_there_says_so_and_connects_later(kafka: Kafka) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    settings = KafkaSettings(bootstrap=nobody, topic_prefix="never.")
    sink = await KafkaSink.open(settings, kafka.topics(), KafkaSinkSettings(), wait_seconds=0.5)
    assert nobody in (sink.trouble() or "")
    with pytest.raises(Unavailable):
        await sink.publish([batch(1, 1)])
    await sink.close()


_GATEWAY = """
import asyncio, sys
from pathlib import Path
from consumers.source import EmbeddedSource
from gateway.publish.kafka import KafkaSink, KafkaSinkSettings
from gateway.publish.spool import Spool, SpoolSettings
from schemas.kafka import KafkaSettings, TopicSettings
from schemas.records import Record

async def main():
    kafka = await KafkaSink.open(KafkaSettings(bootstrap=sys.argv[1]), TopicSettings(), KafkaSinkSettings())
    spool = await Spool.open(Path(sys.argv[2]), kafka, SpoolSettings(), EmbeddedSource.open)
    for number in range(1_000_000):
        await spool.publish([Record("batches", b"device-1", b"%d" % number, (("app", b"shop"),))])
        print(number, flush=True)

asyncio.run(main())
"""


def run_and_kill(command: list[str]) -> list[int]:
    """Run a gateway until it has acknowledged a good many, kill it, and return all that it acknowledged."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as gateway:
        assert gateway.stdout is not None
        acknowledged = [int(gateway.stdout.readline()) for _ in range(200)]
        gateway.kill()
        return acknowledged + [int(line) for line in gateway.stdout if line.endswith("\n")]


async def test_a_gateway_killed_with_a_full_spool_drains_it_at_its_next_start(kafka: Kafka, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-c", _GATEWAY, nobody, str(tmp_path / "spool")]
    acknowledged = await asyncio.to_thread(run_and_kill, command)
    settings = kafka.settings()
    sink = await KafkaSink.open(settings, kafka.topics(1), KafkaSinkSettings(), wait_seconds=30)
    spool = await Spool.open(tmp_path / "spool", sink, SpoolSettings(), EmbeddedSource.open)
    await spool.publish([batch(1, -1)])
    await until(lambda: spool.gauges()["spool_direct"])
    await spool.close()
    stored = (await on_kafka(settings, BATCHES, 1))[b"device-1"]
    assert stored[: len(acknowledged)] == acknowledged
    assert stored[-1] == -1
