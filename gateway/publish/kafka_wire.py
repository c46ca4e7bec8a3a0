"""Kafka's Produce request and its answer, version 7, written and read without aiokafka's schemas.

* In every Kafka since 2.1. A schema costs a dozen calls for each field, a fifth of all that Kafka costs a batch; here
  a partition is one `struct` each way. Field lists as in Kafka's own ProduceRequest.json and ProduceResponse.json.
"""

import struct
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, Final, Self

from aiokafka import TopicPartition
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Schema

_ALL_IN_SYNC: Final = -1
_NO_TRANSACTION: Final = -1
_HEAD: Final = struct.Struct(">hhii")  # transaction's id, acks, timeout, count of topics
_NAME: Final = struct.Struct(">h")
_COUNT: Final = struct.Struct(">i")
_RECORDS: Final = struct.Struct(">ii")  # partition, length
_RESULT: Final = struct.Struct(">ihqqq")  # partition, error, first offset, log append time, log start offset


class ProduceAnswerV7(Response):  # type: ignore[misc, unused-ignore]  # aiokafka has no types
    """An error code for each partition; 0 is stored."""

    API_KEY = 0
    API_VERSION = 7
    SCHEMA = Schema()
    codes: Mapping[TopicPartition, int]

    @classmethod
    def decode(cls, data: BytesIO | bytes) -> Self:
        """Read an answer, from behind its header on."""
        buffer, answer = data if isinstance(data, bytes) else data.read(), cls()
        answer.codes = dict(_codes(buffer))
        return answer


class ProduceV7(RequestStruct):  # type: ignore[misc, unused-ignore]
    """A request as bytes in pieces, so that records are copied once."""

    API_KEY = 0
    API_VERSION = 7
    RESPONSE_TYPE = ProduceAnswerV7
    SCHEMA = Schema()
    pieces: Sequence[bytes] = ()

    def encode(self) -> bytes:
        return b"".join(self.pieces)


class Produce(Request[ProduceV7]):  # type: ignore[misc, unused-ignore]
    """Store record batches, at most one for each partition, on all in-sync brokers."""

    API_KEY = 0

    def __init__(self, batches: Mapping[TopicPartition, bytes], timeout_ms: int) -> None:
        self._pieces = _pieces(batches, timeout_ms)

    def build(self, request_struct_class: Any) -> Any:
        request = request_struct_class()
        request.pieces = self._pieces
        return request


def _pieces(batches: Mapping[TopicPartition, bytes], timeout_ms: int) -> list[bytes]:
    topics: dict[str, list[bytes]] = {}
    for place, data in batches.items():
        topics.setdefault(place.topic, []).extend((_RECORDS.pack(place.partition, len(data)), data))
    pieces = [_HEAD.pack(_NO_TRANSACTION, _ALL_IN_SYNC, timeout_ms, len(topics))]
    for topic, partitions in topics.items():
        name = topic.encode()
        pieces += [_NAME.pack(len(name)), name, _COUNT.pack(len(partitions) // 2), *partitions]
    return pieces


def _codes(buffer: bytes) -> list[tuple[TopicPartition, int]]:
    (topics,), at = _COUNT.unpack_from(buffer), _COUNT.size
    codes = []
    for _ in range(topics):
        (length,) = _NAME.unpack_from(buffer, at)
        at += _NAME.size + length
        topic = buffer[at - length : at].decode()
        (count,) = _COUNT.unpack_from(buffer, at)
        at += _COUNT.size
        end = at + count * _RESULT.size
        for partition, code, *_ in _RESULT.iter_unpack(buffer[at:end]):
            codes.append((TopicPartition(topic, partition), code))
        at = end
    return codes
