"""A model that decides now: loaded, proven by its probes, and asked without trust.

* Whatever a runtime raises becomes a code here; nothing of it reaches the app.
* A probe is a golden vector of the signed catalogue: the device's runtime must answer within 1e-5 of the publisher's.
"""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct

from gateway.client.runtimes import BadModel, Model
from schemas.releases import Parameters, Probe
from schemas.wire import Source

logger = logging.getLogger(__name__)

PROBE_TOLERANCE: Final = 1e-5

LoadCode = Literal["bad_model", "input_shape", "label_missing", "probe_mismatch"]


class LoadFailed(Exception):
    """An artifact that this device cannot use; `code` is what it reports."""

    def __init__(self, code: LoadCode) -> None:
        super().__init__(code)
        self.code = code


class NoAnswer(Exception):
    """A loaded model that gave no usable score."""


class Running(Struct, frozen=True):
    """What decides, and where its bytes came from; without a model the decision is always no."""

    release: int
    source: Source
    sha256: str
    parameters: Parameters
    inputs: tuple[str, ...]
    model: Model | None
    label: str

    def score(self, signals: Mapping[str, float | None]) -> float:
        """Return the probability of the positive label; a null counts as 0.0. Raises `NoAnswer`."""
        if self.model is None:
            return 0.0
        try:
            score = self.model.predict([signals.get(name) or 0.0 for name in self.inputs])[self.label]
            if -PROBE_TOLERANCE <= score <= 1 + PROBE_TOLERANCE:
                return min(1.0, max(0.0, float(score)))
        except Exception as error:  # a runtime is the app's code; this is the boundary to it
            logger.warning("release %d could not predict", self.release, exc_info=True)
            raise NoAnswer from error
        raise NoAnswer(f"score {score!r}")


# The held-out baseline, and what is left when nothing can be loaded.
NOTHING: Final = Running(
    release=0, source="none", sha256="", parameters=Parameters(threshold=1.0), inputs=(), model=None, label=""
)


def load(
    build: Callable[[], Model],
    *,
    release: int,
    source: Source,
    sha256: str,
    parameters: Parameters,
    inputs: Sequence[str],
    probes: Sequence[Probe],
    label: str | None,
) -> Running:
    """Build a model and prove it. The positive label is by default the last one in order. Raises `LoadFailed`."""
    try:
        model = build()
        labels = sorted(model.labels)
        size = model.input_size
    except BadModel as error:
        logger.warning("release %d is no model: %s", release, error)
        raise LoadFailed("bad_model") from error
    except Exception as error:  # a runtime is the app's code; this is the boundary to it
        logger.exception("release %d made the runtime fail", release)
        raise LoadFailed("bad_model") from error
    if size != len(inputs):
        raise LoadFailed("input_shape")
    positive = label if label is not None else (labels[-1] if labels else "")
    if positive not in labels:
        raise LoadFailed("label_missing")
    for probe in probes:
        if not _agrees(model, probe):
            raise LoadFailed("probe_mismatch")
    return Running(release, source, sha256, parameters, tuple(inputs), model, positive)


def _agrees(model: Model, probe: Probe) -> bool:
    try:
        answer = model.predict(probe.input)
        return all(
            name in answer and math.isclose(answer[name], expected, rel_tol=0.0, abs_tol=PROBE_TOLERANCE)
            for name, expected in probe.output.items()
        )
    except Exception:  # a runtime is the app's code; this is the boundary to it
        logger.warning("a probe raised", exc_info=True)
        return False
