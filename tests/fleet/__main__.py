"""Run the fleet's commands at their full size and keep what they print: `make fleet RUNS="simulate versus"`.

* A result is the command's own output under a head that says how it was made: nothing in it is written by hand.
* The exit code is 1 where a command failed or a simulated fleet missed a target; the result is kept all the same.
"""

import os
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from time import monotonic
from typing import Final

from tests.bench.machine import date_and_commit, machine

RESULTS: Final = Path(__file__).parent / "results"
_PACKAGES: Final = ("aiohttp", "msgspec", "numpy", "uvloop")
RUNS: Final = {
    "simulate": "simulate --devices 100000 --days 8",
    "simulate-53-decisions": "simulate --devices 100000 --days 8 --decisions 53",
    "simulate-25-million": "simulate --devices 25000000 --days 1 --policies naive",
    "compare": "compare --devices 2000",
    "versus": "versus",
}


def main() -> int:
    """Run what is named, or everything, one after the other."""
    parser = ArgumentParser(prog="python -m tests.fleet", description=__doc__)
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"which (all): {', '.join(RUNS)}")
    chosen = parser.parse_args().runs or list(RUNS)
    unknown = [name for name in chosen if name not in RUNS]
    if unknown:
        parser.error(f"no run is called {unknown[0]!r}: they are {', '.join(RUNS)}")
    return max([_run(name, RUNS[name].split()) for name in chosen])


def _run(name: str, words: Sequence[str]) -> int:
    """Run one and keep it; return 1 if it failed or missed a target."""
    before, began = _head(name, words), monotonic()
    command = [sys.executable, "-m", "gateway.cli", "fleet", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    took = (
        f"exit code {process.returncode}; {monotonic() - began:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of "
        f"processor in all its processes; {used.ru_maxrss / 1024:.0f} MiB at the peak of the largest of them"
    )
    text = "\n".join((*before, took, "", printed.rstrip(), ""))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.txt").write_text(text)
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    missed = any(line.split()[-1:] == ["NO"] for line in printed.splitlines())
    return int(missed or process.returncode != 0)


def _head(name: str, words: Sequence[str]) -> list[str]:
    date, commit = date_and_commit()
    made_on = machine()
    versions = ", ".join(f"{package} {version(package)}" for package in _PACKAGES)
    return [
        f"backhaul fleet {' '.join(words)}",
        f"made by: python -m tests.fleet {name}; {date}, commit {commit}",
        f"{made_on['cpu']}, {made_on['cores']} cores, {made_on['memory_gib']} GiB, Linux {made_on['kernel']}, load "
        f"before {made_on['load_before']}, niceness {os.nice(0)}; Python {python_version()}, {versions}",
    ]


if __name__ == "__main__":
    sys.exit(main())
