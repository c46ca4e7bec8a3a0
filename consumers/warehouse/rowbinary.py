"""Write ClickHouse's RowBinary format: the only work on bytes that an insert needs.

* Numbers are little-endian; a string is its length as a varint, then its bytes; an array the same with its items.
* A UUID is two 64-bit halves, each little-endian (not the order of its text).
"""

import struct
from collections.abc import Sequence
from typing import Final

uint32 = struct.Struct("<I").pack
uint64 = struct.Struct("<Q").pack
int64 = struct.Struct("<q").pack
TRUE, FALSE = b"\x01", b"\x00"
_UUID_BYTES: Final = 16


def varint(number: int) -> bytes:
    """Return a non-negative number in base 128, least significant group first."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def blob(data: bytes) -> bytes:
    """Return a String of any bytes."""
    return varint(len(data)) + data


def text(value: str) -> bytes:
    """Return a String; what UTF-8 cannot say becomes a question mark."""
    return blob(value.encode("utf-8", "replace"))


def boolean(value: bool) -> bytes:
    """Return a Bool."""
    return TRUE if value else FALSE


def uuid(value: str) -> bytes:
    """Return a UUID from its text. Raises ValueError."""
    data = bytes.fromhex(value.replace("-", ""))  # a fifth of the time that uuid.UUID takes
    if len(data) != _UUID_BYTES:
        raise ValueError(f"no UUID: {value!r}")
    return data[7::-1] + data[:7:-1]


def uint32_array(values: Sequence[int]) -> bytes:
    """Return an Array(UInt32)."""
    return varint(len(values)) + struct.pack(f"<{len(values)}I", *values)


def nullable_uint32(value: int | None) -> bytes:
    """Return a Nullable(UInt32)."""
    return TRUE if value is None else FALSE + uint32(value)
