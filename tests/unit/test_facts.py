"""What files say of themselves: Core ML models from the converter, and ONNX models written byte by byte."""

import random
from hashlib import sha256
from pathlib import Path
from typing import Final

import pytest

from gateway.client.runtimes import BadModel
from gateway.client.runtimes.coreml import CoreMLRuntime
from gateway.releases.artifact import inspect, judge
from gateway.releases.errors import BadArtifact
from gateway.releases.facts import OLDEST_IOS, Feature
from gateway.releases.onnx import onnx_facts

COREML: Final = (Path(__file__).parents[1] / "models" / "upsell-1.mlmodel").read_bytes()
FLOAT, INT64, STRING = 1, 7, 8


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


def tensor(element: int, *sizes: int | str) -> bytes:
    dimensions = [chunk(2, size) if isinstance(size, str) else number(1, size) for size in sizes]
    return chunk(1, number(1, element) + chunk(2, b"".join(chunk(1, each) for each in dimensions)))


def value(name: str, kind: bytes) -> bytes:
    return chunk(1, name) + chunk(2, kind)


INPUT: Final = chunk(11, value("features", tensor(FLOAT, "N", 2)))
LABEL: Final = chunk(12, value("label", tensor(STRING, "N")))
# A list of dictionaries from label to probability, as scikit-learn's converter makes it.
ODDS: Final = chunk(12, value("odds", chunk(4, chunk(1, chunk(5, number(1, STRING) + chunk(2, tensor(FLOAT)))))))
NODE: Final = chunk(1, chunk(1, "features") + chunk(2, "label") + chunk(4, "TreeEnsembleClassifier"))
OPSETS: Final = chunk(8, number(2, 17)) + chunk(8, chunk(1, "ai.onnx.ml") + number(2, 3))


def graph(*fields: bytes) -> bytes:
    return chunk(7, b"".join(fields))


def onnx(*fields: bytes, metadata: dict[str, str] | None = None) -> bytes:
    said = b"".join(chunk(14, chunk(1, key) + chunk(2, text)) for key, text in (metadata or {}).items())
    return number(1, 8) + chunk(2, "by hand") + graph(NODE, *(fields or (INPUT, LABEL, ODDS))) + OPSETS + said


def test_a_core_ml_model_is_described() -> None:
    facts = inspect(COREML, "mlmodel")
    assert facts is not None
    assert (facts.type, facts.specification, facts.os) == ("tree ensemble classifier", 1, "iOS >=11")
    assert facts.inputs == [Feature("input", "array of float64", [2])]
    assert [output.type for output in facts.outputs] == ["string", "dictionary of string to float64"]
    assert facts.labels == ["Dismissed", "Purchased"]


@pytest.mark.parametrize(("version", "oldest"), OLDEST_IOS.items())
def test_the_specification_version_says_which_ios_is_needed(version: int, oldest: str) -> None:
    changed = number(1, version) + COREML.removeprefix(b"\x08\x01")
    assert judge(changed, "mlmodel", inputs=["a", "b"], probes=[]).os == f"iOS >={oldest}"


def test_a_specification_version_that_no_known_ios_reads_is_refused() -> None:
    with pytest.raises(BadArtifact, match="specification version 11: no published iOS"):
        judge(number(1, 11) + COREML.removeprefix(b"\x08\x01"), "mlmodel", inputs=["a", "b"], probes=[])


def test_an_onnx_model_is_described_from_its_bytes() -> None:
    facts = onnx_facts(onnx())
    assert facts.inputs == [Feature("features", "tensor(float)", ["N", 2])]
    assert facts.outputs == [
        Feature("label", "tensor(string)", ["N"]),
        Feature("odds", "seq(map(string,tensor(float)))"),
    ]
    assert (facts.ir, facts.opsets, facts.os) == (8, {"ai.onnx": 17, "ai.onnx.ml": 3}, "")


def test_weights_that_stand_among_the_inputs_are_none() -> None:
    weights = chunk(5, number(2, FLOAT) + chunk(8, "W")) + chunk(11, value("W", tensor(FLOAT, 2)))
    assert [each.name for each in onnx_facts(onnx(weights, INPUT, LABEL)).inputs] == ["features"]


@pytest.mark.parametrize("size", [2**64 - 1, 2**63])
def test_a_negative_size_is_not_fixed(size: int) -> None:
    facts = onnx_facts(onnx(chunk(11, value("x", tensor(INT64, size, 3))), LABEL))
    assert facts.inputs == [Feature("x", "tensor(int64)", ["?", 3])]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"not protocol buffers", "ONNX"),
        (COREML, "ONNX"),
        (graph(NODE, INPUT, LABEL) + OPSETS, "no IR version"),
        (number(1, 8) + graph(NODE, INPUT, LABEL), "no operator set"),
        (number(1, 8) + OPSETS, "no graph"),
        (number(1, 8) + graph(INPUT, LABEL) + OPSETS, "no graph with nodes"),
        (onnx(INPUT), "no graph with nodes and outputs"),
        (onnx(INPUT, INPUT, LABEL), "without a name of its own"),
        (onnx(chunk(11, value("", tensor(FLOAT, 2))), LABEL), "without a name of its own"),
        (onnx(chunk(11, chunk(1, "x")), LABEL), "without a type"),
        (onnx(chunk(11, value("x", tensor(99, 2))), LABEL), "element type 99"),
        (onnx(chunk(11, value("x", tensor(FLOAT, *[1] * 65))), LABEL), "65 dimensions"),
        (onnx(chunk(5, chunk(8, "W") + number(14, 1)), INPUT, LABEL), "weights in another file"),
        (onnx()[:-1], "cut short"),
    ],
)
def test_what_is_no_onnx_model_is_refused(data: bytes, why: str) -> None:
    with pytest.raises(BadArtifact, match=why):
        judge(data, "onnx", inputs=[], probes=[])


def test_types_nested_without_end_are_refused() -> None:
    kind = tensor(FLOAT)
    for _ in range(5_000):
        kind = chunk(4, chunk(1, kind))
    with pytest.raises(BadModel, match="too deep"):
        onnx_facts(onnx(INPUT, chunk(12, value("y", kind))))


def test_damaged_onnx_bytes_end_in_a_description_or_a_refusal() -> None:
    dice, whole = random.Random(7), onnx()  # noqa: S311 - a seeded draw, no secret
    for _ in range(3_000):
        damaged = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            damaged[dice.randrange(len(damaged))] = dice.randrange(256)
        try:
            onnx_facts(bytes(damaged))
        except BadModel:
            continue


def test_an_onnx_release_takes_its_inputs_from_its_metadata() -> None:
    data = onnx(metadata={"inputs": "battery_level, charging", "threshold": "0.6"})
    artifact = judge(data, "onnx", inputs=[], probes=[])
    assert (artifact.format, artifact.sha256, artifact.os) == ("onnx", sha256(data).hexdigest(), "")
    assert artifact.inputs == ["battery_level", "charging"]
    assert artifact.metadata["threshold"] == "0.6"


def test_a_graph_of_single_values_names_its_inputs_itself() -> None:
    one, two = (chunk(11, value(name, tensor(FLOAT, "N", 1))) for name in ("battery_level", "charging"))
    assert judge(onnx(one, two, LABEL), "onnx", inputs=[], probes=[]).inputs == ["battery_level", "charging"]


@pytest.mark.parametrize("names", [["one"], ["one", "two", "three"]])
def test_as_many_inputs_are_named_as_an_onnx_model_takes(names: list[str]) -> None:
    with pytest.raises(BadArtifact, match="takes 2 values but"):
        judge(onnx(), "onnx", inputs=names, probes=[])
    free = onnx(chunk(11, value("x", tensor(FLOAT, "N", "M"))), LABEL)
    assert judge(free, "onnx", inputs=names, probes=[]).inputs == names


def test_the_built_in_runtime_does_not_run_onnx_and_says_what_to_do() -> None:
    with pytest.raises(BadModel):
        CoreMLRuntime().load(onnx())
    with pytest.raises(BadArtifact, match="it is an ONNX model: say --format onnx"):
        judge(onnx(), "mlmodel", inputs=["a", "b"], probes=[])
