"""Produce requests and answers are byte for byte what aiokafka's own schemas make and read."""

from io import BytesIO

from aiokafka import TopicPartition
from aiokafka.protocol.produce import ProduceRequest_v7, ProduceResponse_v7
from hypothesis import given
from hypothesis import strategies as st

from gateway.publish.kafka_wire import Produce, ProduceAnswerV7, ProduceV7

PLACES = st.builds(TopicPartition, st.text("abc-._ä", min_size=1, max_size=5), st.integers(0, 2**31 - 1))


@given(st.dictionaries(PLACES, st.binary(max_size=50), max_size=6), st.integers(0, 2**31 - 1))
def test_a_request_is_written_as_aiokafka_writes_it(batches: dict[TopicPartition, bytes], timeout_ms: int) -> None:
    topics: dict[str, list[tuple[int, bytes]]] = {}
    for place, data in batches.items():
        topics.setdefault(place.topic, []).append((place.partition, data))
    expected = ProduceRequest_v7(None, -1, timeout_ms, list(topics.items())).encode()
    assert Produce(batches, timeout_ms).build(ProduceV7).encode() == expected


@given(st.dictionaries(PLACES, st.integers(-1, 120), max_size=6))
def test_an_answer_is_read_as_aiokafka_reads_it(codes: dict[TopicPartition, int]) -> None:
    topics: dict[str, list[tuple[int, int, int, int, int]]] = {}
    for place, code in codes.items():
        topics.setdefault(place.topic, []).append((place.partition, code, 2**40, -1, 7))
    written = ProduceResponse_v7(list(topics.items()), 0).encode()
    assert ProduceAnswerV7.decode(BytesIO(written)).codes == codes
