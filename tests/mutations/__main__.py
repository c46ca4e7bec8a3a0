"""Break the client on purpose, one way at a time, and see whether its tests notice: `make mutations`.

* Each breakage is made in a copy of the tree and judged by the tests that it names, which pass there before it.
* Caught is a test that fails, or that does not end; a change that cannot be imported proves nothing and is an error.
* Exit code 1 when a breakage survives. `--write` keeps the verdicts in `results`, each with its day.
"""

import os
import re
import shutil
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Final, NamedTuple

from tests.mutations.breakages import Breakage, breakages

ROOT: Final = Path(__file__).resolve().parents[2]
COPIED: Final = ("gateway", "schemas", "consumers", "tests", "pyproject.toml", "README.md")
RESULTS: Final = Path(__file__).parent / "results" / "client.txt"
# The slowest file takes a tenth of it on an idle machine; a breakage may make a test wait for ever.
MOST_SECONDS: Final = 180
_PASSED, _FAILED = 0, 1
_NAME: Final = re.compile(r"^\S+ +\S+ +\S+ +(.*)  <-  .*$")


class Verdict(NamedTuple):
    """What became of a breakage; `by` is the test that noticed."""

    breakage: Breakage
    outcome: str
    by: str
    seconds: float


def main() -> int:
    """Run the list and print the table."""
    parser = ArgumentParser(prog="python -m tests.mutations", description=__doc__, add_help=True)
    parser.add_argument("--only", nargs="+", default=[""], help="breakages whose name or file has one of these in it")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--write", action="store_true", help="keep the verdicts in the tree, beside those of other runs"
    )
    arguments = parser.parse_args()
    chosen = [each for each in breakages() if any(word in f"{each.name} {each.file}" for word in arguments.only)]
    verdicts = judge_all(chosen, arguments.processes)
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    found = {verdict.breakage.name: line(verdict, day) for verdict in verdicts}
    sys.stdout.write(table(found))
    if arguments.write:
        kept = read_table(RESULTS.read_text()) if RESULTS.exists() else {}
        RESULTS.write_text(
            table({each.name: (kept | found)[each.name] for each in breakages() if each.name in kept | found})
        )
    return int(any(verdict.outcome != "caught" for verdict in verdicts))


def judge_all(chosen: list[Breakage], processes: int) -> list[Verdict]:
    """Judge each breakage, `processes` at once. Raises RuntimeError where the tests fail without any."""
    with TemporaryDirectory() as scratch, ThreadPoolExecutor(processes) as threads:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(processes):
            copies.put(_copied(Path(scratch) / str(number)))
        _check_untouched(copies, sorted({test for breakage in chosen for test in breakage.tests}))
        found = []
        for verdict in threads.map(lambda breakage: _judged(breakage, copies), chosen):
            sys.stderr.write(f"{verdict.outcome:9} {verdict.breakage.name}\n")
            found.append(verdict)
        return found


def line(verdict: Verdict, day: str) -> str:
    """Return a verdict as a line of text."""
    breakage = verdict.breakage
    return f"{day}  {verdict.outcome:9}  {breakage.file:19}  {breakage.name}  <-  {verdict.by}"


def table(lines: dict[str, str]) -> str:
    """Return the lines, by the names of their breakages, with what they add up to."""
    caught = sum(" caught " in each for each in lines.values())
    return "\n".join([f"{caught} of {len(lines)} breakages of the client were caught", "", *lines.values(), ""])


def read_table(text: str) -> dict[str, str]:
    """Return the lines of a table by the names of their breakages."""
    return {_NAME.sub(r"\1", each): each for each in text.splitlines()[2:]}


def _copied(place: Path) -> Path:
    place.mkdir()
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, place / name, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy(source, place / name)
    return place


def _check_untouched(copies: "SimpleQueue[Path]", tests: list[str]) -> None:
    with _one_of(copies) as place:
        code, output = _pytest(place, tests)
    if code != _PASSED:
        raise RuntimeError(f"the tests fail with nothing broken:\n{output}")


def _judged(breakage: Breakage, copies: "SimpleQueue[Path]") -> Verdict:
    began = monotonic()
    with _one_of(copies) as place:
        file = place / "gateway" / "client" / breakage.file
        whole = file.read_text()
        if whole.count(breakage.text) != 1:
            return Verdict(breakage, "no place", "nobody: the text is not there once", 0.0)
        file.write_text(whole.replace(breakage.text, breakage.instead))
        try:
            code, output = _pytest(place, breakage.tests)
        finally:
            file.write_text(whole)
    noticed = [line.split()[1] for line in output.splitlines() if line.startswith("FAILED ")]
    by = noticed[0].partition("[")[0].rpartition("/")[2] if noticed else "nobody"
    outcome = {_PASSED: "SURVIVED", _FAILED: "caught"}.get(code, "error")
    if code == -1:
        outcome, by = "caught", f"a test that did not end within {MOST_SECONDS} s"
    return Verdict(breakage, outcome, by, monotonic() - began)


@contextmanager
def _one_of(copies: "SimpleQueue[Path]") -> Iterator[Path]:
    place = copies.get()
    try:
        yield place
    finally:
        copies.put(place)


def _pytest(place: Path, tests: "list[str] | tuple[str, ...]") -> tuple[int, str]:
    """Run tests in a copy. Return pytest's exit code, -1 for no end, and what it printed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"--timeout={MOST_SECONDS // 2}"]
    environ = os.environ | {"PYTHONPATH": str(place), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            [*command, *(f"tests/{test}" for test in tests)],
            cwd=place,
            env=environ,
            capture_output=True,
            text=True,
            timeout=MOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, ""
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    sys.exit(main())
