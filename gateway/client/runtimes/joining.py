"""The layers of a network that join several vectors into one: value by value, or one after the other.

* What is joined value by value is equally long: Core ML also spreads one value over all, which is refused here.
* A sum or product of one vector is that of it and a constant.
"""

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Final

from gateway.client.runtimes import BadModel
from gateway.client.runtimes.protobuf import Message

Layer = Callable[..., Sequence[float]]
Made = tuple[Layer, int]
Join = Callable[[Sequence[float]], float]


def _value_by_value(join: Join) -> Callable[[Message, list[int]], Made]:
    def make(message: Message, widths: list[int]) -> Made:
        if len(set(widths)) != 1:
            raise BadModel(f"vectors of {widths} values are joined value by value")
        return lambda *vectors: list(map(join, zip(*vectors, strict=True))), widths[0]

    return make


def _with_constant(join: Join) -> Callable[[Message, list[int]], Made]:
    def make(message: Message, widths: list[int]) -> Made:
        if len(widths) > 1:
            return _value_by_value(join)(message, widths)
        alpha = message.float32(1)
        return lambda values: [join((x, alpha)) for x in values], widths[0]

    return make


def _concatenate(message: Message, widths: list[int]) -> Made:
    if message.integer(100):
        raise BadModel("a concatenation of sequences")
    return lambda *vectors: list(chain.from_iterable(vectors)), sum(widths)


def _largest(x: float) -> float:
    """Order what is no number above all: an extreme of it is none either."""
    return math.inf if math.isnan(x) else x


# By the field of NeuralNetworkLayer.
JOINS: Final[dict[int, Callable[[Message, list[int]], Made]]] = {
    230: _with_constant(math.fsum),
    231: _with_constant(math.prod),
    240: _value_by_value(lambda values: math.fsum(values) / len(values)),
    260: _value_by_value(lambda values: max(values, key=_largest)),
    261: _value_by_value(lambda values: min(values, key=lambda x: -_largest(-x))),
    320: _concatenate,
}
