"""The spool behind a sink that is away: where each batch goes, in which order, and how it ends."""

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from consumers.source import EmbeddedSource
from gateway.publish import Unavailable
from gateway.publish.kafka import TooLarge
from gateway.publish.spool import MainSink, Spool, SpoolSettings
from schemas.records import BatchHeaders, DeadLetter, Record, StoredRecord, batch_record
from schemas.topics import BATCHES, DEAD_LETTERS
from tests.campaign.disks import Disk

MIB = 1024 * 1024
LARGE = 100_000


class Broker(MainSink):
    """A log in memory that can be sent away, be slow, and store without confirming."""

    def __init__(self) -> None:
        self.up = asyncio.Event()
        self.up.set()
        self.records: list[Record] = []
        self.calls: list[int] = []
        self.losing_confirmations = False
        self.publish_seconds = 0.0
        self.to_mend: str | None = None
        self.largest = {BATCHES: LARGE, DEAD_LETTERS: LARGE}

    async def publish(self, records: Sequence[Record]) -> None:
        if not self.up.is_set():
            raise Unavailable("away", 1.0)
        self.check(records)
        await asyncio.sleep(self.publish_seconds)
        self.records += records
        self.calls.append(len(records))
        if self.losing_confirmations:
            self.up.clear()
            raise Unavailable("no answer", 1.0)

    def check(self, records: Sequence[Record]) -> None:
        if any(len(record.value) > self.largest[record.topic] for record in records):
            raise TooLarge("too large", 1.0)

    async def wait_healthy(self, seconds: float) -> bool:
        await asyncio.wait({asyncio.create_task(self.up.wait())}, timeout=seconds)
        return self.up.is_set()

    def trouble(self) -> str | None:
        return None if self.up.is_set() else "away"

    def unfit(self) -> str | None:
        return self.to_mend

    def gauges(self) -> Mapping[str, float]:
        return {"kafka_up": float(self.up.is_set())}

    async def close(self) -> None:
        self.up.clear()

    def values(self) -> list[int]:
        return [int(record.value) for record in self.records if record.topic == BATCHES]


Opener = Callable[..., Awaitable[Spool]]


@pytest.fixture
async def open_spool(tmp_path: Path) -> AsyncIterator[Opener]:
    opened: list[Spool] = []

    async def open_one(broker: MainSink, **settings: Any) -> Spool:
        wanted = SpoolSettings(**{"max_bytes": 64 << 20, **settings})
        opened.append(await Spool.open(tmp_path / "spool", broker, wanted, EmbeddedSource.open))
        return opened[-1]

    yield open_one
    for spool in opened:
        await spool.close()


def batch(number: int) -> Record:
    return Record(BATCHES, b"device", b"%d" % number, (("app", b"shop"),))


async def fill_with(spool: Spool, record: Record) -> None:
    while True:
        await asyncio.gather(*(spool.publish([record]) for _ in range(50)))


async def fill(spool: Spool) -> None:
    for number in range(1000):
        await spool.publish([Record(BATCHES, b"device", b"%d" % number, (("app", b"x" * 3000),))])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - looked at from outside, as an operator does
            await asyncio.sleep(0.01)


def is_direct(spool: Spool) -> bool:
    return bool(spool.gauges()["spool_direct"])


async def test_with_kafka_there_the_spool_is_not_touched(open_spool: Opener) -> None:
    broker = Broker()
    spool = await open_spool(broker)
    await spool.publish([batch(1)])
    assert broker.values() == [1]
    assert spool.pressure() == 0
    assert spool.gauges()["spool_stored_records"] == 0


async def test_with_kafka_away_batches_are_acknowledged_and_come_later_as_they_were(open_spool: Opener) -> None:
    broker = Broker()
    spool = await open_spool(broker)
    broker.up.clear()
    letter = Record(DEAD_LETTERS, b"device", b"{}")
    await spool.publish([batch(1), letter])
    assert spool.trouble() is None
    assert spool.pressure() > 0
    broker.up.set()
    await until(lambda: is_direct(spool))
    assert sorted(broker.records, key=lambda record: record.topic) == [batch(1), letter]
    assert spool.pressure() == 0


async def test_new_batches_go_behind_those_that_wait(open_spool: Opener) -> None:
    broker = Broker()
    spool = await open_spool(broker, drain_records_per_second=100)
    broker.up.clear()
    for number in range(40):
        await spool.publish([batch(number)])
    broker.up.set()
    for number in range(40, 60):
        await spool.publish([batch(number)])
    await until(lambda: is_direct(spool))
    await spool.publish([batch(60)])
    assert broker.values() == list(range(61))


async def test_a_publish_without_an_answer_is_spooled_and_may_stand_there_twice(open_spool: Opener) -> None:
    broker = Broker()
    spool = await open_spool(broker)
    broker.losing_confirmations = True
    await spool.publish([batch(1)])
    broker.losing_confirmations = False
    broker.up.set()
    await until(lambda: is_direct(spool))
    assert broker.values() == [1, 1]


async def test_the_drain_ends_while_batches_arrive_faster_than_its_rate(open_spool: Opener) -> None:
    broker = Broker()
    spool = await open_spool(broker, drain_records_per_second=200)
    broker.up.clear()
    for number in range(100):
        await spool.publish([batch(number)])
    sent = 100

    async def device() -> None:
        nonlocal sent
        while not is_direct(spool):
            number, sent = sent, sent + 1
            await spool.publish([batch(number)])

    broker.up.set()
    async with asyncio.timeout(20):
        await asyncio.gather(*(device() for _ in range(8)))
    assert sent > 300
    assert sorted(broker.values()) == list(range(sent))


async def test_the_drain_keeps_to_its_rate(open_spool: Opener) -> None:
    broker = Broker()
    spool = await open_spool(broker, drain_records_per_second=100)
    broker.up.clear()
    for number in range(50):
        await spool.publish([batch(number)])
    broker.up.set()
    loop = asyncio.get_running_loop()
    began = loop.time()
    await until(lambda: is_direct(spool))
    assert loop.time() - began > 0.2
    assert len([size for size in broker.calls if size > 10]) <= 1


async def test_a_full_spool_is_unavailable_until_it_has_drained(open_spool: Opener) -> None:
    broker = Broker()
    spool = await open_spool(broker, max_bytes=1 << 20)
    broker.up.clear()
    with pytest.raises(Unavailable, match="full"):
        await fill(spool)
    assert spool.trouble()
    assert spool.pressure() > 0.9
    broker.up.set()
    await until(lambda: is_direct(spool))
    await spool.publish([batch(-1)])
    assert spool.trouble() is None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = Disk.mount(tmp_path / "spool", 96)
    if disk is None:
        pytest.skip("file systems may not be mounted here: no disk that a spool can fill")
    yield tmp_path / "spool"
    disk.unmount(keep=False)


@pytest.mark.parametrize("size", [4000, 500_000])
async def test_a_disk_that_the_spool_fills_recovers_alone(small_disk: Path, open_spool: Opener, size: int) -> None:
    broker = Broker()
    broker.largest[BATCHES] = MIB
    settings = {"max_bytes": 1 << 40, "reserve_bytes": 64 * MIB, "drain_records_per_second": 10_000_000}
    spool = await open_spool(broker, **settings)
    broker.up.clear()
    record = Record(BATCHES, b"device", b"x" * size)
    with pytest.raises(Unavailable, match="all that its disk has but the reserve"):
        await fill_with(spool, record)
    stored = int(spool.gauges()["spool_stored_records"])
    assert stored > 50
    assert spool.trouble()
    assert spool.pressure() > 0.9
    await spool.close()
    again = await open_spool(broker, **settings)  # a gateway that was killed then
    broker.up.set()
    await until(lambda: is_direct(again) and again.gauges().get("spool_trimmed", 0) >= stored)
    assert again.trouble() is None
    broker.up.clear()
    for _ in range(0, stored - 100, 50):
        await asyncio.gather(*(again.publish([record]) for _ in range(50)))
    gauges = again.gauges()
    assert (gauges["spool_errors"], gauges["spool_drained_records"] >= stored) == (0, True)
    assert shutil.disk_usage(small_disk).free > 0


async def test_a_disk_smaller_than_its_reserve_is_told_of_at_the_start(
    open_spool: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    spool = await open_spool(Broker())
    assert "disk_reserve_bytes" not in caplog.text
    await spool.close()
    await open_spool(Broker(), reserve_bytes=2**50)
    assert "set disk_reserve_bytes lower" in caplog.text


async def test_a_spool_left_full_is_drained_at_the_next_start_and_first(open_spool: Opener) -> None:
    broker = Broker()
    spool = await open_spool(broker)
    broker.up.clear()
    for number in range(30):
        await spool.publish([batch(number)])
    await spool.close()
    again = Broker()
    later = await open_spool(again)
    await later.publish([batch(30)])
    await until(lambda: is_direct(later))
    assert again.values() == list(range(31))


async def test_what_is_drained_is_not_sent_again_at_the_next_start(open_spool: Opener) -> None:
    broker = Broker()
    spool = await open_spool(broker)
    broker.up.clear()
    await spool.publish([batch(1)])
    broker.up.set()
    await until(lambda: is_direct(spool))
    await spool.close()
    again = Broker()
    later = await open_spool(again)
    assert is_direct(later)
    assert again.records == []


async def test_kafka_away_again_in_the_middle_of_the_drain_loses_nothing(open_spool: Opener) -> None:
    broker = Broker()
    broker.publish_seconds = 0.01
    spool = await open_spool(broker, drain_records_per_second=200)
    broker.up.clear()
    for number in range(100):
        await spool.publish([batch(number)])
    for pause in (0.1, 0.2, 0.3):
        broker.up.set()
        await asyncio.sleep(pause)
        broker.up.clear()
        await spool.publish([batch(100 + int(pause * 10))])
    broker.up.set()
    await until(lambda: is_direct(spool))
    assert broker.values() == [*range(100), 101, 102, 103]


async def test_a_record_that_can_never_be_published_is_not_spooled(open_spool: Opener) -> None:
    broker = Broker()
    spool = await open_spool(broker)
    broker.up.clear()
    with pytest.raises(TooLarge):
        await spool.publish([Record(BATCHES, b"device", b"x" * (LARGE + 1))])
    assert is_direct(spool)


async def test_topics_that_a_person_must_mend_are_trouble_while_batches_are_still_kept(open_spool: Opener) -> None:
    broker = Broker()
    spool = await open_spool(broker)
    broker.up.clear()
    broker.to_mend = "retention.bytes"
    assert spool.trouble() == "retention.bytes"
    await spool.publish([batch(1)])
    broker.to_mend = None
    broker.up.set()
    await until(lambda: is_direct(spool))
    assert broker.values() == [1]
    assert spool.trouble() is None


@pytest.mark.parametrize("letter_fits", [True, False])
async def test_a_record_too_large_by_now_is_put_aside_whole_and_the_rest_goes_on(
    open_spool: Opener, tmp_path: Path, letter_fits: bool
) -> None:
    broker = Broker()
    spool = await open_spool(broker, stuck_seconds=0.2)
    broker.up.clear()
    about = BatchHeaders(app="shop", content_encoding="gzip", received_at=5, gateway="gw", batch="b", events=1)
    large = batch_record("device", b"x" * 5000, about)
    for record in (batch(1), large, batch(2)):
        await spool.publish([record])
    broker.largest = {BATCHES: 1000, DEAD_LETTERS: LARGE if letter_fits else 1000}
    broker.up.set()
    await until(lambda: is_direct(spool))
    assert broker.values() == [1, 2]
    (told,) = [record for record in broker.records if record.topic == DEAD_LETTERS]
    letter = msgspec.json.decode(told.value, type=DeadLetter)
    place = (letter.app, letter.device, letter.batch, letter.index, letter.reason)
    assert place == ("shop", "device", "b", None, "too_large_for_log")
    body = base64.b64decode(letter.body)
    assert body == (b"x" * 5000 if letter_fits else b"batches-1.json in the spool's directory")
    kept = msgspec.json.decode((tmp_path / "spool" / "aside" / "batches-1.json").read_bytes(), type=StoredRecord)
    assert (kept.key, kept.value, kept.headers) == (large.key, large.value, large.headers)
    assert spool.gauges()["spool_aside_records"] == 1
    assert spool.gauges()["spool_stuck"] == 0


async def test_a_record_too_large_goes_on_as_it_is_when_its_topic_takes_it_in_time(open_spool: Opener) -> None:
    broker = Broker()
    spool = await open_spool(broker)
    broker.up.clear()
    await spool.publish([batch(123456)])
    broker.largest[BATCHES] = 3
    broker.up.set()
    await until(lambda: spool.gauges()["spool_stuck"] == 1)
    broker.largest[BATCHES] = LARGE
    await until(lambda: is_direct(spool))
    assert broker.values() == [123456]
    assert spool.gauges()["spool_aside_records"] == 0


async def test_a_publisher_that_gives_up_leaves_nothing_behind_in_the_spool(open_spool: Opener) -> None:
    broker = Broker()
    spool = await open_spool(broker)
    broker.up.clear()
    calls = [asyncio.create_task(spool.publish([batch(number)])) for number in range(20)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    broker.up.set()
    await asyncio.gather(*calls, return_exceptions=True)
    await until(lambda: is_direct(spool))
    assert spool.gauges()["spool_left_records"] == 0
    assert len(broker.values()) == len(set(broker.values()))


async def test_a_second_gateway_on_the_same_directory_is_refused(open_spool: Opener) -> None:
    await open_spool(Broker())
    with pytest.raises(Unavailable, match="another gateway"):
        await open_spool(Broker())


async def test_close_finishes_what_was_accepted_and_refuses_the_rest(open_spool: Opener) -> None:
    broker = Broker()
    broker.publish_seconds = 0.05
    spool = await open_spool(broker)
    calls = [asyncio.create_task(spool.publish([batch(number)])) for number in range(10)]
    await asyncio.sleep(0)
    await spool.close()
    assert all(call.done() and call.exception() is None for call in calls)
    with pytest.raises(Unavailable):
        await spool.publish([batch(99)])
    assert spool.trouble()
