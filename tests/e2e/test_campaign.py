"""A short campaign passes; one with our own code broken on purpose fails, by the faults that it takes to notice."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("chdb", reason="the embedded ClickHouse is an extra")

ROOT = Path(__file__).resolve().parents[2]


def campaign(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.campaign", "--layout", "embedded", "--devices", "6", "--seed", "3"]
    return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.timeout(300)
def test_a_short_campaign_loses_and_doubles_nothing() -> None:
    held = campaign("--faults", "8")
    assert (held.returncode, held.stdout.splitlines()[-1][:6]) == (0, "PASSED"), held.stdout + held.stderr


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("broken", "faults", "count", "noticed"),
    [
        ("acknowledge_early", "A.gateway:kill", "4", "lost"),
        ("forget_resends", "way.A:lose_replies", "1", "doubled"),
        ("forget_ranges", "A.warehouse:from_zero", "2", "doubled"),
    ],
)
def test_a_campaign_notices_what_is_broken_on_purpose(broken: str, faults: str, count: str, noticed: str) -> None:
    held = campaign("--plant", broken, "--only", faults, "--faults", count)
    last = held.stdout.splitlines()[-1]
    assert (held.returncode, last[:6], noticed in last) == (1, "FAILED", True), held.stdout + held.stderr
