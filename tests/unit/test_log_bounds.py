"""What one request can put on the log stays within what the configuration reckons."""

import msgspec
import pytest

from gateway.config import Config
from gateway.decode import Decoded, Refused
from gateway.letters import event_letters
from gateway.log_bounds import contradiction, most_published_bytes
from schemas.records import BatchHeaders, Record, batch_record
from schemas.wire import Envelope, Refusal


def size_of(records: list[Record]) -> int:
    headers = [msgspec.msgpack.encode(record.headers) for record in records]
    return sum(len(record.key) + len(record.value) for record in records) + sum(map(len, headers))


@pytest.mark.parametrize("character", ["x", '"', "é", "\U0001f4f1"])
@pytest.mark.parametrize(("events", "body_max_bytes"), [(1, 1024), (300, 64 * 1024), (1000, 1 << 20), (5000, 1 << 20)])
def test_a_batch_of_nothing_but_refused_events_is_within_the_bound(
    character: str, events: int, body_max_bytes: int
) -> None:
    inflated_max_bytes = 8 << 20
    text = character * (inflated_max_bytes // events // len(character.encode()))
    refused = tuple(Refused(Refusal(index, "propensity_out_of_range"), text) for index in range(events))
    envelope = Envelope(
        device="6f1c2a34-5b6d-4e7f-8a90-b1c2d3e4f506",
        batch="01980f3e-7c51-7a2b-9d44-3e5f60718293",
        seq=1,
        sent_at=1,
        sdk="2.3.0",
    )
    about = BatchHeaders(
        app="a" * 64,
        content_encoding="identity",
        received_at=1795334400123,
        gateway="g" * 64,
        batch=envelope.batch,
        events=events,
        refused=tuple(range(events)),
        offer={},
    )
    body = batch_record(envelope.device, bytes(body_max_bytes), about)
    config = Config(
        body_max_bytes=body_max_bytes, inflated_max_bytes=inflated_max_bytes, batch_max_events=max(events, 50)
    )
    assert size_of([body, *event_letters(about, Decoded(envelope, events, refused))]) <= most_published_bytes(config)


def test_the_defaults_have_room_for_many() -> None:
    assert contradiction(Config()) is None
    assert 8 * most_published_bytes(Config()) < Config().log_pending_max_bytes


def test_the_caps_at_their_largest_can_be_had() -> None:
    most = Config(body_max_bytes=1 << 26, inflated_max_bytes=1 << 26, batch_max_events=100_000)
    assert contradiction(most) is not None
    roomy = msgspec.structs.replace(most, log_pending_max_bytes=1 << 30)
    assert contradiction(roomy) is None
