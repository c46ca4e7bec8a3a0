"""What the warehouse consumer makes of a record, without a server: rows, plans and tokens."""

import uuid

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.warehouse import rowbinary as rb
from consumers.warehouse.batches import Batches, Document
from consumers.warehouse.letters import Letter, Letters
from consumers.warehouse.plans import Lane, Plan
from schemas.records import BatchHeaders, DeadLetter, Record, StoredRecord, Told, batch_record, dead_letter_record

LANE = Lane("log", "batches", 0)
DEVICE = "6f1c0000-0000-4000-8000-000000000001"
BATCH = "01980000-0000-7000-8000-000000000002"
EVENT = {"type": "outcome", "id": 8, "t": 5, "model": "m", "outcome": "x"}


def stored(record: Record, offset: int = 7) -> StoredRecord:
    return StoredRecord(record.topic, 0, offset, record.key, record.value, record.headers)


def batch(events: list[object], refused: tuple[int, ...] = (), offer: dict[str, Told] | None = None) -> StoredRecord:
    body = {"device": DEVICE, "batch": BATCH, "seq": 1, "sent_at": 5, "sdk": "2.3.0", "x": "unknown", "events": events}
    about = BatchHeaders(
        app="shop",
        content_encoding="identity",
        received_at=9,
        gateway="gw",
        batch=BATCH,
        events=len(events),
        refused=refused,
        offer=offer or {},
    )
    return stored(batch_record(DEVICE, msgspec.json.encode(body), about))


@given(st.integers(0, 2**63))
def test_a_varint_carries_seven_bits_a_byte_lowest_first(number: int) -> None:
    data = rb.varint(number)
    assert sum((byte & 0x7F) << 7 * i for i, byte in enumerate(data)) == number
    assert all(byte & 0x80 for byte in data[:-1])
    assert not data[-1] & 0x80


def test_a_uuid_is_two_little_endian_halves() -> None:
    assert rb.uuid("00112233-4455-6677-8899-aabbccddeeff").hex() == "7766554433221100ffeeddccbbaa9988"
    for wrong in ("00112233-4455-6677-8899-aabbccddee", "00112233-4455-6677-8899-aabbccddeefg", ""):
        with pytest.raises(ValueError, match=r"UUID|hex"):
            rb.uuid(wrong)


def test_a_string_that_utf_8_cannot_say_is_still_a_string() -> None:
    assert rb.text("a\ud800") == b"\x02a?"


def test_a_whole_batch_passes_untouched() -> None:
    record = batch([EVENT, EVENT])
    item = Batches().read(LANE, record, False, 0)
    assert isinstance(item, Document)
    assert (item.expected, item.strict) == (2, True)
    assert rb.uint32_array(()) + rb.blob(b"{}") + rb.blob(record.value) + rb.TRUE in b"".join(item.row(False, False))
    assert item.key == ("shop", DEVICE, BATCH)


@pytest.mark.parametrize("safe", [False, True])
def test_a_batch_with_refused_events_is_rendered_from_the_accepted_ones(safe: bool) -> None:
    item = Batches().read(LANE, batch([EVENT, "x", EVENT], refused=(1,)), safe, 0)
    assert isinstance(item, Document)
    assert (item.expected, item.strict) == (2, not safe)
    row = b"".join(item.row(False, False))
    assert rb.uint32_array((0, 2)) in row
    rendered = msgspec.json.decode(row[row.index(b'{"device"') : row.rindex(b"]}") + 2])
    assert rendered["events"] == [EVENT, EVENT]
    assert (rendered["device"], rendered["batch"], rendered["seq"]) == (DEVICE, BATCH, 1)
    assert "x" not in rendered


@pytest.mark.parametrize("topic", ["batches", "dead_letters"])
def test_what_nobody_can_read_is_a_letter_with_the_time_it_was_read(topic: str) -> None:
    record = StoredRecord(topic, 0, 7, b"\xff", b"\xff", (("x", b"\xff"),))
    cargo = Batches() if topic == "batches" else Letters()
    item = cargo.read(LANE, record, False, 123)
    assert isinstance(item, Letter)
    assert (item.reason, item.received_at, item.unreadable, item.expected) == ("unreadable_record", 123, True, 0)
    kept = msgspec.json.decode(item.body)
    assert (kept["key"], kept["value"], kept["headers"]) == ("/w==", "/w==", [["x", "/w=="]])


def test_a_dead_letters_identity_is_its_event_or_its_body() -> None:
    def digest(**changes: object) -> bytes:
        about: dict[str, object] = {"app": "shop", "received_at": 1, "device": DEVICE, "batch": BATCH, "index": 1}
        about |= {"reason": "r", "encoding": "json", "body": "{}"} | changes
        return Letters().read(LANE, stored(dead_letter_record(msgspec.convert(about, DeadLetter))), False, 0).digest

    assert digest() == digest(received_at=2, reason="other", body="[]")
    assert len({digest(), digest(index=2), digest(batch=DEVICE), digest(app="other"), digest(device=BATCH)}) == 5
    whole = {"device": None, "batch": None, "index": None}
    assert digest(**whole) == digest(**whole, received_at=2)
    assert digest(**whole) != digest(**whole, body="[]")


def test_tokens_name_the_log_the_lane_and_the_range() -> None:
    plan = Plan(Lane("0c59", "batches", 3), 10, 20)
    assert plan.key == "0c59:batches:3:10"
    assert plan.token == "0c59:batches:3:10-20"


def test_the_same_uuid_in_any_spelling_is_the_same_key() -> None:
    record = batch([EVENT])
    shouted = msgspec.structs.replace(record, key=DEVICE.upper().encode())
    item = Batches().read(LANE, shouted, False, 0)
    assert isinstance(item, Document)
    assert item.key[1] == str(uuid.UUID(DEVICE))
