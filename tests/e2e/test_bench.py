"""`python -m tests.bench` as `make bench` runs it: JSON on its output and nothing else, from a run of a second."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench import build

ROOT = Path(__file__).resolve().parents[2]


def test_json_is_one_object_with_a_row_for_each_program_and_nothing_else_is_printed() -> None:
    try:
        build.floor()
    except build.Missing as missing:
        pytest.skip(str(missing))
    words = ["--only", "floor,backhaul-embedded", "--rounds", "1", "--seconds", "0.3"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *words],
        cwd=ROOT,
        env={**os.environ, "JSON": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert set(printed) == {"floor", "backhaul-embedded"}
    assert printed["floor"]["quotient_to_floor"] == 1.0
    ours = printed["backhaul-embedded"]
    assert ours["quotient_to_floor"] == pytest.approx(ours["cpu_us"] / printed["floor"]["cpu_us"])
    assert ours["batches"] > 10
    assert "starting floor" in done.stderr
