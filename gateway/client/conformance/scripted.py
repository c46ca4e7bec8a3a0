"""The kit's models: JSON files that say how they score and how they fail, and the runtime that does what they say.

* {"score": 0.8, "inputs": 2, "faults": [{"at": "load", "does": "crash", "os": "iOS 20.0"}]}: the answer for inputs x is
  {"Purchased": score + x[0] / 100, "Dismissed": the rest}.
* A fault happens `at` compile, load or predict, and `does` crash (the process kills itself), fail, nan or slow. It
  happens only where the rest of it holds too: `os`, `app_version`, `before_ms` (the device's clock), `above` (the
  first input) and `rots_ms` (the clock is past that, and what is loaded was compiled before).
* A compiled script is the script with the time at which it was compiled.
* Every SDK's driver brings such a runtime; the format is "opaque".
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Final, Literal, Never

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway.client.runtimes import BadModel, PredictionFailed

SLOW_SECONDS: Final = 1.0


class Fault(Struct, frozen=True, omit_defaults=True):
    """One way to fail, and when."""

    at: Literal["compile", "load", "predict"]
    does: Literal["crash", "fail", "nan", "slow"]
    os: str | None = None
    app_version: str | None = None
    before_ms: int | None = None
    above: float | None = None
    rots_ms: int | None = None


class Script(Struct, frozen=True, omit_defaults=True):
    """A model's file, or its compiled form, which has `compiled_ms`; `padding` only makes it longer."""

    score: float
    inputs: int = 2
    faults: list[Fault] = []
    padding: str = ""
    compiled_ms: int | None = None


_script: Final = msgspec.json.Decoder(Script)


class ScriptedModel:
    """A loaded script."""

    labels: Sequence[str] = ("Dismissed", "Purchased")

    def __init__(self, script: Script, happens: Callable[[Fault, Sequence[float]], bool]) -> None:
        self.input_size = script.inputs
        self.metadata: dict[str, str] = {}
        self._script = script
        self._happens = happens

    def predict(self, inputs: Sequence[float]) -> dict[str, float]:
        """Answer, or fail as the script says. Raises `PredictionFailed`."""
        score = self._script.score + inputs[0] / 100
        for fault in self._script.faults:
            if fault.at == "predict" and self._happens(fault, inputs):
                if fault.does == "fail":
                    raise PredictionFailed("as told")
                score = _suffer(fault) or score
        return {"Purchased": score, "Dismissed": 1 - score}


class ScriptedRuntime:
    """Implements the port for scripts, on a device with this system and app."""

    format = "opaque"
    compiler = "scripted"

    def __init__(self, system: str, app_version: str, now_ms: Callable[[], int]) -> None:
        self._system = system
        self._app_version = app_version
        self._now_ms = now_ms

    def compile(self, data: bytes) -> bytes:
        """Compile, or fail as the script says. Raises `BadModel`."""
        script = _read(data)
        self._run(script, "compile")
        return msgspec.json.encode(replace(script, compiled_ms=self._now_ms()))

    def load(self, data: bytes) -> ScriptedModel:
        """Load what was compiled, or fail as the script says. Raises `BadModel`."""
        script = _read(data)
        if script.compiled_ms is None:
            script = _read(self.compile(data))
        self._run(script, "load")
        return ScriptedModel(script, self._happens)

    def _run(self, script: Script, at: Literal["compile", "load"]) -> None:
        for fault in script.faults:
            if fault.at == at and self._happens(fault, ()) and self._has_rotted(fault, script):
                if fault.does == "fail":
                    raise BadModel("as told")
                _suffer(fault)

    def _has_rotted(self, fault: Fault, script: Script) -> bool:
        made_ms = self._now_ms() if script.compiled_ms is None else script.compiled_ms
        return fault.rots_ms is None or made_ms < fault.rots_ms <= self._now_ms()

    def _happens(self, fault: Fault, inputs: Sequence[float]) -> bool:
        return (
            fault.os in (None, self._system)
            and fault.app_version in (None, self._app_version)
            and (fault.before_ms is None or self._now_ms() < fault.before_ms)
            and (fault.above is None or (bool(inputs) and inputs[0] > fault.above))
        )


def _read(data: bytes) -> Script:
    try:
        return _script.decode(data)
    except ValueError as error:
        raise BadModel("no script") from error


def _suffer(fault: Fault) -> float | None:
    """Crash, wait, or return what is no number."""
    if fault.does == "crash":
        _die()
    if fault.does == "slow":
        time.sleep(SLOW_SECONDS)
    return float("nan") if fault.does == "nan" else None


def _die() -> Never:
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit  # never reached: SIGKILL cannot be caught
