"""`python -m tests.bench` as `make bench` runs it: JSON on its output and nothing else, and nothing left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.bench import build

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _built() -> None:
    """Build the floor and the load generator before anything is timed; without a compiler there is nothing to test."""
    try:
        build.floor()
        build.load()
    except build.Missing as missing:
        pytest.skip(str(missing))


def bench(*words: str, environ: Mapping[str, str] = os.environ) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.bench", *words],
        cwd=ROOT,
        env={**environ, "JSON": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_json_is_one_object_with_a_row_for_each_program_and_nothing_else_is_printed() -> None:
    done = bench("--only", "floor,backhaul-embedded", "--rounds", "1", "--seconds", "0.3")
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert set(printed) == {"floor", "backhaul-embedded"}
    assert printed["floor"]["quotient_to_floor"] == 1.0
    ours = printed["backhaul-embedded"]
    assert ours["quotient_to_floor"] == pytest.approx(ours["cpu_us"] / printed["floor"]["cpu_us"])
    assert ours["batches"] > 10
    assert "starting floor" in done.stderr


def test_what_is_not_installed_is_named_and_the_rest_is_measured(tmp_path: Path) -> None:
    (tmp_path / "g++").symlink_to(shutil.which("g++") or "")
    words = ("--only", "floor,backhaul,node", "--rounds", "1", "--seconds", "0.2")
    done = bench(*words, environ={**os.environ, "PATH": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)) == {"floor"}
    assert "starting backhaul\n  left out: there is no Kafka: java is not installed" in done.stderr
    assert "starting node\n  left out: " in done.stderr


def test_a_run_that_would_fill_the_disk_does_not_begin() -> None:
    done = bench("--only", "rust-maps", "--rounds", "1000000000")
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot measure: " in done.stderr
    assert "GB free, and this may write" in done.stderr


def test_a_program_that_nobody_knows_is_a_mistake_in_the_command() -> None:
    done = bench("--only", "floor,flor")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such program: flor" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ended_in_the_middle_it_leaves_no_process_and_no_file(number: signal.Signals, tmp_path: Path) -> None:
    words = ["--only", "floor,bare,backhaul-embedded", "--rounds", "9", "--seconds", "20"]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench", *words],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as running:
        assert running.stderr is not None
        assert running.stdout is not None
        said = iter(running.stderr.readline, "")
        assert any(line == "starting backhaul-embedded\n" for line in said)
        assert [path.name for path in tmp_path.glob("*/floor-50")]
        if number is signal.SIGINT:
            os.killpg(running.pid, number)  # as a terminal's Ctrl-C does
        else:
            running.send_signal(number)
        assert running.wait(60) == 130
        assert "Traceback" not in running.stderr.read()
        assert not running.stdout.read()
    assert not list(tmp_path.iterdir())
    with pytest.raises(ProcessLookupError):
        os.killpg(running.pid, 0)
