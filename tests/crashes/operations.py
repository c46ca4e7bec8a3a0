"""The library that counts and spoils a process's changes to its files. See operations.c."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_name("operations.c")
ENDED: Final = 77  # the exit code of a process that the library has ended


def library(directory: Path) -> tuple[Path | None, str]:
    """Return what is to be preloaded, or why there is none here."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        return None, "only on Linux, with a C compiler, can the changes to files be counted"
    built = directory / "operations.so"
    made = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", built, _SOURCE, "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    return (built, "") if not made.returncode else (None, f"operations.c cannot be compiled: {made.stderr[-200:]}")
