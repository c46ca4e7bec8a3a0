"""Neural networks in the evaluator: against scikit-learn and numpy, and against files made to break it."""

import base64
import json
import math
import random
import struct
from pathlib import Path
from typing import Any, Final

import pytest

from gateway.client.fleet.shoppers import SIGNALS
from gateway.client.runtimes import BadModel, Model, PredictionFailed
from gateway.client.runtimes.coreml import CoreMLRuntime
from gateway.client.runtimes.network import MAX_LAYERS, MAX_WEIGHTS
from gateway.releases.artifact import judge
from gateway.releases.errors import BadArtifact
from gateway.releases.facts import coreml_facts

MODELS: Final = Path(__file__).parents[1] / "models"
EXPECTED: Final[list[dict[str, Any]]] = json.loads((MODELS / "networks.json").read_text())
RELU, TANH, SIGMOID, PRELU = 10, 30, 40, 25


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def chunk(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def floats(*values: float) -> bytes:
    return chunk(1, struct.pack(f"<{len(values)}f", *values))


def layer(kind: int, body: bytes, reads: str, gives: str) -> bytes:
    return chunk(1, chunk(1, gives) + chunk(2, reads) + chunk(3, gives) + chunk(kind, body))


def dense(weights: bytes, inputs: int = 2, outputs: int = 2, *, reads: str = "input", gives: str = "odds") -> bytes:
    return layer(140, number(1, inputs) + number(2, outputs) + chunk(20, weights), reads, gives)


def softmax(reads: str = "odds", gives: str = "probabilities") -> bytes:
    return layer(175, b"", reads, gives)


EVEN: Final = floats(1.0, 0.0, 0.0, 1.0)


def classifier(layers: bytes, *, names: int = 2, blob: str = "", reads: str = "input", width: int = 2) -> bytes:
    array = chunk(5, chunk(1, varint(width)) + number(2, 65600))
    description = chunk(1, chunk(1, reads) + chunk(3, array))
    description += chunk(10, chunk(1, "classLabel")) + chunk(10, chunk(1, "probabilities"))
    description += chunk(11, "classLabel") + chunk(12, "probabilities")
    labels = chunk(100, b"".join(chunk(1, name) for name in "abcdefgh"[:names]))
    body = layers + labels + (chunk(200, blob) if blob else b"")
    return number(1, 1) + chunk(2, description) + chunk(403, body)


def plain(layers: bytes, *, output: str = "odds", labels: str = "") -> bytes:
    array = chunk(5, chunk(1, varint(2)) + number(2, 65600))
    description = chunk(1, chunk(1, "input") + chunk(3, array)) + chunk(10, chunk(1, output))
    if labels:
        description += chunk(100, chunk(100, chunk(1, "labels") + chunk(2, labels)))
    return number(1, 1) + chunk(2, description) + chunk(500, layers)


def load(data: bytes) -> Model:
    return CoreMLRuntime().load(data)


def content(entry: dict[str, Any]) -> bytes:
    return base64.b64decode(entry["base64"]) if "base64" in entry else (MODELS / entry["file"]).read_bytes()


@pytest.mark.parametrize("entry", EXPECTED, ids=lambda entry: entry["name"])
def test_every_answer_of_a_network_is_the_makers_to_six_digits(entry: dict[str, Any]) -> None:
    model = load(content(entry))
    assert list(model.labels) == entry["labels"]
    assert len({round(row[0], 3) for row in entry["probabilities"]}) > 5, "the inputs make a difference"
    for row, probabilities in zip(entry["inputs"], entry["probabilities"], strict=True):
        answer = model.predict(row)
        assert list(answer) == entry["labels"]
        assert list(answer.values()) == pytest.approx(probabilities, rel=0, abs=1e-6)


def test_a_network_is_published_with_golden_vectors_like_any_other_model() -> None:
    data = (MODELS / "upsell-network.mlmodel").read_bytes()
    artifact = judge(data, "mlmodel", inputs=[], probes=[])
    assert artifact.inputs == list(SIGNALS)
    assert len(artifact.probes) == 5
    assert coreml_facts(data, ["Dismissed", "Purchased"]).type == "neural network classifier"


def test_labels_of_a_network_that_is_no_classifier_stand_in_its_metadata() -> None:
    model = load(plain(dense(EVEN) + softmax(), output="probabilities", labels="no, yes"))
    assert model.predict([0.0, math.log(3.0)]) == pytest.approx({"no": 0.25, "yes": 0.75})


def test_weights_of_eight_bits_are_scaled_for_each_row() -> None:
    linear = chunk(101, floats(0.5, 0.25) + chunk(2, struct.pack("<2f", -1.0, 0.0)))
    weights = chunk(30, bytes([4, 2, 8, 0])) + chunk(40, number(1, 8) + linear)
    model = load(classifier(dense(weights) + softmax()))
    assert model.predict([1.0, 1.0])["b"] == pytest.approx(1 / (1 + math.exp(1.0 + 0.0 - 2.0)))


def test_a_number_that_is_none_stays_none_through_a_relu() -> None:
    hidden = layer(130, chunk(RELU, b""), "odds", "hidden")
    model = load(classifier(dense(EVEN) + hidden + softmax("hidden")))
    with pytest.raises(PredictionFailed):
        model.predict([math.nan, 0.0])


NOT_FINITE: Final = floats(1.0, 0.0, 0.0, math.inf)
QUANTIZED: Final = bytes([1, 2, 3, 4])


@pytest.mark.parametrize(
    "data",
    [
        classifier(b""),
        classifier(softmax("input")[:-1]),
        classifier(dense(EVEN) + softmax("elsewhere")),
        classifier(dense(EVEN, reads="elsewhere") + softmax()),
        classifier(dense(EVEN) + softmax(), reads="other"),
        classifier(dense(EVEN) + softmax(), blob="elsewhere"),
        classifier(dense(EVEN) + softmax(), names=3),
        classifier(dense(floats(1.0)) + softmax()),
        classifier(dense(EVEN, inputs=3) + softmax()),
        classifier(dense(EVEN, outputs=0) + softmax()),
        classifier(dense(EVEN, outputs=2**62) + softmax()),
        classifier(dense(b"") + softmax()),
        classifier(dense(EVEN + chunk(2, bytes(8))) + softmax()),
        classifier(dense(NOT_FINITE) + softmax()),
        classifier(dense(chunk(2, b"1234567")) + softmax()),
        classifier(dense(chunk(1, b"1234567")) + softmax()),
        classifier(dense(chunk(30, QUANTIZED)) + softmax()),
        classifier(
            dense(chunk(30, QUANTIZED) + chunk(40, number(1, 8) + chunk(101, b"") + chunk(102, b""))) + softmax()
        ),
        classifier(dense(chunk(30, QUANTIZED) + chunk(40, number(1, 4) + chunk(101, floats(1.0)))) + softmax()),
        classifier(dense(chunk(30, QUANTIZED) + chunk(40, number(1, 8) + chunk(101, floats(1, 2, 3)))) + softmax()),
        classifier(dense(chunk(30, QUANTIZED) + chunk(40, number(1, 8) + chunk(102, floats(1.0)))) + softmax()),
        classifier(chunk(2, b"x") + dense(EVEN) + softmax()),
        classifier(layer(100, b"", "input", "odds") + softmax()),
        classifier(layer(130, chunk(PRELU, b""), "input", "odds") + softmax()),
        classifier(layer(130, chunk(RELU, b"") + chunk(TANH, b""), "input", "odds") + softmax()),
        classifier(layer(130, b"", "input", "odds") + softmax()),
        classifier(layer(160, number(1, 2), "input", "odds") + softmax()),
        classifier(layer(160, number(1, 2) + number(5, 1), "input", "odds") + softmax()),
        classifier(layer(245, chunk(1, varint(3)) + chunk(2, floats(1, 2, 3)), "input", "odds") + softmax()),
        classifier(softmax("input", "odds") * (MAX_LAYERS + 1)),
        plain(dense(EVEN)),
        plain(dense(EVEN), labels="a"),
        plain(dense(EVEN), labels="a,a"),
        plain(dense(EVEN), output="other", labels="a,b"),
        plain(dense(floats(1.0, 0.0), outputs=1) + softmax(), output="probabilities"),
    ],
    ids=range(35),
)
def test_a_network_that_makes_no_sense_is_a_bad_model(data: bytes) -> None:
    with pytest.raises(BadModel):
        load(data)


def blob(kind: int, body: bytes, *reads: str, gives: str = "odds") -> bytes:
    return chunk(1, chunk(1, gives) + b"".join(chunk(2, read) for read in reads) + chunk(3, gives) + chunk(kind, body))


ADD, MAX, MIN, CONCAT, UNARY = 230, 260, 261, 320, 220


@pytest.mark.parametrize(
    ("layers", "why"),
    [
        (layer(100, b"", "input", "odds"), "layer 'odds' is a convolution, which devices do not evaluate"),
        (layer(420, b"", "input", "odds"), "an LSTM"),
        (layer(790, b"", "input", "odds"), r"of kind \[790\], which devices do not evaluate"),
        (blob(140, b"", "input", "input"), "reads 2 vectors where it takes one"),
        (blob(ADD, b"", "input", "later"), r"where there are \['input'\]"),
        (blob(ADD, b""), r"a layer from \[\]"),
        (
            dense(floats(*range(6)), outputs=3, gives="three") + blob(ADD, b"", "input", "three"),
            r"\[2, 3\] values are joined",
        ),
        (blob(CONCAT, number(100, 1), "input", "input"), "a concatenation of sequences"),
        (blob(UNARY, number(1, 9), "input"), "function 9 of one value"),
        (layer(130, chunk(PRELU, chunk(1, floats(1.0, 2.0, 3.0))), "input", "odds"), "3 weights where 2"),
    ],
    ids=range(10),
)
def test_what_a_device_does_not_evaluate_is_refused_by_its_name(layers: bytes, why: str) -> None:
    with pytest.raises(BadModel, match=why):
        load(classifier(layers + softmax()))
    with pytest.raises(BadArtifact, match=why):
        judge(classifier(layers + softmax()), "mlmodel", inputs=["a", "b"], probes=[])


def test_concatenations_cannot_grow_without_end() -> None:
    doubled = b"".join(blob(CONCAT, b"", "odds", "odds") for _ in range(MAX_LAYERS - 2))
    with pytest.raises(BadModel, match="values"):
        load(classifier(blob(CONCAT, b"", "input") + doubled + softmax()))


@pytest.mark.parametrize("kind", [ADD, MAX, MIN])
def test_what_is_no_number_stays_none_where_branches_join(kind: int) -> None:
    model = load(classifier(dense(EVEN, gives="same") + blob(kind, b"", "input", "same") + softmax()))
    assert sum(model.predict([1.0, 2.0]).values()) == pytest.approx(1.0)
    with pytest.raises(PredictionFailed):
        model.predict([math.nan, 0.0])


def test_a_function_that_has_no_answer_for_an_input_fails_the_prediction() -> None:
    model = load(classifier(blob(UNARY, number(1, 5), "input") + softmax()))
    assert model.predict([1.0, math.e]) == pytest.approx({"a": 1 / (1 + math.e), "b": math.e / (1 + math.e)})
    with pytest.raises(PredictionFailed):
        model.predict([-1.0, 1.0])


def test_a_network_has_only_so_many_weights() -> None:
    half = MAX_WEIGHTS // 6
    wide = dense(floats(*[0.0] * (2 * half)), outputs=half)
    narrow = dense(floats(*[0.0] * (2 * half)), inputs=half, reads="odds", gives="few")
    load(classifier(wide + narrow + softmax("few")))
    more = dense(floats(*[0.0] * (2 * half)), outputs=half, reads="few", gives="many")
    with pytest.raises(BadModel, match="weights"):
        load(classifier(wide + narrow + more + softmax("many")))


def test_a_damaged_network_is_refused_or_still_answers() -> None:
    dice = random.Random("networks")  # noqa: S311 - a seeded draw
    refused = 0
    for entry in EXPECTED:
        whole = content(entry)
        for _ in range(25):
            data = bytearray(whole)
            at = dice.randrange(len(data))
            data[at : at + dice.randrange(2)] = dice.randbytes(dice.randrange(4))
            try:
                model = load(bytes(data))
                model.predict([0.5] * model.input_size)
            except (BadModel, PredictionFailed):
                refused += 1
    assert refused > 100
