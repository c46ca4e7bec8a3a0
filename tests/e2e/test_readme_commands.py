"""The README's "Run it", as it stands: every line of its shell blocks, in one shell, against what the first one serves.

* Changed is what two readers on one machine would change too: the port, and the installation that is already there.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

pytest.importorskip("chdb", reason="the embedded ClickHouse is an extra")

ROOT: Final = Path(__file__).resolve().parents[2]
SECTION: Final = (ROOT / "README.md").read_text("utf-8").partition("\n## Run it\n")[2].partition("\n## ")[0]
BLOCKS: Final = re.findall(r"^```sh\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
ANSWERS: Final = re.findall(r"^```json\n(.*?)^```$", SECTION, re.MULTILINE | re.DOTALL)
INSTALL: Final = "make install && . .venv/bin/activate\n"
ADDRESS: Final = "127.0.0.1:8080"
ENVIRON: Final = {name: value for name, value in os.environ.items() if not name.startswith("BACKHAUL_")} | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
}
LAID_OUT_SECONDS: Final = 60.0


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A directory that looks to the commands like a fresh clone."""
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    return tmp_path


@pytest.fixture
def address(clone: Path) -> Iterator[str]:
    """Serve with the first block's own line."""
    assert BLOCKS[0].startswith(INSTALL)
    serve = BLOCKS[0].removeprefix(INSTALL).strip()
    assert serve.endswith(f"--listen {ADDRESS}")
    with (clone / "serve.stderr").open("w") as stderr:
        command = ["/bin/sh", "-c", f"exec {serve.replace(ADDRESS, '127.0.0.1:0')}"]
        served = subprocess.Popen(command, cwd=clone, env=ENVIRON, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert served.stdout is not None
    ready = re.search(r"http://(\S+)", served.stdout.readline())
    assert ready, (clone / "serve.stderr").read_text()
    yield ready.group(1)
    served.send_signal(signal.SIGTERM)
    assert served.wait(30) == 0, (clone / "serve.stderr").read_text()
    served.stdout.close()


class Shell:
    """One shell for all blocks, as a reader has one: variables of a block are there in the next."""

    def __init__(self, process: "subprocess.Popen[str]", address: str) -> None:
        self._process = process
        self._address = address

    def run(self, block: str) -> str:
        """Run a block and return what it prints; a line that fails ends the shell."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(block.replace(ADDRESS, self._address) + "\necho; echo '-- done'\n")
        self._process.stdin.flush()
        printed: list[str] = []
        for line in self._process.stdout:
            if line == "-- done\n":
                return "".join(printed)
            printed.append(line)
        raise AssertionError(f"a line of this block failed:\n{block}\nwhat was printed:\n{''.join(printed)}")


@pytest.fixture
def shell(clone: Path, address: str) -> Iterator[Shell]:
    process = subprocess.Popen(
        ["/bin/bash", "-eu", "-o", "pipefail"],
        cwd=clone,
        env=ENVIRON,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        yield Shell(process, address)


def test_every_line_of_run_it_does_what_it_says(clone: Path, shell: Shell) -> None:
    _, send, ask, *others = BLOCKS
    [answer] = [line for line in shell.run(send).splitlines() if line.startswith("{")]
    assert {**json.loads(answer), "server_time": 0} == {**json.loads(ANSWERS[0]), "server_time": 0}
    wait_for_events(clone)
    table = shell.run(ask)
    assert "purchased" in table
    assert "score_out_of_range" in table
    printed = "".join(map(shell.run, others))
    assert "FAIL" not in printed
    running = dict(re.findall(r"devices on release (\d+)\s+(\d+)", printed))
    assert sum(map(int, running.values())) == 20
    assert int(running["2"]) > int(running.get("1", 0))  # a few have an SDK that cannot run it


def wait_for_events(clone: Path) -> None:
    """Wait as a reader does who looks again: the first start of ClickHouse takes some seconds."""
    count = [
        "backhaul",
        "sql",
        "SELECT (SELECT count() FROM events) * (SELECT count() FROM dead_letters) AS n",
        "--json",
    ]
    end = time.monotonic() + LAID_OUT_SECONDS
    while True:
        asked = subprocess.run(count, cwd=clone, env=ENVIRON, capture_output=True, text=True, check=False)
        if asked.returncode == 0 and json.loads(asked.stdout)[0]["n"]:
            return
        assert time.monotonic() < end, asked.stderr
        time.sleep(0.2)
