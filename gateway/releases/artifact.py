"""Judge a file before it is published: what it is, what it takes, and what it answers to a few golden inputs.

* A Core ML model is loaded by the evaluator that the reference device runs: what cannot run there is not published.
* Golden inputs come from the artifact's hash, so that publishing twice gives the same; they are exact in the float32
  that Core ML computes with, and lie where a rounding error changes nothing (far enough from a tree's thresholds).
* An ONNX model is read, and run where ONNX Runtime is installed and the reference device could run it. Elsewhere, and
  for graphs that other SDKs make sense of, golden vectors are the publisher's to bring.
* Whatever is neither is opaque: published as it is, with the golden vectors that the publisher brings.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Final, Literal

from msgspec import Struct

from gateway.client.runtimes import BadModel, Model, PredictionFailed
from gateway.client.runtimes.coreml import CoreMLRuntime
from gateway.releases.errors import BadArtifact
from gateway.releases.facts import Facts, coreml_facts, values_of
from gateway.releases.onnx import onnx_facts, onnx_metadata
from schemas.releases import MAX_ARTIFACT_BYTES, Probe

Format = Literal["mlmodel", "onnx", "opaque"]

PROBES: Final = 5
# How far a device's answer may be from the publisher's; schemas.releases.Probe names the same figure.
TOLERANCE: Final = 1e-5
# Ten units in the last place of a float32: what a device may round differently.
_ROUNDING: Final = 1e-6
_WHAT_TO_GIVE: Final = "give an .mlmodel file; of another kind, say so with --format onnx or --format opaque"
_CANDIDATES: Final = 64
_STEPS: Final = 1024
# Above this a float32 has no room for the span between low and high.
_LARGEST: Final = 1e37


class Artifact(Struct, frozen=True, kw_only=True):
    """A file that has been judged fit to publish."""

    format: Format
    sha256: str
    data: bytes
    inputs: list[str]
    probes: list[Probe]
    metadata: Mapping[str, str]
    os: str = ""


def judge(data: bytes, form: Format, *, inputs: Sequence[str], probes: Sequence[Probe]) -> Artifact:
    """Check a file and complete what was not given from its metadata. Raises `BadArtifact`."""
    if not 0 < len(data) <= MAX_ARTIFACT_BYTES:
        raise BadArtifact(f"the file has {len(data)} bytes: an artifact has 1 to {MAX_ARTIFACT_BYTES}")
    hashed = sha256(data).hexdigest()
    facts = inspect(data, form)
    if form == "opaque" or facts is None:
        return Artifact(format=form, sha256=hashed, data=data, inputs=list(inputs), probes=list(probes), metadata={})
    if form == "onnx":
        metadata = onnx_metadata(data)
        names = list(inputs) or split_names(metadata.get("inputs", ""))
        return Artifact(
            format=form,
            sha256=hashed,
            data=data,
            inputs=_fitting_names(facts, names),
            probes=_onnx_probes(_onnx_model(data), hashed, probes),
            metadata=metadata,
        )
    model = CoreMLRuntime().load(data)
    return Artifact(
        format=form,
        sha256=hashed,
        data=data,
        inputs=_input_names(model, inputs),
        probes=_confirmed(model, probes) if probes else _golden(model, hashed),
        metadata=model.metadata,
        os=facts.os,
    )


def inspect(data: bytes, form: Format) -> Facts | None:
    """Describe a file; nothing can be said of an opaque one. Raises `BadArtifact`."""
    if form == "opaque":
        return None
    if form == "onnx":
        try:
            return onnx_facts(data)
        except BadModel as error:
            raise BadArtifact(f"the file is not an ONNX model: {error}") from error
    try:
        return coreml_facts(data, list(CoreMLRuntime().load(data).labels))
    except BadModel as error:
        hint = "it is an ONNX model: say --format onnx" if _is_onnx(data) else _WHAT_TO_GIVE
        raise BadArtifact(f"the file is not a Core ML model that devices can run ({error}): {hint}") from error


def split_names(text: str) -> list[str]:
    """Return the names of a comma-separated list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _input_names(model: Model, given: Sequence[str]) -> list[str]:
    names = list(given) or split_names(model.metadata.get("inputs", ""))
    if len(names) != model.input_size:
        raise BadArtifact(
            f"the model takes {model.input_size} inputs but {len(names)} are named ({', '.join(names) or 'none'}): "
            "name each, in the model's order, or write them into its metadata as 'inputs'"
        )
    if len(set(names)) != len(names):
        raise BadArtifact(f"two inputs have the same name ({', '.join(names)}): give each its own")
    return names


def _fitting_names(facts: Facts, names: list[str]) -> list[str]:
    """Check the names against the sizes, where these are fixed; a graph of single values brings its own."""
    sizes = [values_of(feature) for feature in facts.inputs]
    if not names and len(sizes) > 1 and set(sizes) == {1}:
        return [feature.name for feature in facts.inputs]
    fixed = [size for size in sizes if size is not None]
    if names and len(fixed) == len(sizes) and sum(fixed) != len(names):
        raise BadArtifact(
            f"the model takes {sum(fixed)} values but {len(names)} are named ({', '.join(names)}): name each, in order"
        )
    if len(set(names)) != len(names):
        raise BadArtifact(f"two inputs have the same name ({', '.join(names)}): give each its own")
    return names


def _is_onnx(data: bytes) -> bool:
    try:
        onnx_facts(data)
    except BadModel:
        return False
    return True


def _onnx_model(data: bytes) -> Model | None:
    """Return the model as the reference device has it; None where that, or this machine, has no such model."""
    try:
        from gateway.client.runtimes.onnx import OnnxRuntime
    except ImportError:  # an extra
        return None
    try:
        return OnnxRuntime().load(data)
    except BadModel:
        return None


def _onnx_probes(model: Model | None, hashed: str, probes: Sequence[Probe]) -> list[Probe]:
    if model is None or probes:
        return list(probes) if model is None else _confirmed(model, probes)
    answered = any(_answer(model, inputs) is not None for inputs in _candidates(model, hashed))
    return _golden(model, hashed) if answered else []


def _confirmed(model: Model, probes: Sequence[Probe]) -> list[Probe]:
    for probe in probes:
        answer = _answer(model, probe.input)
        if answer is None or not _agrees(answer, probe.output):
            raise BadArtifact(
                f"the model answers {answer} to {probe.input}, not {probe.output}: mend the golden vector"
            )
    return list(probes)


def _golden(model: Model, hashed: str) -> list[Probe]:
    """Return a few golden vectors; fewer where the model has hardly a place that is safe from rounding."""
    found: list[Probe] = []
    answered = False
    for inputs in _candidates(model, hashed):
        answer = _answer(model, inputs)
        answered = answered or answer is not None
        if answer is not None and _is_steady(model, inputs, answer):
            found.append(Probe(inputs, answer))
        if len(found) == PROBES:
            break
    if not answered:
        raise BadArtifact("the model answers to none of the plausible inputs: state 'ranges' in its metadata")
    return found


def _candidates(model: Model, hashed: str) -> Iterator[list[float]]:
    ranges = _ranges(model)
    for attempt in range(_CANDIDATES):
        yield [_place(f"{hashed}/{attempt}/{i}", low, high) for i, (low, high) in enumerate(ranges)]


def _ranges(model: Model) -> list[tuple[float, float]]:
    """Read the metadata's `ranges` ("0:1,0:3600", one for each input); 0 to 1 where there is none."""
    text = model.metadata.get("ranges")
    if not text:
        return [(0.0, 1.0)] * model.input_size
    try:
        ranges = [(float(low), float(high)) for low, _, high in (part.partition(":") for part in text.split(","))]
    except ValueError as error:
        raise BadArtifact(f"the metadata's 'ranges' {text!r} are not pairs such as 0:1,0:3600") from error
    if len(ranges) != model.input_size:
        raise BadArtifact(f"the metadata has {len(ranges)} 'ranges' for {model.input_size} inputs")
    if not all(-_LARGEST <= low <= high <= _LARGEST for low, high in ranges):
        raise BadArtifact(f"the metadata's 'ranges' {text!r} are not pairs of a low and a high number")
    return ranges


def _place(seed: str, low: float, high: float) -> float:
    step = int.from_bytes(sha256(seed.encode()).digest()[:4], "big") % (_STEPS + 1)
    (exact,) = struct.unpack("<f", struct.pack("<f", low + (high - low) * step / _STEPS))
    return float(exact)


def _is_steady(model: Model, inputs: list[float], answer: Mapping[str, float]) -> bool:
    for i, value in enumerate(inputs):
        nudge = _ROUNDING * max(1.0, abs(value))
        for moved in (value - nudge, value + nudge):
            other = _answer(model, [*inputs[:i], moved, *inputs[i + 1 :]])
            if other is None or not _agrees(other, answer):
                return False
    return True


def _agrees(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return one.keys() == other.keys() and all(abs(one[label] - other[label]) <= TOLERANCE for label in one)


def _answer(model: Model, inputs: Sequence[float]) -> dict[str, float] | None:
    try:
        return model.predict(inputs)
    except PredictionFailed:
        return None
