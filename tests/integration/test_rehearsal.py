"""Small rehearsals: real clients beside the simulation of their lives, and beside the sample that the field copies."""

import json
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from math import inf
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gateway.cli import compare, main, versus
from gateway.rehearsal.figures import Figures
from gateway.rehearsal.incidents import _turned
from gateway.rehearsal.plan import Plan
from gateway.rehearsal.run import rehearse
from gateway.rehearsal.script import lives_of, sessions_of
from gateway.rehearsal.sides import sides
from gateway.rehearsal.versus import Versus

MODEL = Path(__file__).resolve().parents[1] / "models" / "upsell-2.mlmodel"


async def test_real_clients_do_what_the_simulation_says_and_nothing_is_lost_or_doubled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    plan = Plan(devices=40, days=1.5, day_seconds=6.0)
    found = await rehearse(plan, tmp_path / "system", tmp_path / "devices", said.append)
    measured, predicted = found.measured, found.predicted[0]
    moments = found.moments
    assert 0 < moments["published"] < moments["stopped"] < moments["killed"] < moments["back"]
    assert (measured.events_lost, measured.events_doubled, found.unsettled) == (0, 0, 0)
    assert found.produced == found.counted.events + found.counted.refused > 300
    # At this pace a second of a busy machine is four hours of a device: what came late may have been learned late.
    late_hours = (found.late_p95_seconds + found.answer_p95_seconds) / 3600
    ratio = measured.requests_per_device_day / predicted.requests_per_device_day
    assert abs(ratio - 1) < 0.4 + 0.1 * late_hours
    learned, expected = measured.learn_p50_hours, predicted.learn_p50_hours
    assert learned is not None or late_hours > 1
    assert expected is not None
    assert abs((learned or expected) - expected) < 2.0 + 2 * late_hours
    assert "release 2 is taken back" in " ".join(said)
    assert compare.print_found(Namespace(json=False), found) == 0
    printed = capsys.readouterr()
    assert "requests a device-day" in printed.out
    assert f"{found.produced} events produced, {found.counted.events} stored" in printed.err


def test_a_week_of_incidents_costs_the_sample_more_than_the_client(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fleet", "versus", "--devices", "3", "--seed", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    ours, sample = found["client"], found["sample"]
    assert (ours["news_requests"], ours["wrong_models"], ours["unanswered"]) == (0, 0, 0)
    assert 0 < ours["downloads"] <= 4 * found["devices"]
    assert sample["downloads"] > 4 * ours["downloads"]
    assert ours["most_crashes"] <= 2
    assert sample["dollars"]["s3"] > 4 * ours["dollars"]["s3"]
    versus.print_found(Namespace(json=False), msgspec.convert(found, Versus), found["prices_as_of"])
    assert "$ at s3, 5 million devices, 1 MB" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_comparison_that_is_told_to_end_leaves_nothing_behind(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "gateway.cli", "fleet", "versus", "--devices", "5000"]
    # As a shell starts what is to run in the background: Ctrl-C is not for it.
    process = subprocess.Popen(
        words,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    end = time.monotonic() + 60
    while not any(tmp_path.iterdir()):
        assert (process.poll(), time.monotonic() < end) == (None, True)
        time.sleep(0.05)
    process.terminate()
    assert process.wait(60) == 130
    assert list(tmp_path.iterdir()) == []


def test_what_was_lived_becomes_lives_and_what_was_cut_off_lasts_to_the_end() -> None:
    lives = Plan(devices=30, days=4.0).lives()
    sessions = [list(sessions_of(lives, device)) for device in range(30)]
    again = lives_of(sessions, until=inf)
    for name, column in vars(lives).items():
        assert np.array_equal(getattr(again, name), column), name
    assert lives.crashed.any(), "crashes are part of the script"
    sessions[0][0].left = inf
    cut = lives_of(sessions, until=300_000.0)
    assert cut.left[0] == 300_000.0 > max(cut.launched.max(), cut.decided.max())
    assert len(cut.launched) == cut.first_session[-1] < len(lives.launched)


def figures(requests: float, learn: float | None = 5.0) -> Figures:
    return Figures(
        requests_per_device_day=requests,
        peak_over_steady=1.0,
        learn_p50_hours=learn,
        learn_p95_hours=None,
        stopped_release_decisions=0.0,
        refused_share=0.0,
        told_seconds_most=600.0,
        events_lost=0,
        events_doubled=0,
    )


def differing(measured: Figures, *predicted: Figures) -> list[str]:
    return [side.name for side in sides(measured, list(predicted)) if side.differs]


def test_what_is_further_than_a_tenth_from_every_prediction_differs() -> None:
    assert differing(figures(4.5), figures(4.0), figures(4.2)) == []
    assert differing(figures(4.7), figures(4.0), figures(4.2)) == ["requests a device-day"]
    assert differing(figures(4.0, None), figures(4.0)) == ["half have learned, hours"]
    assert differing(figures(4.0, None), figures(4.0), figures(4.0, None)) == [], "so close that it is chance"


def test_a_turned_byte_leaves_another_model_of_the_same_length() -> None:
    content = MODEL.read_bytes()
    turned = _turned(content)
    assert len(turned) == len(content)
    assert sum(a != b for a, b in zip(turned, content, strict=True)) == 1
