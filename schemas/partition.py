"""The partition of a key: the one that every Kafka client chooses, so that any of them finds a device's records.

* Java's `Utils.toPositive(Utils.murmur2(key)) % partitions`, which librdkafka calls `murmur2_random`.
* Plain Python: 1 microsecond for a UUID's 36 characters where aiokafka's own takes 4.4. A cache would seldom hit: a
  device flushes a few times a day. The compiled murmur packages compute version 3, which is another function.
"""

import struct
from functools import cache
from typing import Final

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_MASK: Final = 0xFFFFFFFF


def partition_of(key: bytes, partitions: int) -> int:
    """Return the partition of the key among that many."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Return the hash as an unsigned 32-bit number (Austin Appleby's MurmurHash2 with Kafka's seed)."""
    size = len(data)
    h = _SEED ^ size
    for k in _mixed_words(data, size >> 2):
        h = h * _M & _MASK ^ k
    tail = size & 3
    if tail:
        h = (h ^ int.from_bytes(data[-tail:], "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15


def _mixed_words(data: bytes, count: int) -> tuple[int, ...]:
    """Return the 32-bit words as the hash takes them in, (k * M ^ k * M >> 24) * M.

    All at once, each in its lane of 64 bits of one large integer, where no product reaches the next lane: half the
    time of a loop.
    """
    words, lanes, low_32, low_8 = _shapes(count)
    k = int.from_bytes(lanes.pack(*words.unpack_from(data)), "little") * _M & low_32
    k = (k ^ k >> 24 & low_8) * _M & low_32
    return lanes.unpack(k.to_bytes(lanes.size, "little"))


@cache
def _shapes(count: int) -> tuple[struct.Struct, struct.Struct, int, int]:
    """Return how so many words lie in the data and in lanes, and masks of each lane's low 32 and low 8 bits."""
    words, lanes = struct.Struct(f"<{count}I"), struct.Struct(f"<{count}Q")
    low_32, low_8 = (int.from_bytes(lanes.pack(*[mask] * count), "little") for mask in (_MASK, 0xFF))
    return words, lanes, low_32, low_8
