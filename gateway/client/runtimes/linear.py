"""Evaluate scalers and generalised linear classifiers: Scaler and GLMClassifier of Core ML.

* A scaler answers (input + shift) * scale.
* A classifier with one weight vector gives the second label's probability, whatever its encoding; with one vector per
  label (one against the rest) the probabilities are each label's own, scaled to sum 1, as scikit-learn does.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final

from gateway.client.runtimes import BadModel
from gateway.client.runtimes.protobuf import Message

_ONE_VS_REST: Final = 1


class Scaler:
    """A shift and a scale for every input."""

    def __init__(self, message: Message, input_size: int) -> None:
        """Read a Scaler message. Raises `BadModel`."""
        self._shift = _for_every_input(message.doubles(1), input_size, 0.0)
        self._scale = _for_every_input(message.doubles(2), input_size, 1.0)

    def __call__(self, inputs: Sequence[float]) -> list[float]:
        """Return the scaled inputs."""
        return [(x + shift) * scale for x, shift, scale in zip(inputs, self._shift, self._scale, strict=True)]


class LinearClassifier:
    """A weight vector and an offset for every label, or one of each for two labels."""

    def __init__(self, message: Message, input_size: int, label_count: int) -> None:
        """Read a GLMClassifier message. Raises `BadModel`."""
        self._weights = [row.doubles(1) for row in message.messages(1)]
        self._offsets = message.doubles(2) or [0.0] * len(self._weights)
        self._link = _link(message.integer(3))
        if any(len(row) != input_size for row in self._weights) or len(self._offsets) != len(self._weights):
            raise BadModel("the weights do not fit the inputs")
        rows = len(self._weights)
        one_vs_rest = message.integer(4) == _ONE_VS_REST
        if not ((rows == 1 and label_count == 2) or (one_vs_rest and rows == label_count > 2)):
            raise BadModel(f"{rows} weight vectors for {label_count} labels")

    def __call__(self, inputs: Sequence[float]) -> list[float]:
        """Return the probability of each label."""
        own = [
            self._link(math.fsum(w * x for w, x in zip(row, inputs, strict=True)) + offset)
            for row, offset in zip(self._weights, self._offsets, strict=True)
        ]
        if len(own) == 1:
            return [1.0 - own[0], own[0]]
        total = math.fsum(own)
        return [p / total for p in own]


def logistic(x: float) -> float:
    """Return 1 / (1 + exp(-x)) without overflow."""
    if x >= 0.0:
        return 1.0 / (1.0 + math.exp(-x))
    odds = math.exp(x)
    return odds / (1.0 + odds)


def _probit(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


def _link(number: int) -> Callable[[float], float]:
    links = {0: logistic, 1: _probit}
    if number not in links:
        raise BadModel(f"post-evaluation transform {number}")
    return links[number]


def _for_every_input(values: list[float], input_size: int, default: float) -> list[float]:
    if len(values) in (0, 1):
        return (values or [default]) * input_size
    if len(values) != input_size:
        raise BadModel("the scaler does not fit the inputs")
    return values
