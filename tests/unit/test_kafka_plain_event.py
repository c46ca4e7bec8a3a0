"""A batch becomes plain events, and a batch sent again is known within its window."""

import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.plain_event import plain_events
from consumers.unpack import ResendWindow
from schemas.records import BatchHeaders, Malformed, StoredRecord, Told, batch_record

DEVICE, BATCH = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
EVENTS: list[dict[str, Any]] = [
    {
        "type": "prediction",
        "id": 1,
        "t": 1_000,
        "model": "upsell",
        "release": 42,
        "source": "ota",
        "score": 0.5,
        "decision": True,
        "signals": [0.25, None],
    },
    {"type": "outcome", "id": 1, "t": 1_500, "model": "upsell", "outcome": "dismissed"},
    {"type": "model", "t": 2_000, "model": "other", "release": 7, "state": "activated"},
]


@pytest.fixture
def stored() -> Callable[..., StoredRecord]:
    def make(refused: tuple[int, ...] = (), events: list[dict[str, Any]] = EVENTS, **changes: Any) -> StoredRecord:
        document = {
            "device": DEVICE,
            "batch": BATCH,
            "seq": 1,
            "sent_at": 2_000,
            "sdk": "2.3.0",
            "os": "iOS 19",
            "signals": {"upsell": ["battery_level", "charging"]},
            "events": events,
            **changes,
        }
        about = BatchHeaders(
            app="shop",
            content_encoding="identity",
            received_at=10_000,
            gateway="gw",
            batch=BATCH,
            events=len(events),
            refused=refused,
            offer={"upsell": Told(42, "challenger", 9)},
        )
        record = batch_record(DEVICE, msgspec.json.encode(document), about)
        return StoredRecord(record.topic, 0, 0, record.key, record.value, record.headers)

    return make


def test_every_event_carries_what_its_batch_says_once(stored: Callable[..., StoredRecord]) -> None:
    prediction, outcome, model = (msgspec.json.decode(event) for event in plain_events(stored()))
    assert prediction == {
        "app": "shop",
        "seq": 1,
        "device": DEVICE,
        "batch": BATCH,
        "received_at": 10_000,
        "gateway": "gw",
        "sdk": "2.3.0",
        "os": "iOS 19",
        "index": 0,
        "occurred_at": 9_000,
        "signals": {"battery_level": 0.25, "charging": None},
        "offered": "42",
        "arm": "challenger",
        "rollout": 9,
        "type": "prediction",
        "id": 1,
        "t": 1_000,
        "model": "upsell",
        "release": 42,
        "source": "ota",
        "score": 0.5,
        "decision": True,
    }
    assert (outcome["index"], outcome["occurred_at"], outcome["outcome"]) == (1, 9_500, "dismissed")
    assert (model["index"], model["state"], "arm" in model) == (2, "activated", False)


def test_no_name_stands_twice_in_an_event(stored: Callable[..., StoredRecord]) -> None:
    for event in plain_events(stored()):
        names = list(msgspec.json.decode(event))
        assert event.count(b'":') == len(names) + (2 if b"signals" in event else 0)


def test_refused_events_are_left_out_and_indexes_stay(stored: Callable[..., StoredRecord]) -> None:
    found = [msgspec.json.decode(event)["index"] for event in plain_events(stored(refused=(1,)))]
    assert found == [0, 2]


def test_a_clock_that_lies_cannot_leave_the_calendar(stored: Callable[..., StoredRecord]) -> None:
    record = stored(sent_at=10_413_791_999_999)
    assert [msgspec.json.decode(event)["occurred_at"] for event in plain_events(record)] == [0, 0, 0]


def test_a_batch_that_cannot_be_read_is_malformed(stored: Callable[..., StoredRecord]) -> None:
    record = msgspec.structs.replace(stored(), value=b"{")
    with pytest.raises(Malformed):
        plain_events(record)


def test_a_batch_is_known_for_as_many_records_as_the_window_has() -> None:
    window = ResendWindow(3)
    a = ("shop", b"device", "a")
    assert not window.is_resend(a, 0)
    assert window.is_resend(a, 3)
    assert window.is_resend(a, 6)
    assert not window.is_resend(a, 10)


def test_a_batch_of_another_device_or_app_under_the_same_id_is_no_resend() -> None:
    window = ResendWindow(10)
    assert not window.is_resend(("shop", b"device", "a"), 0)
    assert not window.is_resend(("shop", b"other", "a"), 1)
    assert not window.is_resend(("game", b"device", "a"), 2)
    assert window.is_resend(("shop", b"device", "a"), 3)


@given(st.lists(st.integers(0, 5), max_size=60), st.integers(0, 10), st.integers(0, 60))
def test_a_window_read_again_from_the_log_decides_the_same(batches: list[int], size: int, start: int) -> None:
    whole, again = ResendWindow(size), ResendWindow(size)
    start = min(start, len(batches))
    expected = [whole.is_resend(("shop", b"device", str(batch)), offset) for offset, batch in enumerate(batches)]
    for offset in range(max(0, start - size), start):
        again.is_resend(("shop", b"device", str(batches[offset])), offset)
    found = [
        again.is_resend(("shop", b"device", str(batches[offset])), offset) for offset in range(start, len(batches))
    ]
    assert found == expected[start:]
