"""A key's partition is the one that every Kafka client chooses."""

import pytest
from aiokafka.partitioner import murmur2 as peer_murmur2
from hypothesis import given
from hypothesis import strategies as st

from schemas.partition import murmur2, partition_of

# The values of Kafka's own test of its Java client: UtilsTest.testMurmur2.
JAVA = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "signed"), JAVA.items())
def test_the_hash_is_that_of_the_java_client(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed & 0xFFFFFFFF


@given(st.binary(max_size=200))
def test_the_hash_agrees_with_another_client_for_any_key(key: bytes) -> None:
    assert murmur2(key) == peer_murmur2(key) & 0xFFFFFFFF


@given(st.binary(max_size=64), st.integers(1, 4096))
def test_the_partition_is_one_of_those_that_there_are(key: bytes, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions) < partitions


def test_a_known_device_has_a_known_partition() -> None:
    assert partition_of(b"foobar", 12) == (-790332482 & 0x7FFFFFFF) % 12
