"""The demonstration as a newcomer runs it, only smaller."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("chdb", reason="the embedded ClickHouse is an extra")

DEMO = [sys.executable, "-P", "-m", "gateway.cli", "demo", "--devices", "12", "--seconds", "8", "--seed", "3"]


def test_the_demonstration_ends_with_every_event_stored_once_and_every_device_on_its_release(tmp_path: Path) -> None:
    data = tmp_path / "data"
    done = subprocess.run([*DEMO, "--json", "--data", str(data)], capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    fleet, stored = result["fleet"], result["stored"]
    assert result["faults"] == []
    assert fleet["produced"] == stored["events"] + stored["refused"] + sum(fleet["dropped"].values()) > 100
    assert fleet["releases"] == {"1": 1, "2": 11}
    assert fleet["downloads"] >= 11
    assert set(stored["reasons"]) <= {"score_out_of_range"}
    assert {row["release"] for row in stored["conversions"]} == {1, 2}
    assert result["requests_per_device_day"] < result["usual_requests_per_device_day"]
    assert not (data / "run.json").exists()
    assert (result["data"], "url" in result) == (str(data), False)


def test_a_directory_in_use_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    done = subprocess.run([*DEMO, "--data", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "is not empty" in done.stderr


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_demonstration_that_keeps_serving_says_where_to_look_and_leaves_when_told(
    tmp_path: Path, stop: signal.Signals
) -> None:
    command = [*DEMO, "--seconds", "4", "--keep"]
    with (tmp_path / "stderr").open("w") as stderr:
        environ = os.environ | {"TMPDIR": str(tmp_path)}
        demo = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environ)
    assert demo.stdout is not None
    printed = []
    for line in demo.stdout:
        printed.append(line)
        if "openapi.json" in line:
            break
    [data] = tmp_path.glob("backhaul-demo-*")
    serving = json.loads((data / "run.json").read_text())["pid"]
    text = "".join(printed)
    [hint] = [line for line in printed if " report summary --data " in line]
    asked = subprocess.run(hint, shell=True, capture_output=True, text=True, cwd="/", timeout=60)  # noqa: S602 - a shell is what it is for
    os.kill(demo.pid, stop)
    code = demo.wait(60)
    demo.stdout.close()
    said = (tmp_path / "stderr").read_text()
    assert code == 0, text + said
    assert "All is well" in text
    assert "1 device with SDK 2.2.4 cannot run release 2" in text
    assert (asked.returncode, "Traffic" in asked.stdout) == (0, True), asked.stderr
    assert f"Stopped. What it wrote is kept in {data}" in said
    assert f"rm -r {data} " in said
    with pytest.raises(ProcessLookupError):
        os.kill(serving, 0)
