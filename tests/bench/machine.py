"""What the figures were measured on and with: a figure without it is worth little."""

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parents[2]
_PACKAGES: Final = ("aiohttp", "aiokafka", "isal", "msgspec", "uvloop")
SYSTEM_PYTHON: Final = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
_PROGRAMS: Final = {
    "system's python": (SYSTEM_PYTHON, "--version"),
    "g++": ("g++", "-dumpfullversion"),
    "go": ("go", "version"),
    "rustc": ("rustc", "--version"),
    "node": ("node", "--version"),
    "java": ("java", "--version"),
}


def date_and_commit() -> tuple[str, str]:
    """Return today's date (UTC) and the commit that is checked out, with a + where the tree differs from it."""
    commit = _said("git", "-C", str(_ROOT), "rev-parse", "--short", "HEAD")
    changed = _said("git", "-C", str(_ROOT), "status", "--porcelain", "--untracked-files=no")
    return time.strftime("%Y-%m-%d", time.gmtime()), (commit or "unknown") + ("+" if changed else "")


def machine() -> dict[str, str]:
    """Return what the machine is."""
    cpu = _line("/proc/cpuinfo", "model name")
    memory_kib = int(_line("/proc/meminfo", "MemTotal").split()[0])
    return {
        "cpu": cpu,
        "cores": str(len(os.sched_getaffinity(0))),
        "memory_gib": f"{memory_kib / 2**20:.0f}",
        "kernel": platform.release(),
        "load_before": f"{os.getloadavg()[0]:.1f}",
    }


def versions() -> dict[str, str]:
    """Return the versions of what the programs are made of."""
    found = {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}
    for name, command in _PROGRAMS.items():
        if shutil.which(command[0]):
            found[name] = _said(*command).partition("\n")[0]
    return found


def _line(file: str, key: str) -> str:
    for line in Path(file).read_text().splitlines():
        if line.startswith(key):
            return line.partition(":")[2].strip()
    return ""


def _said(*command: str) -> str:
    return _output(command).strip()


def _output(command: Sequence[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
