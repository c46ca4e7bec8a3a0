"""The evaluator against scikit-learn's own answers, and against files made to break it."""

import base64
import json
import math
import random
import struct
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.fleet.shoppers import SIGNALS, first_moment, next_moment, purchase_probability
from gateway.client.runtimes import BadModel, Model, PredictionFailed, Runtime
from gateway.client.runtimes.coreml import CoreMLRuntime
from gateway.client.runtimes.protobuf import MAX_FIELDS, Message
from gateway.client.runtimes.trees import MAX_TREE_DEPTH

MODELS: Final = Path(__file__).parents[1] / "models"
EXPECTED: Final[dict[str, Any]] = json.loads((MODELS / "expected.json").read_text())
LESS_EQUAL, LESS, GREATER_EQUAL, GREATER, EQUAL, NOT_EQUAL, LEAF = range(7)
NO_TRANSFORM, SOFTMAX, LOGISTIC, SOFTMAX_ZERO = range(4)

Node = tuple[int, bytes]


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def double(field: int, value: float) -> bytes:
    return varint(field << 3 | 1) + struct.pack("<d", value)


def chunk(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(data)) + data


def packed(field: int, *values: float) -> bytes:
    return chunk(field, struct.pack(f"<{len(values)}d", *values))


def branch(tree: int, node: int, mode: int, feature: int, value: float, yes: int, no: int, missing: int = 0) -> bytes:
    place = number(1, tree) + number(2, node) + number(3, mode) + number(10, feature) + double(11, value)
    return chunk(1, place + number(12, yes) + number(13, no) + number(14, missing))


def leaf(tree: int, node: int, *values: float) -> bytes:
    adds = b"".join(chunk(20, number(1, i) + double(2, value)) for i, value in enumerate(values))
    return chunk(1, number(1, tree) + number(2, node) + number(3, LEAF) + adds)


def described(kind: int, body: bytes, width: int = 1, array_type: int = 65600) -> bytes:
    array = chunk(5, chunk(1, varint(width)) + number(2, array_type))
    description = chunk(1, chunk(1, "input") + chunk(3, array))
    description += chunk(10, chunk(1, "classLabel")) + chunk(10, chunk(1, "classProbability"))
    description += chunk(11, "classLabel") + chunk(12, "classProbability")
    return number(1, 1) + chunk(2, description) + chunk(kind, body)


def labels(*names: str) -> bytes:
    return chunk(100, b"".join(chunk(1, name) for name in names))


def ensemble(
    nodes: bytes, *, transform: int = NO_TRANSFORM, dimensions: int = 1, start: tuple[float, ...] = (), names: int = 2
) -> bytes:
    body = chunk(1, nodes + number(2, dimensions) + (packed(3, *start) if start else b"")) + number(2, transform)
    return described(402, body + labels(*"abcdefgh"[:names]))


def glm(rows: list[list[float]], offsets: list[float], *, link: int = 0, encoding: int = 0, names: int = 2) -> bytes:
    weights = b"".join(chunk(1, packed(1, *row)) for row in rows)
    body = weights + packed(2, *offsets) + number(3, link) + number(4, encoding)
    return described(400, body + labels(*"abcdefgh"[:names]), width=len(rows[0]))


def load(data: bytes) -> Model:
    runtime: Runtime = CoreMLRuntime()
    return runtime.load(data)


def content(entry: dict[str, Any]) -> bytes:
    return base64.b64decode(entry["base64"]) if "base64" in entry else (MODELS / entry["file"]).read_bytes()


@pytest.mark.parametrize("entry", EXPECTED["models"], ids=lambda entry: entry["name"])
def test_every_answer_is_scikit_learns_to_twelve_digits(entry: dict[str, Any]) -> None:
    model = load(content(entry))
    assert list(model.labels) == entry["labels"]
    assert model.input_size == len(entry["inputs"][0])
    for row, probabilities in zip(entry["inputs"], entry["probabilities"], strict=True):
        answer = model.predict(row)
        assert list(answer) == entry["labels"]
        assert list(answer.values()) == pytest.approx(probabilities, rel=0, abs=1e-12)


@pytest.mark.parametrize(("name", "width"), [("upsell-1", 2), ("upsell-2", 4)])
def test_the_example_models_are_small_and_say_what_they_take(name: str, width: int) -> None:
    data = (MODELS / f"{name}.mlmodel").read_bytes()
    metadata = load(data).metadata
    assert len(data) < 8192
    assert metadata["inputs"].split(",") == list(SIGNALS[:width])
    assert 0.0 < float(metadata["threshold"]) < 1.0
    assert metadata["explore"] == "0.05"


def test_the_second_model_sells_to_more_of_those_it_asks() -> None:
    dice = random.Random(5)  # noqa: S311 - a seeded draw
    sold = {}
    for name, width in (("upsell-1", 2), ("upsell-2", 4)):
        model = load((MODELS / f"{name}.mlmodel").read_bytes())
        threshold = float(model.metadata["threshold"])
        moments = [next_moment(first_moment(dice), dice) for _ in range(2000)]
        asked = [m for m in moments if model.predict(m[:width])["Purchased"] >= threshold]
        sold[name] = sum(map(purchase_probability, asked)) / len(asked)
    assert sold["upsell-2"] > 1.2 * sold["upsell-1"]


@pytest.mark.parametrize(
    ("mode", "below", "same", "above"),
    [
        (LESS_EQUAL, 1, 1, 0),
        (LESS, 1, 0, 0),
        (GREATER_EQUAL, 0, 1, 1),
        (GREATER, 0, 0, 1),
        (EQUAL, 0, 1, 0),
        (NOT_EQUAL, 1, 0, 1),
    ],
)
def test_each_comparison_branches_as_it_is_named(mode: int, below: float, same: float, above: float) -> None:
    model = load(ensemble(branch(0, 0, mode, 0, 0.5, 1, 2) + leaf(0, 1, 1.0) + leaf(0, 2, 0.0)))
    assert [model.predict([x])["b"] for x in (0.25, 0.5, 0.75)] == [below, same, above]


@pytest.mark.parametrize(("missing", "expected"), [(0, 0.0), (1, 1.0)])
def test_a_missing_value_goes_where_the_node_says(missing: int, expected: float) -> None:
    model = load(ensemble(branch(0, 0, LESS, 0, 0.5, 1, 2, missing) + leaf(0, 1, 1.0) + leaf(0, 2, 0.0)))
    assert model.predict([math.nan])["b"] == expected


def test_the_trees_and_the_base_value_add_up() -> None:
    model = load(ensemble(leaf(3, 7, 0.25) + leaf(9, 1, 0.5), start=(0.125,)))
    assert model.predict([0.0]) == {"a": 0.125, "b": 0.875}


def test_a_logistic_transform_turns_log_odds_into_a_probability() -> None:
    model = load(ensemble(leaf(0, 0, math.log(3.0)), transform=LOGISTIC))
    assert model.predict([0.0])["b"] == pytest.approx(0.75, abs=1e-15)


def test_a_softmax_weighs_every_label() -> None:
    model = load(ensemble(leaf(0, 0, 0.0, math.log(2.0), math.log(5.0)), transform=SOFTMAX, dimensions=3, names=3))
    assert list(model.predict([0.0]).values()) == pytest.approx([0.125, 0.25, 0.625], abs=1e-15)


def test_a_softmax_with_a_zero_reference_has_one_label_more_than_dimensions() -> None:
    model = load(ensemble(leaf(0, 0, math.log(2.0), math.log(5.0)), transform=SOFTMAX_ZERO, dimensions=2, names=3))
    assert list(model.predict([0.0]).values()) == pytest.approx([0.125, 0.25, 0.625], abs=1e-15)


def test_a_probit_link_is_the_normal_distribution() -> None:
    model = load(glm([[1.0]], [0.0], link=1))
    assert model.predict([1.959963984540054])["b"] == pytest.approx(0.975, abs=1e-12)


def test_log_odds_beyond_what_exp_can_hold_are_certainty() -> None:
    model = load(glm([[1.0]], [0.0]))
    assert model.predict([-1e6])["b"] == 0.0
    assert model.predict([1e6])["b"] == 1.0


def test_whole_number_labels_become_text() -> None:
    body = chunk(1, packed(1, 1.0)) + packed(2, 0.0) + chunk(101, chunk(1, varint(0) + varint(2**64 - 1)))
    assert list(load(described(400, body)).labels) == ["0", "-1"]


@pytest.mark.parametrize("inputs", [[], [1.0, 2.0], [math.nan], [math.inf]])
def test_inputs_that_give_no_probability_are_a_failed_prediction(inputs: list[float]) -> None:
    model = load(glm([[0.0]], [0.0]))
    with pytest.raises(PredictionFailed):
        model.predict(inputs)


def test_a_sum_that_is_no_probability_is_a_failed_prediction() -> None:
    with pytest.raises(PredictionFailed):
        load(ensemble(leaf(0, 0, 1.5))).predict([0.0])


def test_a_sum_just_outside_by_rounding_is_certainty() -> None:
    assert load(ensemble(leaf(0, 0, 1.0 + 4e-16))).predict([0.0]) == {"a": 0.0, "b": 1.0}


ONE: Final = leaf(0, 1, 1.0)
TWO: Final = leaf(0, 2, 0.0)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!DOCTYPE html>",
        ensemble(b""),
        ensemble(branch(0, 0, LESS, 0, 0.5, 0, 0)),
        ensemble(branch(0, 0, LESS, 0, 0.5, 1, 2) + ONE),
        ensemble(branch(0, 0, LESS, 0, 0.5, 1, 1) + ONE),
        ensemble(branch(0, 0, LESS, 0, 0.5, 1, 2) + ONE + TWO + TWO),
        ensemble(branch(0, 0, LESS, 0, 0.5, 1, 2) + ONE + TWO + leaf(0, 3, 1.0)),
        ensemble(branch(0, 0, LESS, 1, 0.5, 1, 2) + ONE + TWO),
        ensemble(branch(0, 0, LESS, 0, math.nan, 1, 2) + ONE + TWO),
        ensemble(branch(0, 0, 7, 0, 0.5, 1, 2) + ONE + TWO),
        ensemble(leaf(0, 0) + branch(0, 1, LESS, 0, 0.5, 2, 2) + branch(0, 2, LESS, 0, 0.5, 1, 1)),
        ensemble(leaf(0, 0, 1.0, 1.0)),
        ensemble(leaf(0, 0, 1.0), start=(0.0, 0.0)),
        ensemble(leaf(0, 0, 1.0), names=3),
        ensemble(leaf(0, 0, 1.0), transform=SOFTMAX),
        ensemble(leaf(0, 0, 1.0), transform=4),
        ensemble(leaf(0, 0, 1.0), dimensions=2**40),
        glm([[1.0, 2.0], [1.0]], [0.0, 0.0], encoding=1),
        glm([[1.0]], [0.0, 1.0]),
        glm([[1.0]], [0.0], link=2),
        glm([[1.0]], [0.0], names=1),
        glm([[1.0], [1.0]], [0.0, 0.0], names=3),
        described(402, b"", width=1),
        described(403, b""),
        described(400, chunk(1, packed(1, 1.0)) + packed(2, 0.0) + labels("a", "a")),
        described(400, chunk(1, packed(1, 1.0)) + packed(2, 0.0) + labels("a", "b"), array_type=65568),
        described(400, chunk(1, packed(1, 1.0)) + packed(2, 0.0) + labels("a", "b"), width=2**62),
        described(400, chunk(1, chunk(1, b"1234567")) + packed(2, 0.0) + labels("a", "b")),
        described(200, chunk(1, b"")),
        described(200, chunk(1, chunk(1, glm([[1.0]], [0.0])) * 40)),
        glm([[1.0]], [0.0]) + number(1, 1),
        glm([[1.0]], [0.0]) + b"\xff" * 11,
        glm([[1.0]], [0.0]) + b"\x0b",
        glm([[1.0]], [0.0])[:-1],
    ],
    ids=range(35),
)
def test_a_file_that_makes_no_sense_is_a_bad_model(data: bytes) -> None:
    with pytest.raises(BadModel):
        load(data)


def test_a_tree_is_only_so_deep() -> None:
    def chain(depth: int) -> bytes:
        nodes = [branch(0, 2 * i, LESS, 0, 0.5, 2 * i + 1, 2 * i + 2) + leaf(0, 2 * i + 1, 1.0) for i in range(depth)]
        return ensemble(b"".join(nodes) + leaf(0, 2 * depth, 0.0))

    assert load(chain(MAX_TREE_DEPTH)).predict([1.0])["b"] == 0.0
    with pytest.raises(BadModel, match="too deep"):
        load(chain(MAX_TREE_DEPTH + 1))


def test_a_message_has_only_so_many_fields() -> None:
    with pytest.raises(BadModel, match="fields"):
        Message(b"\x08\x00" * (MAX_FIELDS + 1))


def test_a_pipeline_inside_a_pipeline_inside_a_pipeline_is_a_bad_model() -> None:
    data = glm([[1.0]], [0.0])
    for _ in range(1000):
        data = described(200, chunk(1, chunk(1, data)))
    with pytest.raises(BadModel):
        load(data)


@pytest.mark.parametrize("name", ["upsell-1", "upsell-2", "scaled", "tree-3"])
def test_a_damaged_file_is_refused_or_still_answers(name: str) -> None:
    whole = content(next(entry for entry in EXPECTED["models"] if entry["name"] == name))
    dice = random.Random(name)  # noqa: S311 - a seeded draw
    refused = 0
    for _ in range(150):
        try:
            model = load(damaged(whole, dice))
            model.predict([0.5] * model.input_size)
        except (BadModel, PredictionFailed):
            refused += 1
    assert refused > 50


def damaged(whole: bytes, dice: random.Random) -> bytes:
    data = bytearray(whole)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(data))
        kind = dice.randrange(4)
        if kind == 0:
            data[at] = dice.randrange(256)
        elif kind == 1:
            del data[at : at + dice.randint(1, 40)]
        elif kind == 2:
            data[at:at] = dice.randbytes(dice.randint(1, 12))
        else:
            del data[max(at, 1) :]
    return bytes(data)


@given(st.binary(max_size=200))
def test_no_bytes_whatever_raise_anything_else(data: bytes) -> None:
    with pytest.raises(BadModel):
        load(data)
