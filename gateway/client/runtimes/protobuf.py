"""Read the protocol-buffer wire format, so that a Core ML file needs no library to be opened.

* Hostile bytes end in `BadModel`: every length is checked against what is left, every varint is ten bytes at most, and
  a message has at most `MAX_FIELDS` fields, since two bytes of file cost fifty times that in memory.
* Nothing is read twice: a message is split into its fields once, a nested message only when it is asked for.
* A field set twice that may stand once is refused: no serializer writes that, and "last one wins" hides a forgery.
"""

import struct
import sys
from array import array
from collections.abc import Iterator
from typing import Final

from gateway.client.runtimes import BadModel

MAX_FIELDS: Final = 524_288
_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH: Final = 2
_FIXED32: Final = 5
_double: Final = struct.Struct("<d")
_float: Final = struct.Struct("<f")

Value = int | bytes


class Message:
    """One message: its fields by number, each a list of (wire type, value)."""

    __slots__ = ("_fields",)

    def __init__(self, data: bytes) -> None:
        """Split the bytes into fields. Raises `BadModel`."""
        fields: dict[int, list[tuple[int, Value]]] = {}
        for count, (number, wire, value) in enumerate(_split(data)):
            if count >= MAX_FIELDS:
                raise BadModel(f"a message of more than {MAX_FIELDS} fields")
            fields.setdefault(number, []).append((wire, value))
        self._fields = fields

    def has(self, number: int) -> bool:
        """Say whether the field is there."""
        return number in self._fields

    def numbers(self) -> list[int]:
        """Return the numbers of the fields that are there."""
        return list(self._fields)

    def integer(self, number: int, default: int = 0) -> int:
        """Return an unsigned 64-bit integer, an enum or a bool."""
        value = self._single(number, _VARINT)
        return value if isinstance(value, int) else default

    def text(self, number: int, default: str = "") -> str:
        """Return a string."""
        value = self._single(number, _LENGTH)
        return _utf8(value) if isinstance(value, bytes) else default

    def double(self, number: int, default: float = 0.0) -> float:
        """Return a double."""
        value = self._single(number, _FIXED64)
        return float(_double.unpack(value)[0]) if isinstance(value, bytes) else default

    def float32(self, number: int, default: float = 0.0) -> float:
        """Return a float."""
        value = self._single(number, _FIXED32)
        return float(_float.unpack(value)[0]) if isinstance(value, bytes) else default

    def data(self, number: int) -> bytes:
        """Return bytes."""
        value = self._single(number, _LENGTH)
        return value if isinstance(value, bytes) else b""

    def message(self, number: int) -> "Message":
        """Return a nested message; an absent one is empty, as in protocol buffers."""
        return Message(self.data(number))

    def messages(self, number: int) -> Iterator["Message"]:
        """Yield the nested messages of a repeated field."""
        for value in self._repeated(number):
            yield Message(value)

    def texts(self, number: int) -> list[str]:
        """Return the strings of a repeated field."""
        return [_utf8(value) for value in self._repeated(number)]

    def doubles(self, number: int) -> list[float]:
        """Return the doubles of a repeated field, packed or not."""
        found: list[float] = []
        for wire, value in self._fields.get(number, ()):
            if wire not in (_FIXED64, _LENGTH) or not isinstance(value, bytes) or len(value) % 8:
                raise BadModel(f"field {number}: not doubles")
            found.extend(struct.unpack(f"<{len(value) // 8}d", value))
        return found

    def floats(self, number: int) -> "array[float]":
        """Return the floats of a repeated field, packed or not."""
        found = array("f")
        for wire, value in self._fields.get(number, ()):
            if wire not in (_FIXED32, _LENGTH) or not isinstance(value, bytes) or len(value) % 4:
                raise BadModel(f"field {number}: not floats")
            found.frombytes(value)
        if sys.byteorder == "big":
            found.byteswap()
        return found

    def integers(self, number: int) -> list[int]:
        """Return the signed 64-bit integers of a repeated field, packed or not."""
        found: list[int] = []
        for wire, value in self._fields.get(number, ()):
            if isinstance(value, int):
                found.append(_signed(value))
            elif wire == _LENGTH:
                found.extend(map(_signed, _varints(value)))
            else:
                raise BadModel(f"field {number}: not integers")
        return found

    def _single(self, number: int, wire: int) -> Value | None:
        values = self._fields.get(number)
        if values is None:
            return None
        if len(values) > 1 or values[0][0] != wire:
            raise BadModel(f"field {number}: set twice or of another type")
        return values[0][1]

    def _repeated(self, number: int) -> Iterator[bytes]:
        for wire, value in self._fields.get(number, ()):
            if wire != _LENGTH or not isinstance(value, bytes):
                raise BadModel(f"field {number}: of another type")
            yield value


def _split(data: bytes) -> Iterator[tuple[int, int, Value]]:
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, position = _varint(data, position)
            yield number, wire, value
            continue
        if wire == _LENGTH:
            size, position = _varint(data, position)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise BadModel(f"wire type {wire}")
        if size > end - position:
            raise BadModel("a field is cut short")
        yield number, wire, data[position : position + size]
        position += size


def _varint(data: bytes, position: int) -> tuple[int, int]:
    if position < len(data) and data[position] < 0x80:  # nearly all are one byte
        return data[position], position + 1
    value = 0
    for shift, byte in zip(range(0, 70, 7), data[position : position + 10], strict=False):
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, position + shift // 7 + 1
    raise BadModel("a number is cut short or too long")


def _varints(data: bytes) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _varint(data, position)
        yield value


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


def _utf8(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise BadModel("a text is not UTF-8") from error
