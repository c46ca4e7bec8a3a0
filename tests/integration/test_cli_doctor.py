"""The doctor where nothing runs; with everything running it is examined in the e2e tests."""

import json
from pathlib import Path

import pytest

from gateway.cli import main


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    return {finding["part"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_nothing_running_is_a_warning_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--data", str(tmp_path / "new"), "--json"]) == 0
    found = findings(capsys)
    assert {part: finding["state"] for part, finding in found.items()} == {
        "configuration": "ok",
        "python": "ok",
        "packages": "ok",
        "data": "warn",
        "disk": "ok",
        "fsync": found["fsync"]["state"],  # the machine's own
        "supervisor": "warn",
        "store": "warn",
        "gateway": "warn",
        "clickhouse": "warn",
    }
    assert all(finding["advice"] for finding in found.values() if finding["state"] != "ok")
    assert list(tmp_path.iterdir()) == []


def test_a_data_directory_that_cannot_be_made_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--data", str(tmp_path / "file" / "under"), "--json"]) == 1
    assert findings(capsys)["data"]["state"] == "fail"


def test_a_clickhouse_that_is_configured_and_silent_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKHAUL_CLICKHOUSE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("BACKHAUL_CLICKHOUSE_PASSWORD", "hunter2")
    assert main(["doctor", "--data", str(tmp_path), "--json"]) == 1
    found = findings(capsys)
    assert found["clickhouse"]["state"] == "fail"
    assert "clickhouse_password=***" in found["configuration"]["text"]
    assert "hunter2" not in json.dumps(found)


def test_a_wrong_configuration_is_one_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKHAUL_LISTEN", "here")
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.startswith("FAIL  configuration  listen from the variable BACKHAUL_LISTEN")
