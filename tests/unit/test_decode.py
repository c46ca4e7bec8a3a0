"""Batches judged by the golden vectors, and the laws that hold for any body."""

import gzip
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson
import pytest
from backports.zstd import compress
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.decode import Caps, Decoded, decode, reason_of
from gateway.problems import BatchTooLarge, MalformedBody
from schemas import reasons
from schemas.wire import Event, ModelEvent, Outcome, Prediction

VECTORS: Final = orjson.loads((Path(reasons.__file__).parent / "vectors" / "batches.json").read_bytes())
CAPS: Final = Caps(inflated_max_bytes=8 * 1024 * 1024, batch_max_events=1000)
ENVELOPE: Final[dict[str, Any]] = VECTORS["envelope"]
GOOD: Final[dict[str, Any]] = VECTORS["events"][0]["event"]


def body_of(*events: bytes, **changes: object) -> bytes:
    return orjson.dumps({**ENVELOPE, **changes})[:-1] + b',"events":[' + b",".join(events) + b"]}"


def judged(body: bytes, encoding: str = "identity", caps: Caps = CAPS) -> Decoded:
    return decode(body, encoding, caps)


def refusals(decoded: Decoded) -> list[dict[str, object]]:
    return [msgspec.to_builtins(refused.refusal) for refused in decoded.refused]


@pytest.mark.parametrize("vector", VECTORS["events"], ids=lambda vector: vector["name"])
def test_an_event_is_judged_as_its_vector_says(vector: dict[str, Any]) -> None:
    text = vector["json"].encode() if "json" in vector else orjson.dumps(vector["event"])
    decoded = judged(body_of(text))
    expected = [] if vector["reason"] is None else [vector["reason"]]
    assert [refused.refusal.reason for refused in decoded.refused] == expected
    assert [refused.text for refused in decoded.refused] == [text.decode()] * len(decoded.refused)


@pytest.mark.parametrize("vector", VECTORS["batches"], ids=lambda vector: vector["name"])
def test_a_batch_is_judged_as_its_vector_says(vector: dict[str, Any]) -> None:
    decoded = judged(orjson.dumps(vector["batch"]))
    assert refusals(decoded) == vector["refused"]
    assert decoded.events - len(decoded.refused) == vector["accepted"]


def test_the_vectors_show_every_reason() -> None:
    shown = {vector["reason"] for vector in VECTORS["events"]} - {None}
    assert shown == reasons.EVENT_REASONS - {reasons.INVALID}


def test_every_constraint_of_an_event_has_its_reason() -> None:
    """A field or bound added to the wire types must be added to the reasons, and to the vectors by the test above."""
    expected: dict[str, set[str]] = {"type": {reasons.MISSING, reasons.WRONG_TYPE, reasons.UNKNOWN}}
    for kind in (Prediction, Outcome, ModelEvent):
        for field in msgspec.structs.fields(kind):
            faults = expected.setdefault(field.name, {reasons.WRONG_TYPE})
            if field.required:
                faults.add(reasons.MISSING)
            faults |= faults_of(msgspec.inspect.type_info(field.type))
    assert {field: set(faults) for field, faults in reasons.FIELD_FAULTS.items()} == expected


def faults_of(kind: msgspec.inspect.Type) -> set[str]:
    match kind:
        case msgspec.inspect.Metadata(type=inner):
            return faults_of(inner)
        case msgspec.inspect.UnionType(types=types):
            return set().union(*map(faults_of, types))
        case msgspec.inspect.ListType(item_type=item):
            return {reasons.WRONG_LENGTH} | faults_of(item)
        case msgspec.inspect.LiteralType():
            return {reasons.UNKNOWN}
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return {reasons.OUT_OF_RANGE}  # a float without bounds still has those of a double
        case msgspec.inspect.StrType(max_length=int()):
            return {reasons.WRONG_LENGTH}
        case _:
            return set()


def test_a_message_that_is_not_known_gets_the_reason_of_last_resort() -> None:
    assert reason_of("Something new - at `$.colour`") == reasons.INVALID
    assert reason_of("Something new") == reasons.INVALID


def test_text_in_an_enumeration_cannot_choose_the_reason() -> None:
    forged = orjson.dumps({**GOOD, "source": "x - at `$.score`"})
    assert refusals(judged(body_of(forged))) == [{"index": 0, "reason": "source_unknown"}]
    forged = orjson.dumps({**GOOD, "source": " of length ` >= Object missing required field `id`"})
    assert refusals(judged(body_of(forged))) == [{"index": 0, "reason": "source_unknown"}]


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "identity"])
def test_every_encoding_carries_the_same_batch(encoding: str) -> None:
    body = body_of(orjson.dumps(GOOD), b"{}")
    packed = {"gzip": gzip.compress(body), "zstd": compress(body), "identity": body}[encoding]
    assert refusals(judged(packed, encoding)) == [{"index": 1, "reason": "type_missing"}]


def test_the_events_are_gone_after_judging() -> None:
    for body in (body_of(orjson.dumps(GOOD)), body_of(orjson.dumps(GOOD), b"{}")):
        assert getattr(judged(body).envelope, "events", []) == []


def test_a_syntax_error_behind_a_bad_event_is_malformed() -> None:
    with pytest.raises(MalformedBody) as caught:
        judged(body_of(b"{}", b'{"type":'))
    assert caught.value.reason == reasons.NOT_JSON


def test_the_detail_names_the_field() -> None:
    with pytest.raises(MalformedBody) as caught:
        judged(body_of(seq=-1))
    assert caught.value.reason == reasons.ENVELOPE_INVALID
    assert "$.seq" in caught.value.detail


def test_an_identity_and_an_empty_body_are_refused_in_words() -> None:
    with pytest.raises(MalformedBody) as caught:
        judged(body_of(device="6F1C2A34-5B6D-4E7F-8A90-B1C2D3E4F506"))
    assert caught.value.detail == "device: a UUID in lower-case canonical form"
    for encoding, body in (("identity", b""), ("gzip", gzip.compress(b""))):
        with pytest.raises(MalformedBody) as caught:
            judged(body, encoding)
        assert (caught.value.reason, caught.value.detail) == (reasons.NOT_JSON, "the body is empty")


def test_a_detail_never_grows_with_what_it_quotes() -> None:
    with pytest.raises(MalformedBody) as caught:
        judged(body_of(have={"m": {"catalogue": 1, "use": "x" * 100_000}}))
    assert len(caught.value.detail) <= 300


def test_one_event_more_than_allowed_is_too_large() -> None:
    caps = Caps(CAPS.inflated_max_bytes, 2)
    event = orjson.dumps(GOOD)
    assert judged(body_of(event, event), caps=caps).events == 2
    for third in (event, b"{}"):
        with pytest.raises(BatchTooLarge):
            judged(body_of(event, event, third), caps=caps)


def test_the_inflated_cap_is_exact() -> None:
    body = body_of()
    packed = gzip.compress(body)
    assert judged(packed, "gzip", Caps(len(body), 1)).events == 0
    with pytest.raises(BatchTooLarge):
        judged(packed, "gzip", Caps(len(body) - 1, 1))


def test_the_largest_lawful_batch_is_not_taken_for_a_crowd_of_values() -> None:
    names = [f"signal_{i}" for i in range(256)]
    event = orjson.dumps({**GOOD, "signals": [0.123456] * 256, "more": list(range(20))})
    body = body_of(*[event] * 1000, signals={"upsell": names})
    assert judged(body).refused == ()


def test_a_malformed_body_lets_go_of_the_frames_that_hold_it_inflated() -> None:
    with pytest.raises(MalformedBody) as caught:
        judged(gzip.compress(b"[" * 1000), "gzip")
    caught.value.forget_frames()
    error = caught.value
    assert (error.__traceback__, error.__cause__, error.__context__) == (None, None, None)


JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=6,
)
FIELDS: Final = [name for kind in (Prediction, Outcome, ModelEvent) for name in kind.__struct_fields__] + ["type"]
GOOD_EVENTS: Final = [vector["event"] for vector in VECTORS["events"] if not vector["reason"] and "event" in vector]
CHANGED: Final = st.builds(
    lambda event, changes, gone: {k: v for k, v in {**event, **changes}.items() if k not in gone},
    st.sampled_from(GOOD_EVENTS),
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=2),
    st.sets(st.sampled_from(FIELDS), max_size=1),
)


@given(st.lists(st.sampled_from(GOOD_EVENTS) | CHANGED | JSON, max_size=8))
@settings(max_examples=300, deadline=None)
def test_every_event_ends_once_as_accepted_or_refused(events: list[object]) -> None:
    texts = [msgspec.json.encode(event) for event in events]
    decoded = judged(body_of(*texts))
    indexes = [refused.refusal.index for refused in decoded.refused]
    assert decoded.events == len(events)
    assert indexes == sorted(set(indexes))
    for index, text in enumerate(texts):  # alone, each is judged as it was among the others
        alone = judged(body_of(text)).refused
        among = [refused for refused in decoded.refused if refused.refusal.index == index]
        assert [r.refusal.reason for r in alone] == [r.refusal.reason for r in among]
        assert all(r.refusal.reason in reasons.EVENT_REASONS - {reasons.INVALID} for r in alone)


@given(st.binary(max_size=200), st.sampled_from(["gzip", "zstd", "identity"]))
@settings(max_examples=300, deadline=None)
def test_no_bytes_raise_anything_but_the_two_failures(body: bytes, encoding: str) -> None:
    with pytest.raises((MalformedBody, BatchTooLarge)):
        judged(body, encoding)


def test_what_the_typed_pass_takes_the_second_pass_takes_too() -> None:
    """Both passes must agree, or a bad neighbour would change how an event is judged."""
    for event in GOOD_EVENTS:
        text = orjson.dumps(event)
        assert refusals(judged(body_of(text, b"7"))) == [{"index": 1, "reason": "not_an_object"}]
        assert msgspec.json.decode(text, type=Event)
