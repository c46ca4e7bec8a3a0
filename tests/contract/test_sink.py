"""What every Sink promises, whichever log is behind it."""

import asyncio
from typing import Any

import pytest

from gateway.publish import Unavailable
from schemas.records import Record, StoredRecord
from schemas.topics import BATCHES, DEAD_LETTERS

Log = Any  # tests/contract/conftest.py; test modules import nothing of each other


def batch(value: bytes, key: bytes = b"device-1") -> Record:
    return Record(BATCHES, key, value, (("app", b"demo"), ("offer", b"\x00\xff")))


async def stored(log: Log, topic: str = BATCHES) -> list[StoredRecord]:
    source = await log.source("reader")
    found: list[StoredRecord] = []
    for partition in source.partitions(topic):
        first = 0
        while first < await source.end(topic, partition):
            found += await source.read(topic, partition, first, max_records=1000, max_bytes=1 << 20)
            first = found[-1].offset + 1
    return found


async def test_a_record_is_readable_as_it_was_when_publish_returns(log: Log) -> None:
    sink = await log.sink()
    await sink.publish([batch(b"\x1f\x8b body")])
    (record,) = await stored(log)
    assert (record.key, record.value) == (b"device-1", b"\x1f\x8b body")
    assert record.headers == (("app", b"demo"), ("offer", b"\x00\xff"))


async def test_an_empty_key_value_and_headers_are_kept_empty(log: Log) -> None:
    sink = await log.sink()
    await sink.publish([Record(BATCHES, b"", b"")])
    (record,) = await stored(log)
    assert (record.key, record.value, record.headers) == (b"", b"", ())


async def test_publishing_nothing_stores_nothing(log: Log) -> None:
    sink = await log.sink()
    await sink.publish([])
    assert await stored(log) == []


async def test_a_batch_and_its_dead_letters_are_stored_by_one_call(log: Log) -> None:
    sink = await log.sink()
    letters = [Record(DEAD_LETTERS, b"device-1", b'{"index":%d}' % index) for index in range(3)]
    await sink.publish([batch(b"body"), *letters])
    assert [record.value for record in await stored(log)] == [b"body"]
    assert [record.value for record in await stored(log, DEAD_LETTERS)] == [letter.value for letter in letters]


async def test_records_of_one_key_keep_their_order_within_a_call_and_between_calls(log: Log) -> None:
    sink = await log.sink()
    await sink.publish([batch(b"1"), batch(b"2")])
    await sink.publish([batch(b"3")])
    assert [record.value for record in await stored(log)] == [b"1", b"2", b"3"]


async def test_many_batches_in_one_call_are_each_stored_once_and_in_their_devices_order(log: Log) -> None:
    sink = await log.sink()
    names = [b"device-%d" % number for number in range(40)]
    await sink.publish([batch(b"%d" % number, key=name) for number in range(3) for name in names])
    by_device: dict[bytes, list[bytes]] = {}
    for record in await stored(log):
        by_device.setdefault(record.key, []).append(record.value)
    assert by_device == {name: [b"0", b"1", b"2"] for name in names}


async def test_concurrent_publishers_are_each_stored_once_and_in_order(log: Log) -> None:
    sink = await log.sink()

    async def publisher(device: int) -> None:
        for number in range(20):
            await sink.publish([batch(b"%d" % number, key=b"device-%d" % device)])

    await asyncio.gather(*(publisher(device) for device in range(25)))
    by_device: dict[bytes, list[int]] = {}
    for record in await stored(log):
        by_device.setdefault(record.key, []).append(int(record.value))
    assert by_device == {b"device-%d" % device: list(range(20)) for device in range(25)}


async def test_a_publisher_that_gives_up_harms_nobody(log: Log) -> None:
    sink = await log.sink()
    calls = [asyncio.create_task(sink.publish([batch(b"%d" % number)])) for number in range(10)]
    await asyncio.sleep(0)  # let each call begin
    for call in calls[::2]:
        call.cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, type(None)] * 5
    await sink.publish([batch(b"later")])
    values = [record.value for record in await stored(log)]
    assert {b"1", b"3", b"5", b"7", b"9", b"later"} <= set(values)
    assert len(values) == len(set(values))


async def test_close_finishes_what_was_accepted(log: Log) -> None:
    sink = await log.sink()
    calls = [asyncio.create_task(sink.publish([batch(b"%d" % number)])) for number in range(50)]
    await asyncio.sleep(0)  # let each call begin
    await sink.close()
    assert all(call.done() for call in calls)
    await asyncio.gather(*calls)
    assert len(await stored(log)) == 50


async def test_a_closed_sink_is_unavailable_and_says_so(log: Log) -> None:
    sink = await log.sink()
    await sink.close()
    await sink.close()
    assert sink.trouble()
    with pytest.raises(Unavailable) as caught:
        await sink.publish([batch(b"late")])
    assert caught.value.reason
    assert caught.value.retry_after_seconds > 0


async def test_a_healthy_sink_has_no_trouble_and_numbers_to_show(log: Log) -> None:
    sink = await log.sink()
    await sink.publish([batch(b"body")])
    assert sink.trouble() is None
    assert all(isinstance(number, int | float) for number in sink.gauges().values())
