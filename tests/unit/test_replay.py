"""A dead letter is judged by today's rules, and what comes back is the same however often it is replayed."""

import base64
import gzip
import json
from typing import Any

import msgspec
import pytest

from gateway.decode import Caps
from gateway.replay import Around, RefusedAgain, Replayed, replayed
from schemas.reading import read_batch
from schemas.records import REPLAYED_BY, DeadLetter, StoredRecord, Told, batch_headers, dead_letter
from schemas.topics import BATCHES, DEAD_LETTERS
from schemas.wire import Envelope, Have, Ledger, Prediction

CAPS = Caps(1 << 20, 100)
DEVICE, BATCH = "6f1c0000-0000-4000-8000-000000000001", "01980000-0000-7000-8000-000000000001"
DIGEST = "00112233445566778899aabbccddeeff"
ENVELOPE = Envelope(
    device=DEVICE,
    batch=BATCH,
    seq=7,
    sent_at=1_000,
    sdk="2.3.0",
    have={"upsell": Have(3, 42)},
    ledger=Ledger(9, {"queue_full": 1}),
    signals={"upsell": ["battery"]},
)
AROUND = Around(ENVELOPE, {"upsell": Told(42, "challenger", 9)})
EVENT: dict[str, Any] = {
    "type": "prediction", "id": 1, "t": 900, "model": "upsell", "release": 42, "source": "ota", "score": 0.5,
    "decision": True, "signals": [0.4],
}  # fmt: skip


def letter(
    body: str, *, index: int | None = 3, encoding: str = "json", reason: str = "score_out_of_range"
) -> DeadLetter:
    known = index is not None
    return DeadLetter(
        app="shop", received_at=5_000, device=DEVICE if known else None, batch=BATCH if known else None,
        index=index, reason=reason, encoding=encoding, body=body,
    )  # fmt: skip


def judge(kept: DeadLetter, around: Around | None = AROUND, topic: str = BATCHES) -> Replayed:
    return replayed(kept, DIGEST, around, topic, CAPS, "gw")


def stored(found: Replayed, number: int = 0) -> StoredRecord:
    record = found.records[number]
    return StoredRecord(record.topic, 0, 0, record.key, record.value, record.headers)


def test_an_event_comes_back_as_a_batch_of_its_own_with_what_it_came_with() -> None:
    found = judge(letter(json.dumps(EVENT)))
    assert len(found.records) == 1
    about, batch, events = read_batch(stored(found))
    assert (about.app, about.received_at, about.gateway, about.offer) == ("shop", 5_000, REPLAYED_BY, AROUND.offer)
    assert (batch.device, batch.seq, batch.sent_at, batch.ledger) == (DEVICE, 7, 1_000, ENVELOPE.ledger)
    assert about.batch == batch.batch == found.batch != BATCH
    ((index, event),) = events
    assert (index, type(event), event.model) == (0, Prediction, "upsell")
    assert (found.accepted, found.refused) == (1, {})


def test_a_second_replay_is_the_same_batch_and_another_letter_another() -> None:
    kept = letter(json.dumps(EVENT))
    assert judge(kept) == judge(kept)
    assert replayed(kept, DIGEST[::-1], AROUND, BATCHES, CAPS, "gw").batch != judge(kept).batch


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (json.dumps(EVENT | {"score": 7.3}), "score_out_of_range"),
        (json.dumps(EVENT | {"signals": [1, 2]}), "signals_mismatch"),
        ('"x"', "not_an_object"),
        (json.dumps(EVENT)[:-5], "the letter itself is damaged"),
        (json.dumps(EVENT) + "," + json.dumps(EVENT), "the letter itself is damaged"),
        (json.dumps(EVENT) + '],"device":"x"', "the letter itself is damaged"),
        ("", "the letter itself is damaged"),
    ],
)
def test_an_event_that_is_still_wrong_is_refused_again(body: str, reason: str) -> None:
    with pytest.raises(RefusedAgain, match=reason):
        judge(letter(body))


def test_an_event_whose_batch_is_unknown_cannot_come_back() -> None:
    with pytest.raises(RefusedAgain, match="its batch is not in the warehouse"):
        judge(letter(json.dumps(EVENT)), None)


def whole(*events: Any) -> bytes:
    return msgspec.json.encode({**msgspec.to_builtins(ENVELOPE), "events": events})


@pytest.mark.parametrize(
    ("encoding", "packed"), [("identity", whole(EVENT)), ("gzip", gzip.compress(whole(EVENT), mtime=0))]
)
def test_a_body_comes_back_as_the_batch_that_it_is(encoding: str, packed: bytes) -> None:
    kept = letter(base64.b64encode(packed).decode(), index=None, encoding=encoding, reason="envelope_invalid")
    found = judge(kept, None)
    about = batch_headers(stored(found))
    assert (found.batch, about.batch, about.gateway, about.content_encoding) == (BATCH, BATCH, REPLAYED_BY, encoding)
    assert found.records[0].value == packed


def test_what_a_body_refuses_is_a_dead_letter_of_its_own() -> None:
    packed = whole(EVENT, EVENT | {"score": 7})
    found = judge(letter(base64.b64encode(packed).decode(), index=None, encoding="identity"), None)
    assert (found.accepted, found.refused) == (1, {1: "score_out_of_range"})
    again = dead_letter(stored(found, 1))
    assert (again.batch, again.index, again.reason, again.received_at) == (BATCH, 1, "score_out_of_range", 5_000)


@pytest.mark.parametrize(
    ("packed", "encoding", "reason"),
    [
        (b"{", "identity", "not_json"),
        (whole(EVENT), "gzip", "encoding_damaged"),
        (whole(*[EVENT] * 101), "identity", "too_large"),
        (whole(EVENT), "br", "unknown encoding 'br'"),
    ],
)
def test_a_body_that_is_still_no_batch_is_refused_again(packed: bytes, encoding: str, reason: str) -> None:
    with pytest.raises(RefusedAgain, match=reason):
        judge(letter(base64.b64encode(packed).decode(), index=None, encoding=encoding), None)


def unreadable(headers: dict[str, str], value: bytes, app: str = "shop") -> DeadLetter:
    body = {
        "why": "?",
        "key": base64.b64encode(DEVICE.encode()).decode(),
        "headers": [[name, base64.b64encode(text.encode()).decode()] for name, text in headers.items()],
        "value": base64.b64encode(value).decode(),
    }
    return DeadLetter(
        app=app, received_at=5_000, device=None, batch=None, index=None, reason="unreadable_record",
        encoding="record", body=json.dumps(body),
    )  # fmt: skip


HEADERS = {"app": "shop", "content-encoding": "identity", "received_at": "5000", "gateway": "gw-7", "batch": BATCH}


def test_a_record_that_nobody_could_read_comes_back_as_its_gateways() -> None:
    found = judge(unreadable(HEADERS | {"events": "1", "offer": '{"upsell":{"use":42,"arm":"a"}}'}, whole(EVENT)), None)
    about = batch_headers(stored(found))
    assert (about.gateway, about.batch, about.events, about.offer) == ("gw-7", BATCH, 1, {"upsell": Told(42, "a")})


def test_a_record_without_a_header_comes_back_with_what_is_known() -> None:
    about = batch_headers(stored(judge(unreadable(HEADERS, whole(EVENT)), None)))
    assert (about.gateway, about.received_at, about.events, about.offer) == ("gw", 5_000, 1, {})


def test_a_record_of_another_topic_or_of_no_app_cannot_come_back() -> None:
    with pytest.raises(RefusedAgain, match="holds no batches"):
        judge(unreadable(HEADERS, whole(EVENT)), None, DEAD_LETTERS)
    with pytest.raises(RefusedAgain, match="nobody knows which app"):
        judge(unreadable(HEADERS, whole(EVENT), app=""), None)
