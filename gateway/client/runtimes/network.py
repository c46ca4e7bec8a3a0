"""Evaluate small neural networks: NeuralNetworkClassifier and NeuralNetwork of Core ML.

* A chain of layers over one vector: inner products, scales, batch normalisation, activations, softmax. Every other
  kind of layer, and every graph that is no chain, is refused when it is read.
* Inputs and weights are rounded to float32, as Core ML does; sums are made in doubles, so answers differ from Core ML's
  in the seventh digit.
* Bounded by layers and weights: a prediction in Python takes about 25 ns for each weight.
"""

import math
import operator
from array import array
from collections.abc import Callable, Sequence
from typing import Final

from gateway.client.runtimes import BadModel
from gateway.client.runtimes.linear import logistic
from gateway.client.runtimes.protobuf import Message
from gateway.client.runtimes.trees import softmax
from gateway.client.runtimes.weights import read_weights

MAX_LAYERS: Final = 64
# As float32 a quarter of the largest artifact; decisions on a handful of signals take a thousandth of that.
MAX_WEIGHTS: Final = 1_048_576

_FIRST_KIND: Final = 100  # below are a layer's name, its wiring and whether it may be trained further

Layer = Callable[[Sequence[float]], Sequence[float]]


class Network:
    """The layers in order, and the names of what goes in and comes out."""

    def __init__(self, message: Message, input_size: int) -> None:
        """Read a NeuralNetwork or NeuralNetworkClassifier message. Raises `BadModel`."""
        if message.has(2):
            raise BadModel("a network with preprocessing of images")
        self.input_name = self.output_name = ""
        self.size = input_size
        self._layers: list[Layer] = []
        weights = 0
        for layer in message.messages(1):
            if len(self._layers) >= MAX_LAYERS:
                raise BadModel(f"more than {MAX_LAYERS} layers")
            self._wire(layer.texts(2), layer.texts(3))
            made, self.size, held = _layer(layer, self.size, MAX_WEIGHTS - weights)
            weights += held
            self._layers.append(made)
        if not self._layers:
            raise BadModel("no layers")

    def __call__(self, inputs: Sequence[float]) -> list[float]:
        """Return what the last layer gives."""
        values: Sequence[float] = array("f", inputs)
        for layer in self._layers:
            values = layer(values)
        return list(values)

    def _wire(self, inputs: list[str], outputs: list[str]) -> None:
        """Go one layer on. Raises `BadModel` for one that does not read what the layer before it gives."""
        if len(inputs) != 1 or len(outputs) != 1 or (self._layers and inputs != [self.output_name]):
            raise BadModel(f"a layer from {inputs} to {outputs}, which is no link of a chain")
        self.input_name = self.input_name if self._layers else inputs[0]
        self.output_name = outputs[0]


def _layer(message: Message, width: int, room: int) -> tuple[Layer, int, int]:
    """Return a layer, how many values it gives and how many weights it holds."""
    kinds = [number for number in message.numbers() if number >= _FIRST_KIND]
    if len(kinds) != 1 or kinds[0] not in _LAYERS:
        raise BadModel(f"layers of kind {kinds} are not understood")
    return _LAYERS[kinds[0]](message.message(kinds[0]), width, room)


def _inner_product(message: Message, width: int, room: int) -> tuple[Layer, int, int]:
    outputs = message.integer(2)
    if message.integer(1) != width or outputs < 1 or message.integer(22):
        raise BadModel(f"an inner product that does not take {width} values")
    count = (width + 1) * outputs
    if count > room:
        raise BadModel(f"more than {MAX_WEIGHTS} weights")
    weights = read_weights(message.message(20), width * outputs, outputs)
    rows = [weights[start : start + width] for start in range(0, len(weights), width)]
    offsets = read_weights(message.message(21), outputs) if message.integer(10) else array("f", bytes(4 * outputs))

    def product(values: Sequence[float]) -> list[float]:
        return [sum(map(operator.mul, row, values), offset) for row, offset in zip(rows, offsets, strict=True)]

    return product, outputs, count


def _batch_normalization(message: Message, width: int, room: int) -> tuple[Layer, int, int]:
    if message.integer(1) != width or message.integer(5) or message.integer(6):
        raise BadModel("a batch normalisation that does not fit, or that needs a batch")
    epsilon = message.float32(10, 1e-5)
    gammas, betas, means, variances = (read_weights(message.message(number), width) for number in (15, 16, 17, 18))
    if min(variances) + epsilon <= 0.0:
        raise BadModel("a variance below zero")
    scales = [gamma / math.sqrt(variance + epsilon) for gamma, variance in zip(gammas, variances, strict=True)]
    offsets = [beta - mean * scale for beta, mean, scale in zip(betas, means, scales, strict=True)]
    return _affine(scales, offsets), width, 0


def _scale(message: Message, width: int, room: int) -> tuple[Layer, int, int]:
    scales = _for_every_value(message.message(2), message.integers(1), width)
    offsets = _for_every_value(message.message(5), message.integers(4), width) if message.integer(3) else [0.0] * width
    return _affine(scales, offsets), width, 0


def _bias(message: Message, width: int, room: int) -> tuple[Layer, int, int]:
    return _affine([1.0] * width, _for_every_value(message.message(2), message.integers(1), width)), width, 0


def _affine(scales: Sequence[float], offsets: Sequence[float]) -> Layer:
    return lambda values: [x * scale + offset for x, scale, offset in zip(values, scales, offsets, strict=True)]


def _for_every_value(message: Message, shape: list[int], width: int) -> Sequence[float]:
    """Return one weight for each value, from as many or from one."""
    count = 1 if all(size == 1 for size in shape) else width
    if sorted(size for size in shape if size != 1) != ([] if count == 1 else [width]):
        raise BadModel(f"weights of shape {shape} for {width} values")
    weights = read_weights(message, count)
    return weights if count == width else [weights[0]] * width


def _softmax(message: Message, width: int, room: int) -> tuple[Layer, int, int]:
    if width < 2:
        raise BadModel("a softmax over one value")
    return softmax, width, 0


def _activation(message: Message, width: int, room: int) -> tuple[Layer, int, int]:
    kinds = [number for number in message.numbers() if number in _ACTIVATIONS]
    if len(kinds) != 1 or len(message.numbers()) != 1:
        raise BadModel(f"activations {message.numbers()} are not understood")
    terms = message.message(kinds[0])
    each = _ACTIVATIONS[kinds[0]](terms.float32(1), terms.float32(2))
    return lambda values: list(map(each, values)), width, 0


def _exponential_linear(alpha: float, _: float) -> Callable[[float], float]:
    return lambda x: x if x >= 0.0 else alpha * math.expm1(x)


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


_LAYERS: Final[dict[int, Callable[[Message, int, int], tuple[Layer, int, int]]]] = {
    130: _activation,
    140: _inner_product,
    160: _batch_normalization,
    175: _softmax,
    245: _scale,
    250: _bias,
}
# By the field of ActivationParams, each made from its alpha and beta.
_ACTIVATIONS: Final[dict[int, Callable[[float, float], Callable[[float], float]]]] = {
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
