"""The port to whatever evaluates a model on the device: one file per format.

* A runtime turns an artifact's bytes into a model, or raises `BadModel`; nothing else escapes, whatever the bytes are.
* A model answers with the probability of every label, or raises `PredictionFailed`.
* Both are synchronous and do no I/O: a prediction never waits for anything but the processor.
* Neither may fork (`os.fork`, `multiprocessing` with it): under `SyncClient` that waits for the very thread it is on.
* A runtime that compiles, as Core ML's own does, also says how: what it made is kept beside the artifact (`compiled`).
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

# Sums over many trees, and floats of 32 bits, leave [0, 1] by rounding; anything further out is no probability.
_ROUNDING: Final = 1e-6


class BadModel(Exception):
    """An artifact that is not a model this runtime can run."""


class PredictionFailed(Exception):
    """A model that gave no usable answer to these inputs."""


def probability(value: float) -> float:
    """Return what a model gave as a probability. Raises `PredictionFailed` for what is none."""
    if not -_ROUNDING <= value <= 1.0 + _ROUNDING:  # false for NaN too
        raise PredictionFailed(f"not a probability: {value}")
    return min(1.0, max(0.0, value))


class Model(Protocol):
    """A loaded model."""

    @property
    def input_size(self) -> int:
        """How many numbers `predict` takes."""
        ...

    @property
    def labels(self) -> Sequence[str]:
        """Every label that `predict` answers with, in the model's own order."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the author wrote into the file (for Core ML: userDefined)."""
        ...

    def predict(self, inputs: Sequence[float]) -> dict[str, float]:
        """Return the probability of each label. Raises `PredictionFailed`."""
        ...


class Runtime(Protocol):
    """What loads one format of models."""

    @property
    def format(self) -> str:
        """The format's name in a catalogue ("mlmodel", "onnx")."""
        ...

    def load(self, data: bytes) -> Model:
        """Parse, check and build. Raises `BadModel`."""
        ...


@runtime_checkable
class Compiling(Runtime, Protocol):
    """A runtime that makes a form of each artifact for this very system, from which `load` is quick.

    `load` takes such a form as well as an artifact.
    """

    @property
    def compiler(self) -> str:
        """What makes the form, with its version: by another one it is made again."""
        ...

    def compile(self, data: bytes) -> bytes:
        """Check an artifact and make its form. Raises `BadModel`."""
        ...
