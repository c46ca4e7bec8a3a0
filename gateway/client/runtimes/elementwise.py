"""The layers of a network that treat each value alone: activations and functions of one value."""

import math
from array import array
from collections.abc import Callable, Sequence
from typing import Final

from gateway.client.runtimes import BadModel
from gateway.client.runtimes.linear import logistic
from gateway.client.runtimes.protobuf import Message
from gateway.client.runtimes.weights import read_weights

_PRELU, _PARAMETRIC_SOFTPLUS = 25, 71

Layer = Callable[[Sequence[float]], Sequence[float]]
Function = Callable[[float], float]


def activation(message: Message, width: int, room: int) -> tuple[Layer, int, int]:
    """Read an ActivationParams message: its layer, the width that stays, and the weights that it holds."""
    kinds = message.numbers()
    if kinds == [_PRELU]:
        slopes = _for_every_value(message.message(_PRELU).message(1), width)
        return lambda values: [x if x >= 0.0 else a * x for x, a in zip(values, slopes, strict=True)], width, 0
    if kinds == [_PARAMETRIC_SOFTPLUS]:
        terms = message.message(_PARAMETRIC_SOFTPLUS)
        pairs = list(zip(*(_for_every_value(terms.message(number), width) for number in (1, 2)), strict=True))
        return lambda values: [a * _softplus(b * x) for x, (a, b) in zip(values, pairs, strict=True)], width, 0
    if len(kinds) != 1 or kinds[0] not in _ACTIVATIONS:
        raise BadModel(f"activations {kinds} are not understood")
    terms = message.message(kinds[0])
    return _to_each(_ACTIVATIONS[kinds[0]](terms.float32(1), terms.float32(2))), width, 0


def unary(message: Message, width: int, room: int) -> tuple[Layer, int, int]:
    """Read a UnaryFunctionLayerParams message: f(scale * x + shift)."""
    kind, alpha, epsilon = message.integer(1), message.float32(2), message.float32(3, 1e-6)
    shift, scale = message.float32(4), message.float32(5, 1.0)
    if kind not in _UNARY:
        raise BadModel(f"function {kind} of one value is not understood")
    function = _UNARY[kind](alpha, epsilon)
    return _to_each(lambda x: function(scale * x + shift)), width, 0


def _to_each(function: Function) -> Layer:
    return lambda values: list(map(function, values))


def _for_every_value(message: Message, width: int) -> "array[float]":
    """Return one weight for each value, from as many or from one."""
    alone = len(message.floats(1)) == 1 or len(message.data(2)) == 2
    return read_weights(message, 1) * width if alone else read_weights(message, width)


def _exponential_linear(alpha: float, _: float) -> Function:
    return lambda x: x if x >= 0.0 else alpha * math.expm1(x)


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


# By the field of ActivationParams, each made from its alpha and beta.
_ACTIVATIONS: Final[dict[int, Callable[[float, float], Function]]] = {
    5: lambda alpha, beta: lambda x: alpha * x + beta,
    10: lambda alpha, beta: lambda x: max(x, 0.0),  # in this order a NaN stays one
    15: lambda alpha, beta: lambda x: x if x >= 0.0 else alpha * x,
    20: lambda alpha, beta: lambda x: x if x >= alpha else 0.0,
    30: lambda alpha, beta: math.tanh,
    31: lambda alpha, beta: lambda x: alpha * math.tanh(beta * x),
    40: lambda alpha, beta: logistic,
    41: lambda alpha, beta: lambda x: min(max(alpha * x + beta, 0.0), 1.0),
    50: _exponential_linear,
    60: lambda alpha, beta: lambda x: x / (1.0 + abs(x)),
    70: lambda alpha, beta: _softplus,
}
# By UnaryFunctionLayerParams.Operation, each made from its alpha and epsilon.
_UNARY: Final[dict[int, Callable[[float, float], Function]]] = {
    0: lambda alpha, epsilon: math.sqrt,
    1: lambda alpha, epsilon: lambda x: 1.0 / math.sqrt(x + epsilon),
    2: lambda alpha, epsilon: lambda x: 1.0 / (x + epsilon),
    3: lambda alpha, epsilon: lambda x: math.pow(x, alpha),
    4: lambda alpha, epsilon: math.exp,
    5: lambda alpha, epsilon: math.log,
    6: lambda alpha, epsilon: abs,
    7: lambda alpha, epsilon: lambda x: max(x, alpha),
}
