"""Make small Core ML neural networks and what others say of them, so that the evaluator can be held to it.

* `upsell-network.mlmodel`: two hidden layers on all four signals, as an app would ship it, with its metadata.
* `networks.json`: networks with every kind of layer, activation and weight that is understood, their inputs and the
  answers: scikit-learn's own for its multi-layer perceptrons, numpy's for the rest, from the formulas in Apple's
  NeuralNetwork.proto. Quantized weights are made by coremltools and unpacked by coremltools for numpy.

Run with `pip install -e ".[models]"`: python tests/models/make_networks.py
"""

# mypy: disable-error-code="import-not-found, import-untyped"
# Only who makes models again has these two libraries (the extra "models").

import base64
import contextlib
import copy
import io
import json
import warnings
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from make_models import HERE, SEED, draw
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

with contextlib.redirect_stderr(io.StringIO()):  # off macOS it prints a line for every part that only macOS has
    from coremltools.models import MLModel
    from coremltools.models.datatypes import Array, Dictionary, String
    from coremltools.models.neural_network import NeuralNetworkBuilder
    from coremltools.models.neural_network.quantization_utils import _dequantize_wp, quantize_weights

from gateway.client.fleet.shoppers import DISMISSED, PURCHASED, SIGNALS

ROWS: Final = 40
LABELS: Final = [DISMISSED, PURCHASED]
SCALES: Final = np.array([1.0, 1.0, 300.0, 10.0])
Values = np.ndarray[Any, Any]
ALPHAS: Final = np.array([0.5, 0.25, 0.0, -0.125])
BETAS: Final = np.array([0.5, 1.0, 0.25, 2.0])
# By the builder's name: the parameters it takes, and the formula of Apple's NeuralNetwork.proto.
ACTIVATIONS: Final[dict[str, tuple[Any, Callable[[Values], Values]]]] = {
    "LINEAR": ([0.5, 0.25], lambda x: 0.5 * x + 0.25),
    "RELU": (None, lambda x: np.maximum(0, x)),
    "LEAKYRELU": ([0.125], lambda x: np.where(x >= 0, x, 0.125 * x)),
    "THRESHOLDEDRELU": (0.75, lambda x: np.where(x >= 0.75, x, 0)),
    "TANH": (None, np.tanh),
    "SCALED_TANH": ([1.5, 0.5], lambda x: 1.5 * np.tanh(0.5 * x)),
    "SIGMOID": (None, lambda x: 1 / (1 + np.exp(-x))),
    "SIGMOID_HARD": ([0.25, 0.5], lambda x: np.minimum(np.maximum(0.25 * x + 0.5, 0), 1)),
    "ELU": (0.75, lambda x: np.where(x >= 0, x, 0.75 * (np.exp(x) - 1))),
    "SOFTSIGN": (None, lambda x: x / (1 + np.abs(x))),
    "SOFTPLUS": (None, lambda x: np.log(1 + np.exp(x))),
    "PRELU": (ALPHAS, lambda x: np.where(x >= 0, x, ALPHAS * x)),
    "PARAMETRICSOFTPLUS": ((ALPHAS, BETAS), lambda x: ALPHAS * np.log(1 + np.exp(BETAS * x))),
}
# By the builder's name: the formula, and whether it takes positive values only.
FUNCTIONS: Final[dict[str, tuple[Callable[[Values], Values], bool]]] = {
    "sqrt": (np.sqrt, True),
    "rsqrt": (lambda x: 1 / np.sqrt(x + 1e-3), True),
    "inverse": (lambda x: 1 / (x + 1e-3), True),
    "power": (lambda x: x**1.5, True),
    "exp": (np.exp, False),
    "log": (np.log, True),
    "abs": (np.abs, False),
    "threshold": (lambda x: np.maximum(x, 0.25), False),
}
# By the builder's name: how two branches of a network become one.
JOINS: Final[dict[str, Callable[[Values, Values], Values]]] = {
    "ADD": lambda a, b: a + b,
    "MULTIPLY": lambda a, b: a * b,
    "AVE": lambda a, b: (a + b) / 2,
    "MAX": np.maximum,
    "MIN": np.minimum,
    "CONCAT": lambda a, b: np.hstack([a, b]),
}


def main() -> None:
    """Write the network and networks.json beside this file."""
    made = [shipped(), *perceptrons(), *quantized(), *activated(), *functions(), *joined()]
    made += [residual(), scaled(), plain()]
    text = json.dumps(made, separators=(",", ":")).replace('{"name"', '\n{"name"')
    (HERE / "networks.json").write_text(text + "\n")


def shipped() -> dict[str, Any]:
    """Write the file of an app: its first layer takes the signals as they are."""
    rows, truth = draw()
    bought = np.where(np.random.default_rng(SEED).random(len(truth)) < truth, PURCHASED, DISMISSED)
    model = MLPClassifier((12, 6), alpha=0.01, random_state=SEED, max_iter=60)
    model.fit(rows[:15_000] / SCALES, bought[:15_000])
    threshold = float(np.quantile(model.predict_proba(rows[15_000:] / SCALES)[:, 1], 0.7))
    spec = perceptron([model.coefs_[0] / SCALES[:, None], *model.coefs_[1:]], model.intercepts_, "RELU", LABELS)
    metadata = spec.description.metadata
    metadata.shortDescription = "Backhaul example: will this user buy the upgrade when asked now?"
    metadata.userDefined.update({"inputs": ",".join(SIGNALS), "threshold": f"{threshold:.4f}", "explore": "0.05"})
    (HERE / "upsell-network.mlmodel").write_bytes(spec.SerializeToString(deterministic=True))
    sample = rows[15_000 : 15_000 + ROWS]
    answers = model.predict_proba(sample / SCALES)
    return {"name": "upsell-network", "file": "upsell-network.mlmodel", **expected(LABELS, sample, answers)}


def perceptrons() -> list[dict[str, Any]]:
    """Return scikit-learn's perceptrons for three labels."""
    found = []
    for name, kind in (("relu", "RELU"), ("tanh", "TANH"), ("logistic", "SIGMOID")):
        model, inputs, labels = fitted(name)
        spec = perceptron(model.coefs_, model.intercepts_, kind, labels)
        found.append(inside(f"perceptron {name}", spec, expected(labels, inputs, model.predict_proba(inputs))))
    return found


def quantized() -> list[dict[str, Any]]:
    """Return one perceptron with weights of 16 bits, of 8 bits, and of 8 bits by a table."""
    model, inputs, labels = fitted("relu")
    found = []
    for name, bits, mode in (("float16", 16, "linear"), ("8 bits", 8, "linear"), ("table", 8, "linear_lut")):
        whole = perceptron(model.coefs_, model.intercepts_, "RELU", labels)
        with contextlib.redirect_stdout(io.StringIO()):
            spec = quantize_weights(MLModel(whole, skip_model_load=True), bits, mode).get_spec()
        found.append(inside(name, spec, expected(labels, inputs, forward(spec, inputs))))
    return found


def activated() -> list[dict[str, Any]]:
    """Return a small network for each activation."""
    dice = np.random.default_rng(SEED + 2)
    first, second = (dice.normal(size=size).astype(np.float32) for size in ((4, 3), (2, 4)))
    offset = np.array([0.5, -0.25, 0.0, 0.125], dtype=np.float32)
    inputs = dice.normal(size=(ROWS // 4, 3)).astype(np.float32).astype(np.float64)
    found = []
    for kind, (parameters, formula) in ACTIVATIONS.items():
        builder = network(3, LABELS)
        dense(builder, "dense", first, offset, "input")
        builder.add_activation("activation", kind, "dense", "activation", parameters)
        dense(builder, "odds", second, None, "activation")
        builder.add_softmax("softmax", "odds", "probabilities")
        answers = softmax(formula(inputs @ first.T.astype(float) + offset) @ second.T.astype(float))
        found.append(inside(f"activation {kind}", builder.spec, expected(LABELS, inputs, answers)))
    return found


def functions() -> list[dict[str, Any]]:
    """Return a small network for each function of one value, of values that it can take."""
    inputs = np.random.default_rng(SEED + 5).uniform(-1, 1, size=(ROWS // 4, 2)).astype(np.float32).astype(np.float64)
    found = []
    for kind, (formula, positive) in FUNCTIONS.items():
        builder = network(2, LABELS)
        shift = 2.0 if positive else 0.25
        builder.add_unary("unary", "input", "unary", kind, 0.25 if kind == "threshold" else 1.5, shift, 0.5, 1e-3)
        builder.add_softmax("softmax", "unary", "probabilities")
        answers = softmax(formula(0.5 * inputs + shift))
        found.append(inside(f"function {kind}", builder.spec, expected(LABELS, inputs, answers)))
    return found


def joined() -> list[dict[str, Any]]:
    """Return a network of two branches for each way of joining them."""
    dice = np.random.default_rng(SEED + 6)
    left, right = (dice.normal(size=(4, 3)).astype(np.float32) for _ in range(2))
    inputs = dice.normal(size=(ROWS // 4, 3)).astype(np.float32).astype(np.float64)
    found = []
    for kind, formula in JOINS.items():
        builder = network(3, LABELS)
        dense(builder, "left", left, None, "input")
        builder.add_activation("tanh", "TANH", "left", "tanh")
        dense(builder, "right", right, None, "input")
        builder.add_elementwise("joined", ["tanh", "right"], "joined", kind)
        values = formula(np.tanh(inputs @ left.T.astype(float)), inputs @ right.T.astype(float))
        odds = np.linspace(-1, 1, 2 * values.shape[1]).reshape(2, -1)
        dense(builder, "odds", odds, None, "joined")
        builder.add_softmax("softmax", "odds", "probabilities")
        answers = softmax(values @ odds.astype(np.float32).T.astype(float))
        found.append(inside(f"joined {kind}", builder.spec, expected(LABELS, inputs, answers)))
    return found


def residual() -> dict[str, Any]:
    """Return a wide and deep network: the input goes around two layers, with constants and a flattening on the way."""
    dice = np.random.default_rng(SEED + 7)
    first, second = (dice.normal(size=size).astype(np.float32) for size in ((3, 3), (2, 6)))
    inputs = dice.normal(size=(ROWS // 4, 3)).astype(np.float32).astype(np.float64)
    builder = network(3, LABELS)
    builder.add_flatten("flat", 0, "input", "flat")
    dense(builder, "first", first, None, "flat")
    builder.add_elementwise("half", ["first"], "half", "MULTIPLY", alpha=0.5)
    builder.add_elementwise("more", ["half"], "more", "ADD", alpha=0.25)
    builder.add_elementwise("around", ["input", "more"], "around", "ADD")
    builder.add_activation("relu", "RELU", "around", "relu")
    builder.add_elementwise("wide", ["input", "relu"], "wide", "CONCAT")
    dense(builder, "odds", second, None, "wide")
    builder.add_softmax("softmax", "odds", "probabilities")
    deep = np.maximum(0, inputs + inputs @ first.T.astype(float) * 0.5 + 0.25)
    answers = softmax(np.hstack([inputs, deep]) @ second.T.astype(float))
    return inside("residual", builder.spec, expected(LABELS, inputs, answers))


def scaled() -> dict[str, Any]:
    """Return a network that scales, shifts and normalises first."""
    builder = network(3, LABELS)
    scale, shift = np.array([0.5, 2.0, 1.0]), np.array([0.25, 0.0, -1.0])
    builder.add_scale("scale", scale, shift, True, "input", "scale", shape_scale=[3], shape_bias=[3])
    builder.add_bias("bias", np.array([0.5]), "scale", "bias", shape_bias=[1])
    terms = {"gamma": [1.0, 0.5, 2.0], "beta": [0.0, 0.25, 0.5], "mean": [0.5, -0.5, 0.0], "variance": [1.0, 4.0, 0.25]}
    gamma, beta, mean, variance = (np.array(each) for each in terms.values())
    builder.add_batchnorm("norm", 3, gamma, beta, mean, variance, "bias", "norm", epsilon=1e-3)
    weight = np.array([[1.0, -1.0, 0.5], [0.25, 1.0, -0.5]])
    dense(builder, "odds", weight, None, "norm")
    builder.add_softmax("softmax", "odds", "probabilities")
    inputs = np.random.default_rng(SEED + 3).normal(size=(ROWS // 4, 3)).astype(np.float32).astype(np.float64)
    normal = (inputs * scale + shift + 0.5 - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    return inside("scale, bias, batchnorm", builder.spec, expected(LABELS, inputs, softmax(normal @ weight.T)))


def plain() -> dict[str, Any]:
    """Return a network that is no classifier: the one value it gives is a probability."""
    builder = NeuralNetworkBuilder([("input", Array(2))], [("Purchased", Array(1))])
    weight = np.array([[1.5, -0.5]])
    dense(builder, "dense", weight, np.array([0.25]), "input")
    builder.add_activation("sigmoid", "SIGMOID", "dense", "Purchased")
    inputs = np.random.default_rng(SEED + 4).normal(size=(ROWS // 4, 2)).astype(np.float32).astype(np.float64)
    return inside("plain", builder.spec, expected(["Purchased"], inputs, 1 / (1 + np.exp(-inputs @ weight.T - 0.25))))


def fitted(activation: str) -> tuple[MLPClassifier, Values, list[str]]:
    """Return a perceptron for three labels, inputs that are exact in float32, and the labels."""
    dice = np.random.default_rng(SEED + 1)
    inputs = dice.normal(size=(400, 5)).astype(np.float32).astype(np.float64)
    three = np.digitize(inputs[:, 0] - inputs[:, 3] * inputs[:, 1], [-0.6, 0.7])
    model = MLPClassifier((16, 8), activation=activation, random_state=SEED, max_iter=100)
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        model.fit(inputs, three)
    return model, inputs[:ROWS], [f"class {label}" for label in model.classes_]


def network(width: int, labels: list[str]) -> NeuralNetworkBuilder:
    """Return a classifier without layers."""
    outputs = [("probabilities", Dictionary(String))]
    builder = NeuralNetworkBuilder([("input", Array(width))], outputs, mode="classifier")
    builder.set_class_labels(labels, predicted_feature_name="classLabel", prediction_blob="probabilities")
    return builder


def perceptron(weights: list[Values], offsets: list[Values], kind: str, labels: list[str]) -> Any:
    """Return the file of dense layers with an activation between them and a softmax at the end."""
    builder, blob = network(len(weights[0]), labels), "input"
    if weights[-1].shape[1] == 1:  # only the second label's odds: those of the first are 0
        weights = [*weights[:-1], np.hstack([np.zeros_like(weights[-1]), weights[-1]])]
        offsets = [*offsets[:-1], np.array([0.0, *offsets[-1]])]
    for i, (weight, offset) in enumerate(zip(weights, offsets, strict=True)):
        dense(builder, f"dense {i}", weight.T, offset, blob)
        blob = f"dense {i}"
        if i < len(weights) - 1:
            builder.add_activation(f"activation {i}", kind, blob, f"activation {i}")
            blob = f"activation {i}"
    builder.add_softmax("softmax", blob, "probabilities")
    return builder.spec


def dense(builder: NeuralNetworkBuilder, name: str, weight: Values, offset: Values | None, blob: str) -> None:
    outputs, inputs = weight.shape
    builder.add_inner_product(name, weight, offset, inputs, outputs, offset is not None, blob, name)


def forward(spec: Any, inputs: Values) -> Values:
    """Return what dense layers with ReLU between them and a softmax at the end make of the inputs."""
    values = inputs
    for layer in spec.neuralNetworkClassifier.layers:
        if layer.HasField("innerProduct"):
            terms = layer.innerProduct
            values = values @ unpacked(terms.weights, (terms.outputChannels, terms.inputChannels)).T
            values = values + unpacked(terms.bias, (terms.outputChannels,))
        elif layer.HasField("activation"):
            values = np.maximum(values, 0)
    return softmax(values)


def unpacked(weights: Any, shape: tuple[int, ...]) -> Values:
    if weights.HasField("quantization"):
        weights = copy.deepcopy(weights)
        _dequantize_wp(weights, shape)  # in place
    halves = np.frombuffer(weights.float16Value, dtype=np.float16)
    return (halves if len(halves) else np.array(weights.floatValue)).astype(np.float64).reshape(shape)


def softmax(values: Values) -> Values:
    odds = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True))


def expected(labels: list[str], inputs: Values, answers: Values) -> dict[str, Any]:
    return {"labels": labels, "inputs": inputs.tolist(), "probabilities": answers.tolist()}


def inside(name: str, spec: Any, answers: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "base64": base64.b64encode(spec.SerializeToString(deterministic=True)).decode(), **answers}


if __name__ == "__main__":
    main()
