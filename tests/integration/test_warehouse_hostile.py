"""Documents that two JSON readers see differently, and records that nobody can read: nothing accepted is ever lost.

The gateway's reader accepted each of these documents; ClickHouse's may refuse the whole of it, or see another one.
"""

import asyncio
from typing import Any

import msgspec
import pytest

from consumers.warehouse import WarehouseSettings
from schemas.reading import read_batch
from schemas.records import Record, StoredRecord

HEAD = b'{"device":"DEVICE","batch":"BATCH","seq":7,"sent_at":1795334400123,"sdk":"2.3.0"'
GOOD = b'{"type":"outcome","id":8,"t":1795334400123,"model":"m","outcome":"x"}'


def prediction(**changes: bytes) -> bytes:
    fields = {"type": b'"prediction"', "id": b"8", "t": b"1795334400123", "model": b'"m"', "release": b"3"}
    fields |= {"source": b'"ota"', "score": b"0.5", "decision": b"true"} | changes
    return b"{" + b",".join(b'"' + name.encode() + b'":' + value for name, value in fields.items()) + b"}"


def document(*events: bytes, more: bytes = b"") -> bytes:
    return HEAD + more + b',"events":[' + b",".join(events) + b"]}"


HOSTILE = {
    "a duplicate list of events": document(GOOD, GOOD, more=b',"events":[]'),
    "a number out of range in an unknown field": document(GOOD, more=b',"x":1e999'),
    "a number out of range in an event's unknown field": document(GOOD[:-1] + b',"x":-1e999}'),
    "an integer of 400 digits": document(GOOD, more=b',"x":' + b"9" * 400),
    "bad UTF-8 in an unknown field": document(GOOD, more=b',"x":"\xff\xfe"'),
    "a nest of 500": document(GOOD, more=b',"x":' + b"[" * 500 + b"]" * 500),
    "a nest of 900 in an event": document(GOOD[:-1] + b',"x":' + b'{"x":' * 450 + b"1" + b"}" * 450 + b"}"),
    "a duplicate device": document(GOOD, more=b',"device":"DEVICE"'),
    "another device first": b'{"device":"6f1c0000-0000-4000-8000-00000000ffff",' + document(GOOD)[1:],
    "another batch first": b'{"batch":"6f1c0000-0000-4000-8000-00000000ffff",' + document(GOOD)[1:],
    "a duplicate type": document(prediction(type=b'"prediction","type":"prediction"')),
    "numbers written the long way": document(prediction(score=b"50000.0e-5", propensity=b"1.0E0")),
    "a byte order of escapes": document(GOOD.replace(b'"m"', b'"\\u006d"').replace(b'"outcome"', b'"\\u006futcome"')),
    "fields of another type of event": document(GOOD[:-1] + b',"score":"x","state":5,"signals":{"a":1}}'),
    "spaces everywhere": document(GOOD).replace(b",", b" ,\n\t").replace(b":", b" : "),
    "a name that looks like SQL": document(GOOD.replace(b'"m"', b'"\'; DROP TABLE events; --"')),
    "a NUL and emoji in a name": document(GOOD.replace(b'"m"', b'"m\\u0000\xf0\x9f\x98\x80"')),
    "64 characters of four bytes": document(GOOD.replace(b'"m"', b'"' + b"\xf0\x9f\x98\x80" * 64 + b'"')),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_the_gateways_reader_accepts_is_stored_as_it_reads_it(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any, count: Any, ask: Any, name: str
) -> None:
    body = HOSTILE[name]
    raw = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode(body)  # as the gateway: the last of a duplicate counts
    expected = len(msgspec.json.decode(raw["events"], type=list[msgspec.Raw]))
    record = make_batch(document=body, expected=expected)
    _, batch, events = read_batch(StoredRecord("batches", 0, 0, record.key, record.value, record.headers))
    await log.publish([make_batch(events=5), record, make_batch(events=5)])
    progress = await drain(source, warehouse_client)
    assert await count(warehouse_client) == (3, 10 + len(events), 0)
    assert progress["batches"].unreadable == 0
    assert await ask(warehouse_client, f"SELECT seq, accepted FROM batches WHERE batch = '{batch.batch}'") == [  # noqa: S608
        (7, len(events))
    ]
    columns = "`index`, type, model, id, score, decision, outcome, latency_us"
    question = f"SELECT {columns} FROM events WHERE batch = '{batch.batch}' ORDER BY `index`"  # noqa: S608 - a UUID
    found = await ask(warehouse_client, question)
    assert [row[0] for row in found] == [index for index, _ in events]
    for row, (_, event) in zip(found, events, strict=True):
        told = msgspec.to_builtins(event)
        assert row[1:4] == (told["type"], told["model"], told.get("id", 0))
        score, decision = told.get("score", 0.0), told.get("decision", False)
        assert row[4:] == (score, decision, told.get("outcome") or "", told.get("latency_us", 0))


def record_of(key: bytes, value: bytes, **headers: bytes) -> Record:
    whole = {"app": b"shop", "content-encoding": b"identity", "received_at": b"1795334401000", "gateway": b"gw"}
    whole |= {"batch": b"01980000-0000-7000-8000-000000000002", "events": b"1"}
    whole |= {name.replace("_at", "@").replace("_", "-").replace("@", "_at"): value for name, value in headers.items()}
    return Record("batches", key, value, tuple(whole.items()))


KEY = b"6f1c0000-0000-4000-8000-000000000001"
BODY = document(GOOD).replace(b"DEVICE", KEY).replace(b"BATCH", b"01980000-0000-7000-8000-000000000002")
UNREADABLE = {
    "not JSON": record_of(KEY, b"\x00\xff not JSON"),
    "nothing": record_of(KEY, b""),
    "not what its encoding says": record_of(KEY, BODY, content_encoding=b"gzip"),
    "an unknown encoding": record_of(KEY, BODY, content_encoding=b"br"),
    "a header that is not a number": record_of(KEY, BODY, received_at=b"now"),
    "a count below zero": record_of(KEY, BODY, events=b"-1"),
    "a count that no column holds": record_of(KEY, BODY, events=b"99999999999"),
    "a batch that is no UUID": record_of(KEY, BODY, batch=b"x"),
    "a key that is no UUID": record_of(b"\xff", BODY),
    "a lone surrogate": record_of(KEY, BODY[:-1] + b',"x":"\\ud800"}'),
    "a nest of 5000": record_of(KEY, BODY[:-1] + b',"x":' + b"[" * 5000 + b"]" * 5000 + b"}"),
    "no headers at all": Record("batches", KEY, BODY, ()),
    "an event that no reader accepts": record_of(KEY, BODY.replace(b'"id":8', b'"id":"8"'), refused=b"5"),
    "an offer that is no offer": record_of(KEY, BODY, offer=b"[1]"),
    "a time that no column holds": record_of(KEY, BODY, received_at=b"9" * 30),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_a_record_that_nobody_can_read_is_a_dead_letter_and_the_rest_goes_on(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any, count: Any, ask: Any, name: str
) -> None:
    record = UNREADABLE[name]
    await log.publish([make_batch(events=5), record, make_batch(events=5)])
    progress = await drain(source, warehouse_client)
    if name == "a time that no column holds":  # readable after all: the time is moved to the last that can be kept
        assert await count(warehouse_client) == (3, 11, 0)
        return
    assert await count(warehouse_client) == (2, 10, 1)
    found = await ask(warehouse_client, "SELECT reason, encoding, body, log, topic, partition FROM dead_letters")
    reason, encoding, body, *place = found[0]
    assert (reason, encoding, place) == ("unreadable_record", "record", [source.identity, "batches", 0])
    kept = msgspec.json.decode(body)
    assert msgspec.convert(kept["value"], bytes) == record.value
    assert msgspec.convert(kept["key"], bytes) == record.key
    assert [(key, msgspec.convert(value, bytes)) for key, value in kept["headers"]] == list(record.headers)
    assert progress["batches"].unreadable == 1


async def test_a_dead_letter_that_nobody_can_read_is_kept_as_it_is(
    log: Any, source: Any, warehouse_client: Any, drain: Any, ask: Any
) -> None:
    await log.publish([Record("dead_letters", b"k", b"\xff"), Record("dead_letters", b"k", b"\xff")])
    await drain(source, warehouse_client)
    found = await ask(warehouse_client, "SELECT reason, topic FROM dead_letters")
    assert found == [("unreadable_record", "dead_letters")]


async def test_a_document_that_even_rendered_anew_reads_differently_is_a_dead_letter_once(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any, count: Any, ask: Any
) -> None:
    # The gateway refuses this (a prediction with more signals than the batch names); a broken one might not.
    odd = make_batch(document=document(prediction(signals=b"[1,2,3]"), more=b',"signals":{"m":["a"]}'), expected=1)
    await log.publish([make_batch(events=5), odd, make_batch(events=5)])
    await drain(source, warehouse_client)
    assert await count(warehouse_client) == (2, 10, 1)
    assert await ask(warehouse_client, "SELECT reason FROM dead_letters") == [("unreadable_record",)]
    await source.commit("batches", 0, 0)
    await log.publish([odd, make_batch(events=5)])
    await drain(source, warehouse_client)
    assert await count(warehouse_client) == (3, 15, 1)


async def test_hostile_documents_cost_their_range_a_second_try_and_no_more(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any
) -> None:
    await log.publish([make_batch(document=document(GOOD, more=b',"x":1e999'), expected=1) for _ in range(3)])
    await drain(source, warehouse_client)
    await log.publish([make_batch(events=5)])
    settings = WarehouseSettings(poll_seconds=0.01, linger_seconds=0)
    async with asyncio.timeout(20):
        progress = await drain(source, warehouse_client, settings)
    assert progress["batches"].retries == 0
