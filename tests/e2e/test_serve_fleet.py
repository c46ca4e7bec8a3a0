"""The commands of the README, one after the other, against a system that really serves."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("chdb", reason="the embedded ClickHouse is an extra")

BACKHAUL = [sys.executable, "-P", "-m", "gateway.cli"]
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("BACKHAUL_")} | {
    "BACKHAUL_REFRESH_SECONDS": "0.1"
}
MODEL = Path(__file__).resolve().parents[1] / "models" / "upsell-1.mlmodel"


@pytest.fixture
def backhaul(tmp_path: Path) -> Callable[..., Any]:
    """Run a command in a directory of its own and return the JSON that it prints."""

    def _backhaul(*words: object) -> Any:
        command = [*BACKHAUL, *map(str, words), "--json"]
        done = subprocess.run(command, cwd=tmp_path, env=ENVIRON, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return _backhaul


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    command = [*BACKHAUL, "serve", "--listen", "127.0.0.1:0", "--json"]
    with (tmp_path / "stderr").open("w") as stderr:
        served = subprocess.Popen(command, cwd=tmp_path, env=ENVIRON, stdout=subprocess.PIPE, stderr=stderr)
    assert served.stdout is not None
    yield str(json.loads(served.stdout.readline())["url"])
    served.send_signal(signal.SIGTERM)
    assert served.wait(20) == 0
    served.stdout.close()


def test_an_app_a_release_and_a_fleet_end_as_rows_that_a_report_sums_up(
    url: str, backhaul: Callable[..., Any], tmp_path: Path
) -> None:
    key = backhaul("app", "create", "shop")["key"]
    backhaul("key", "generate", "release.pem")
    release = ("--app", "shop", "--model", "upsell", "--file", MODEL, "--sdk", ">=2.3", "--sign", "release.pem")
    assert backhaul("release", "publish", *release)["release"] == 1
    fleet = ("--url", url, "--app-key", key, "--public-key", "release.pem.pub", "--bundled", MODEL)
    report = backhaul("fleet", "run", *fleet, "--devices", 5, "--seconds", 3, "--day-seconds", 2)
    assert (report["devices"], report["unsettled"], report["queued"]) == (5, 0, 0)
    assert report["produced"] > 0
    [counted] = stored(backhaul, report["produced"] - sum(report["dropped"].values()))
    assert counted["doubled"] == 0
    assert backhaul("report", "summary", "--app", "shop")
    for report in ("summary", "loss"):
        command = [*BACKHAUL, "report", report, "--app", "nope"]
        done = subprocess.run(command, cwd=tmp_path, env=ENVIRON, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (1, "")
        assert "there is no app 'nope'" in done.stderr


def test_a_fleet_needs_no_more_than_the_url(url: str, backhaul: Callable[..., Any], tmp_path: Path) -> None:
    for _ in range(2):
        report = backhaul("fleet", "run", "--url", url, "--devices", 3, "--seconds", 2, "--day-seconds", 1)
        assert (report["devices"], report["unsettled"], report["queued"]) == (3, 0, 0)
    [app] = backhaul("app", "list")
    assert (app["app"], len(app["keys"])) == ("fleet", 1)
    assert (tmp_path / "backhaul-data" / "fleet.key").stat().st_mode & 0o777 == 0o600


def test_a_fleet_without_a_system_here_needs_a_key(tmp_path: Path) -> None:
    words = ("fleet", "run", "--url", "http://127.0.0.1:1", "--devices", "1")
    done = subprocess.run([*BACKHAUL, *words], cwd=tmp_path, env=ENVIRON, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--app-key" in done.stderr


def test_a_fleet_with_a_wrong_key_is_told_which(url: str, backhaul: Callable[..., Any], tmp_path: Path) -> None:
    key = backhaul("app", "create", "shop")["key"]
    signing, other = (backhaul("key", "generate", name)["key"] for name in ("release.pem", "other.pem"))
    release = ("--app", "shop", "--model", "upsell", "--file", MODEL, "--sdk", ">=2.3", "--sign", "release.pem")
    backhaul("release", "publish", *release)

    def run(app_key: str) -> subprocess.CompletedProcess[str]:
        fleet = ("--url", url, "--app-key", app_key, "--public-key", "other.pem.pub", "--bundled", str(MODEL))
        words = ("fleet", "run", *fleet, "--devices", "3", "--seconds", "3", "--day-seconds", "1")
        return subprocess.run([*BACKHAUL, *words], cwd=tmp_path, capture_output=True, text=True, timeout=60)

    disbelieving = run(key)
    assert disbelieving.returncode == 1
    assert f"(unknown_key: catalogue signed by {signing}); --public-key is {other}" in disbelieving.stderr
    refused = run("shop.nothing")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == "backhaul: the gateway refuses this app key: 401 unknown_key\n"


def stored(backhaul: Callable[..., Any], events: int) -> Any:
    """Return the counts once everything that arrived is in the warehouse; the caller's timeout ends a vain wait."""
    query = (
        "SELECT (SELECT count() FROM events) + (SELECT count() FROM dead_letters) AS n,"
        " (SELECT count() - uniqExact(device, batch, `index`) FROM events) AS doubled"
    )
    while (counted := backhaul("sql", query))[0]["n"] < events:
        pass
    assert counted[0]["n"] == events
    return counted
