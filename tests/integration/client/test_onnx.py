"""ONNX models on the device: against scikit-learn's own answers, and against files that are no classifiers."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from gateway.client import Bundled
from gateway.client.runtimes import BadModel, Model, PredictionFailed, Runtime
from gateway.releases.artifact import judge
from gateway.releases.errors import BadArtifact
from schemas.releases import Parameters, Probe

pytest.importorskip("onnxruntime", reason="ONNX Runtime is an extra: pip install 'backhaul[onnx]'")
from gateway.client.runtimes.onnx import OnnxRuntime

if TYPE_CHECKING:
    from tests.integration.client.conftest import World

MADE: Final[dict[str, Any]] = json.loads((Path(__file__).parents[2] / "models" / "onnx.json").read_text())
BY_NAME: Final = {entry["name"]: entry for entry in MADE["models"]}


def content(name: str) -> bytes:
    return base64.b64decode(BY_NAME[name]["base64"])


def load(data: bytes) -> Model:
    runtime: Runtime = OnnxRuntime()
    return runtime.load(data)


@pytest.mark.parametrize("name", BY_NAME)
def test_every_answer_of_an_onnx_model_is_the_makers_to_six_digits(name: str) -> None:
    model, entry = load(content(name)), BY_NAME[name]
    assert list(model.labels) == entry["labels"]
    assert model.input_size == len(entry["inputs"][0])
    for row, probabilities in zip(entry["inputs"], entry["probabilities"], strict=True):
        answer = model.predict(row)
        assert list(answer) == entry["labels"]
        assert list(answer.values()) == pytest.approx(probabilities, rel=0, abs=2e-6)


@pytest.mark.parametrize("name", MADE["bad"])
def test_a_graph_that_is_no_classifier_of_numbers_is_a_bad_model(name: str) -> None:
    with pytest.raises(BadModel):
        load(base64.b64decode(MADE["bad"][name]))


@pytest.mark.parametrize("data", [b"", b"<!DOCTYPE html>", content("map")[:-9], content("map") + b"\x0b"])
def test_what_is_no_onnx_file_is_a_bad_model(data: bytes) -> None:
    with pytest.raises(BadModel):
        load(data)


@pytest.mark.parametrize("inputs", [[], [1.0], [1.0, 2.0, 3.0, 4.0, 5.0], [math.nan] * 4])
def test_inputs_that_give_no_probability_are_a_failed_prediction(inputs: list[float]) -> None:
    with pytest.raises(PredictionFailed):
        load(content("sigmoid")).predict(inputs)


@pytest.mark.parametrize("name", BY_NAME)
def test_golden_vectors_of_an_onnx_model_are_computed_and_those_of_the_publisher_checked(name: str) -> None:
    data, names = content(name), [f"input_{i}" for i in range(len(BY_NAME[name]["inputs"][0]))]
    artifact = judge(data, "onnx", inputs=names, probes=[])
    assert len(artifact.probes) == 5
    assert artifact == judge(data, "onnx", inputs=names, probes=[]), "and the same each time"
    for probe in artifact.probes:
        assert load(data).predict(probe.input) == pytest.approx(probe.output, rel=0, abs=1e-5)
    assert judge(data, "onnx", inputs=names, probes=artifact.probes[:1]).probes == artifact.probes[:1]
    wrong = Probe(artifact.probes[0].input, dict.fromkeys(BY_NAME[name]["labels"], 0.123))
    with pytest.raises(BadArtifact, match="mend the golden vector"):
        judge(data, "onnx", inputs=names, probes=[wrong])


async def test_an_onnx_release_goes_over_the_air_and_is_proven_before_it_decides(world: World) -> None:
    data, entry = content("tensor"), BY_NAME["tensor"]
    row, answer = entry["inputs"][0], entry["probabilities"][0]
    names = ["battery", "charging", "seconds", "viewed"]
    artifact = judge(data, "onnx", inputs=names, probes=[Probe(row, dict(zip(entry["labels"], answer, strict=True)))])
    bundled = Bundled(1, content("map"), Parameters(threshold=0.5), names)
    client = await world.open(bundled={"upsell": bundled}, runtime=OnnxRuntime())
    terms: dict[str, Any] = {"format": "onnx", "inputs": artifact.inputs}
    wrong = world.publisher.release(41, content("boosted"), probe=[Probe(row, {"Purchased": 0.123})], **terms)
    world.offer(17, [wrong, world.publisher.release(42, data, probe=artifact.probes, **terms)], 41)
    await client.flush()
    assert world.runs(client) == (1, "bundled", "bundled")
    world.gateway.use["upsell"] = 42
    await client.flush()
    made = client.predict("upsell", dict(zip(names, row, strict=True)))
    assert (made.release, made.source) == (42, "ota")
    assert made.score == pytest.approx(answer[1], abs=2e-6)
    assert (41, "failed", "probe_mismatch") in await world.steps(client)
