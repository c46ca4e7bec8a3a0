"""The campaign's pure parts: a seed names its faults, and the verdict sees what is wrong."""

from collections import Counter
from pathlib import Path

import pytest

from tests.campaign.journal import Sent
from tests.campaign.plants import PLANTS, plant
from tests.campaign.schedule import Target, schedule
from tests.campaign.verdict import Stored, judge

ROOT = Path(__file__).resolve().parents[2]
TARGETS = [
    Target("devices", ("kill", "stop")),
    Target("way.A", ("refuse",)),
    Target("A.warehouse", ("stop",), zombie=True),
]
SENT = [Sent("b1", "d", 1, [100, 101, 102], b"", refused=[1]), Sent("b2", "d", 2, [200], b"", refused=[])]


def found(**changed: object) -> Stored:
    whole: dict[str, object] = {
        "events": {("b1", 0): 100, ("b1", 2): 102, ("b2", 0): 200},
        "event_rows": Counter([("b1", 0), ("b1", 2), ("b2", 0)]),
        "batch_rows": Counter(["b1", "b2"]),
        "letter_rows": Counter([("b1", 1)]),
        "rollups_agree": True,
    }
    return Stored(**(whole | changed))  # type: ignore[arg-type]  # the field names are right above


def test_a_seed_names_its_faults_and_hits_every_target() -> None:
    assert schedule(TARGETS, 30, 7) == schedule(TARGETS, 30, 7) != schedule(TARGETS, 30, 8)
    assert {fault.target for fault in schedule(TARGETS, 3, 7)} == {target.name for target in TARGETS}


def test_everything_once_is_a_pass() -> None:
    assert judge(SENT, found()).good


@pytest.mark.parametrize(
    ("wrong", "changed"),
    [
        ("lost", {"events": {("b1", 0): 100, ("b2", 0): 200}}),
        ("lost", {"events": {("b1", 0): 100, ("b1", 2): 999, ("b2", 0): 200}}),
        ("lost", {"batch_rows": Counter(["b1"])}),
        ("doubled", {"event_rows": Counter([("b1", 0), ("b1", 2), ("b2", 0), ("b2", 0)])}),
        ("doubled", {"batch_rows": Counter(["b1", "b2", "b2"])}),
        ("strange", {"events": {("b1", 0): 100, ("b1", 1): 101, ("b1", 2): 102, ("b2", 0): 200}}),
        ("letters_lost", {"letter_rows": Counter()}),
        ("letters_doubled", {"letter_rows": Counter([("b1", 1), ("b1", 1)])}),
    ],
)
def test_what_is_wrong_is_counted_and_fails(wrong: str, changed: dict[str, object]) -> None:
    verdict = judge(SENT, found(**changed))
    assert getattr(verdict, wrong) == 1
    assert not verdict.good


def test_rollups_that_differ_fail() -> None:
    assert not judge(SENT, found(rollups_agree=False)).good


def test_a_batch_without_an_answer_fails() -> None:
    assert not judge([*SENT, Sent("b3", "d", 3, [300], b"")], found()).good


@pytest.mark.parametrize("name", sorted(PLANTS))
def test_every_planted_fault_still_finds_its_place(name: str, tmp_path: Path) -> None:
    planted = plant(name, ROOT, tmp_path)
    assert [(planted / each.file).read_text() != (ROOT / each.file).read_text() for each in PLANTS[name]] == [True]
