"""A short campaign passes, and fails where our own code is broken on purpose."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("chdb", reason="the embedded ClickHouse is an extra")

ROOT = Path(__file__).resolve().parents[2]


def campaign(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.campaign", "--layout", "embedded", "--faults", "8", "--devices", "6"]
    return subprocess.run(
        [*command, "--quiet-seconds", "15", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.timeout(300)
def test_a_short_campaign_loses_and_doubles_nothing() -> None:
    held = campaign("--seed", "3")
    assert (held.returncode, "PASSED" in held.stdout) == (0, True), held.stdout + held.stderr


@pytest.mark.timeout(300)
def test_a_campaign_notices_an_acknowledgement_before_the_write() -> None:
    held = campaign("--seed", "3", "--plant", "acknowledge_early")
    assert (held.returncode, "FAILED" in held.stdout) == (1, True), held.stdout + held.stderr


@pytest.mark.timeout(300)
def test_a_campaign_notices_resends_that_are_not_recognised() -> None:
    held = campaign("--seed", "3", "--plant", "forget_resends")
    assert (held.returncode, "FAILED" in held.stdout) == (1, True), held.stdout + held.stderr
