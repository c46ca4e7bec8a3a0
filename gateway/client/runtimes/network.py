"""Evaluate small neural networks: NeuralNetworkClassifier and NeuralNetwork of Core ML.

* Layers over vectors: inner products, scales, batch normalisation, activations, functions of one value, softmax; sums,
  products, means, extremes and concatenations of several. Each reads the input or what a layer before it gave, as the
  file has them in order. Every other kind of layer is refused, by its name, when the file is read.
* Inputs and weights are rounded to float32, as Core ML does; sums are made in doubles, so answers differ from Core ML's
  in the seventh digit.
* Bounded by layers, weights and values: a prediction in Python takes about 25 ns for each weight.
"""

import math
import operator
from array import array
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from gateway.client.runtimes import BadModel
from gateway.client.runtimes.elementwise import activation, unary
from gateway.client.runtimes.joining import JOINS
from gateway.client.runtimes.protobuf import Message
from gateway.client.runtimes.trees import softmax
from gateway.client.runtimes.weights import read_weights

MAX_LAYERS: Final = 64
# As float32 a quarter of the largest artifact; decisions on a handful of signals take a thousandth of that.
MAX_WEIGHTS: Final = 1_048_576
# What all layers together may give: each concatenation can double what it reads.
MAX_VALUES: Final = 262_144

_FIRST_KIND: Final = 100  # below are a layer's name, its wiring and whether it may be trained further

Layer = Callable[..., Sequence[float]]


class _Step(NamedTuple):
    """A layer, the blobs that it reads and the one that it gives."""

    layer: Layer
    reads: tuple[str, ...]
    gives: str


class Network:
    """The layers in order, and the names of what goes in and comes out."""

    def __init__(self, message: Message, input_size: int) -> None:
        """Read a NeuralNetwork or NeuralNetworkClassifier message. Raises `BadModel`."""
        if message.has(2):
            raise BadModel("a network with preprocessing of images")
        self.input_name = self.output_name = ""
        self._sizes: dict[str, int] = {}
        self._steps: list[_Step] = []
        weights = values = 0
        for layer in message.messages(1):
            if len(self._steps) >= MAX_LAYERS:
                raise BadModel(f"more than {MAX_LAYERS} layers")
            reads, gives = self._wired(layer.texts(2), layer.texts(3), input_size)
            made, self.size, held = _layer(layer, [self._sizes[name] for name in reads], MAX_WEIGHTS - weights)
            weights, values = weights + held, values + self.size
            if values > MAX_VALUES:
                raise BadModel(f"layers that give more than {MAX_VALUES} values")
            self._steps.append(_Step(made, reads, gives))
            self._sizes[gives] = self.size
            self.output_name = gives
        if not self._steps:
            raise BadModel("no layers")

    def __call__(self, inputs: Sequence[float]) -> list[float]:
        """Return what the last layer gives."""
        values: dict[str, Sequence[float]] = {self.input_name: array("f", inputs)}
        for layer, reads, gives in self._steps:
            values[gives] = layer(*[values[name] for name in reads])
        return list(values[self.output_name])

    def _wired(self, reads: list[str], gives: list[str], input_size: int) -> tuple[tuple[str, ...], str]:
        """Return what a layer reads and gives. Raises `BadModel` where no layer before it gives that."""
        if not self._steps and reads:
            self.input_name = reads[0]
            self._sizes = {reads[0]: input_size}
        if not reads or len(gives) != 1 or not set(reads) <= set(self._sizes):
            raise BadModel(f"a layer from {reads} to {gives}, where there are {list(self._sizes)}")
        return tuple(reads), gives[0]


def _layer(message: Message, widths: list[int], room: int) -> tuple[Layer, int, int]:
    """Return a layer, how many values it gives and how many weights it holds."""
    kinds = [number for number in message.numbers() if number >= _FIRST_KIND]
    kind = kinds[0] if len(kinds) == 1 else 0
    if kind in JOINS:
        return *JOINS[kind](message.message(kind), widths), 0
    if kind not in _LAYERS:
        what = _REFUSED.get(kind, f"of kind {kinds}")
        raise BadModel(f"layer {message.text(1)!r} is {what}, which devices do not evaluate")
    if len(widths) != 1:
        raise BadModel(f"layer {message.text(1)!r} reads {len(widths)} vectors where it takes one")
    return _LAYERS[kind](message.message(kind), widths[0], room)


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


def _flatten(message: Message, width: int, room: int) -> tuple[Layer, int, int]:
    return list, width, 0  # of a vector, which is flat


_LAYERS: Final[dict[int, Callable[[Message, int, int], tuple[Layer, int, int]]]] = {
    130: activation,
    140: _inner_product,
    160: _batch_normalization,
    175: _softmax,
    220: unary,
    245: _scale,
    250: _bias,
    301: _flatten,
}
# What builders and converters also write, by the field of NeuralNetworkLayer: for the sentence that refuses it.
_REFUSED: Final = {
    100: "a convolution",
    120: "a pooling",
    150: "an embedding",
    165: "a mean-variance normalisation",
    170: "an L2 normalisation",
    270: "a dot product",
    280: "a reduction",
    290: "a constant",
    300: "a reshaping",
    310: "a permutation",
    330: "a split",
    350: "a slice",
    400: "recurrent",
    410: "a GRU",
    420: "an LSTM",
    430: "an LSTM",
    500: "a layer of the app's own",
    950: "a softmax along an axis",
    980: "a concatenation along an axis",
}
