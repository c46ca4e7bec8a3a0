"""Run ONNX classifiers with ONNX Runtime, an extra: `pip install "backhaul[onnx]"`.

* What goes in: one tensor with all values, or several, in the file's order; each call is one example.
* What comes out: one probability for each label, as a map (as scikit-learn's converter writes by default) or as one
  tensor, whose labels stand in the metadata (`labels`, comma-separated); a single value is named like its output.
* One thread for each model unless told otherwise, no arena that keeps memory: a decision is small, the app is not ours.
* This is native code: a file can end the process. The trial before activation counts that, as it does for any runtime.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import onnxruntime

from gateway.client.runtimes import BadModel, PredictionFailed, probability
from gateway.client.runtimes.protobuf import Message
from schemas.releases import MAX_ARTIFACT_BYTES
from schemas.wire import MAX_SIGNALS

_GRAPH, _INITIALIZERS, _DATA_LOCATION, _EXTERNAL = 7, 5, 14, 1
_TYPES: Final[dict[str, type[np.generic]]] = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}
_ANSWERS: Final = ("tensor(float)", "tensor(double)")
_ONLY_FATAL: Final = 4


class _Input(NamedTuple):
    """A tensor that the model takes: its name, shape and type, and how many values that are."""

    name: str
    shape: tuple[int, ...]
    kind: type[np.generic]
    values: int


class OnnxModel:
    """A loaded classifier."""

    def __init__(self, session: Any) -> None:
        """Take the session and ask it once, with zeros, what it answers. Raises `BadModel`."""
        self._session = session
        self._inputs = [_read_input(each) for each in session.get_inputs()]
        self.input_size = sum(each.values for each in self._inputs)
        if not 1 <= self.input_size <= MAX_SIGNALS:
            raise BadModel(f"{self.input_size} inputs where 1 to {MAX_SIGNALS} are possible")
        answers = [each.name for each in session.get_outputs() if each.type in _ANSWERS or "map(" in each.type]
        if len(answers) != 1:
            raise BadModel(f"{len(answers)} outputs that could be the probabilities")
        self._output: str = answers[0]
        self.metadata = dict(session.get_modelmeta().custom_metadata_map)
        self.labels: Sequence[str] = ()
        self.labels = _labels(self._ask([0.0] * self.input_size), self.metadata.get("labels"), self._output)

    def predict(self, inputs: Sequence[float]) -> dict[str, float]:
        """Return the probability of each label. Raises `PredictionFailed`."""
        if len(inputs) != self.input_size:
            raise PredictionFailed(f"{len(inputs)} inputs where the model takes {self.input_size}")
        try:
            answer = self._ask(inputs)
        except BadModel as error:
            raise PredictionFailed(str(error)) from error
        if isinstance(answer, dict):
            return {str(label): probability(float(value)) for label, value in answer.items()}
        return {label: probability(value) for label, value in zip(self.labels, answer, strict=True)}

    def _ask(self, values: Sequence[float]) -> dict[Any, float] | list[float]:
        feed, begin = {}, 0
        try:
            for each in self._inputs:
                part = np.asarray(values[begin : begin + each.values], dtype=np.float64)
                feed[each.name] = part.astype(each.kind).reshape(each.shape)
                begin += each.values
            [answer] = self._session.run([self._output], feed)
        except Exception as error:  # ONNX Runtime raises whatever its operators do; this is the boundary to it
            raise BadModel(f"it cannot be asked: {error}") from error
        if isinstance(answer, np.ndarray):
            return [float(value) for value in answer.ravel()]
        if len(answer) != 1 or not isinstance(answer[0], dict):
            raise BadModel("it answers with something else than one map")
        found: dict[Any, float] = answer[0]
        return found


class OnnxRuntime:
    """The runtime of `.onnx` files."""

    format = "onnx"

    def __init__(self, *, threads: int = 1) -> None:
        """Let each model compute on that many threads."""
        self._options = onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = threads
        self._options.inter_op_num_threads = 1
        self._options.enable_cpu_mem_arena = False
        self._options.log_severity_level = _ONLY_FATAL

    def load(self, data: bytes) -> OnnxModel:
        """Parse, check and build. Raises `BadModel`."""
        if len(data) > MAX_ARTIFACT_BYTES:
            raise BadModel(f"larger than {MAX_ARTIFACT_BYTES} bytes")
        for tensor in Message(data).message(_GRAPH).messages(_INITIALIZERS):
            if tensor.integer(_DATA_LOCATION) == _EXTERNAL:
                raise BadModel("weights in another file, which the device does not have")
        try:
            session = onnxruntime.InferenceSession(data, self._options, providers=["CPUExecutionProvider"])
        except Exception as error:  # as above
            raise BadModel(f"ONNX Runtime does not take it: {error}") from error
        return OnnxModel(session)


def _read_input(tensor: Any) -> _Input:
    first, *others = tensor.shape or [1]
    shape = (first if isinstance(first, int) else 1, *others)  # a first size that is free counts the examples
    if tensor.type not in _TYPES or not all(isinstance(size, int) and size > 0 for size in shape):
        raise BadModel(f"input {tensor.name!r} is {tensor.type} of shape {tensor.shape}")
    return _Input(tensor.name, shape, _TYPES[tensor.type], math.prod(shape))


def _labels(answer: dict[Any, float] | list[float], named: str | None, output: str) -> tuple[str, ...]:
    if isinstance(answer, dict):
        labels = [str(label) for label in answer]
    elif named:
        labels = [label.strip() for label in named.split(",")]
    else:
        labels = [output]
    if len(labels) != len(answer) or len(set(labels)) != len(labels):
        raise BadModel(f"{len(answer)} values for the labels {labels}: name each in the metadata, as 'labels'")
    return tuple(labels)
