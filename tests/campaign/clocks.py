"""The wall clock of each machine of a campaign, which can be stepped while its processes run. See clock.c."""

import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_name("clock.c")
_NS: Final = 1_000_000_000
_HOUR_NS: Final = 3600 * _NS


class Clock:
    """A machine's clock: as far off as `step` said last, for every process that was started in its `environ`."""

    def __init__(self, library: Path, kept: Path) -> None:
        self._kept = kept
        self.step(0.0)
        self.environ: Mapping[str, str] = {"LD_PRELOAD": str(library), "CAMPAIGN_CLOCK": str(kept)}

    def step(self, seconds: float) -> None:
        """Set it so far off the true time. Processes have the file mapped: they see it at once, whole."""
        with open(os.open(self._kept, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:  # noqa: PTH123 - not truncated
            file.write(struct.pack("q", int(seconds * _NS)))


def library(directory: Path) -> tuple[Path | None, str]:
    """Return what is to be preloaded, or why clocks cannot be stepped here; it was tried on a process then."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None, "there is no C compiler"
    built = directory / "clock.so"
    made = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", built, _SOURCE, "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        return None, f"clock.c cannot be compiled: {made.stderr.strip()[-200:]}"
    clock = Clock(built, directory / "clock.tried")
    clock.step(-_HOUR_NS / _NS)
    seen = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time_ns())"],
        env={**os.environ, **clock.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    off_ns = int(seen.stdout or 0) - time.time_ns()
    return (built, "") if -1.1 * _HOUR_NS < off_ns < -0.9 * _HOUR_NS else (None, "this kernel's vDSO cannot be patched")
