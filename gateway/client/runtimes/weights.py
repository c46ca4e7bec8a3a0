"""Read a network's weights: WeightParams of Core ML, as float32, float16 or 8 bits.

* Eight bits stand for scale * q + bias, with one scale and bias for all or for each row, or for a place in a table.
* Fewer bits than eight, weights of another number than the layer has, and weights that are not finite are refused.
"""

import math
import struct
from array import array
from collections.abc import Sequence
from typing import Final

from gateway.client.runtimes import BadModel
from gateway.client.runtimes.protobuf import Message

_FLOAT32, _FLOAT16, _RAW, _QUANTIZATION = 1, 2, 30, 40
_BITS, _LINEAR, _TABLE = 1, 101, 102
_TABLE_SIZE: Final = 256


def read_weights(message: Message, count: int, rows: int = 1) -> "array[float]":
    """Return `count` weights that stand in `rows` rows of the same length. Raises `BadModel`."""
    kinds = [number for number in (_FLOAT32, _FLOAT16, _RAW) if message.has(number)]
    if len(kinds) != 1:
        raise BadModel("weights that are not all float32, all float16 or all of 8 bits")
    if kinds == [_FLOAT32]:
        weights = message.floats(_FLOAT32)
    elif kinds == [_FLOAT16]:
        weights = _halves(message.data(_FLOAT16))
    else:
        weights = _dequantized(message.data(_RAW), message.message(_QUANTIZATION), rows)
    if len(weights) != count or not all(map(math.isfinite, weights)):
        raise BadModel(f"{len(weights)} weights where {count} finite ones are wanted")
    return weights


def _halves(data: bytes) -> "array[float]":
    if len(data) % 2:
        raise BadModel("half a float16")
    return array("f", struct.unpack(f"<{len(data) // 2}e", data))


def _dequantized(data: bytes, how: Message, rows: int) -> "array[float]":
    if how.integer(_BITS) != 8 or how.has(_LINEAR) == how.has(_TABLE) or len(data) % rows:
        raise BadModel("quantized in a way that is not understood")
    if how.has(_TABLE):
        table = how.message(_TABLE).floats(1)
        if len(table) != _TABLE_SIZE:
            raise BadModel(f"a table of {len(table)} weights for 8 bits")
        return array("f", map(table.__getitem__, data))
    linear = how.message(_LINEAR)
    scales, biases = _for_every_row(linear.floats(1), rows, 1.0), _for_every_row(linear.floats(2), rows, 0.0)
    width = len(data) // rows
    found = array("f")
    for row, (scale, bias) in enumerate(zip(scales, biases, strict=True)):
        found.extend(scale * q + bias for q in data[row * width : (row + 1) * width])
    return found


def _for_every_row(values: Sequence[float], rows: int, default: float) -> Sequence[float]:
    if len(values) in (0, 1):
        return [values[0] if values else default] * rows
    if len(values) != rows:
        raise BadModel("the quantization does not fit the rows")
    return values
