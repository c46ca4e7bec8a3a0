"""The campaign's pure parts: a seed names its faults, and the verdict sees what is wrong."""

import gzip
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.campaign.journal import Sent
from tests.campaign.plants import PLANTS, plant
from tests.campaign.schedule import Target, schedule
from tests.campaign.verdict import Content, Stored, judge

ROOT = Path(__file__).resolve().parents[2]
TARGETS = [
    Target("devices", ("kill", "stop")),
    Target("way.A", ("refuse",)),
    Target("A.warehouse", ("stop",), zombie=True),
]


def sent(batch: str, ids: list[int], refused: list[int] | None) -> Sent:
    events = [{"id": number, "score": number / 1000, "signals": [0.5, 1]} for number in ids]
    return Sent(batch, "d", 1, ids, gzip.compress(msgspec.json.encode({"events": events})), refused)


def content(number: int) -> Content:
    return ("d", number, number / 1000, 0.5)


SENT = [sent("b1", [100, 101, 102], [1]), sent("b2", [200], [])]
RESENDS = (5, 0)
WHOLE = {("b1", 0): content(100), ("b1", 2): content(102), ("b2", 0): content(200)}


def found(**changed: object) -> Stored:
    whole: dict[str, object] = {
        "events": WHOLE,
        "event_rows": Counter([("b1", 0), ("b1", 2), ("b2", 0)]),
        "batch_rows": Counter(["b1", "b2"]),
        "letter_rows": Counter([("b1", 1)]),
    }
    return Stored(**(whole | changed))  # type: ignore[arg-type]  # the field names are right above


def test_a_seed_names_its_faults_and_hits_every_target() -> None:
    assert schedule(TARGETS, 30, 7) == schedule(TARGETS, 30, 7) != schedule(TARGETS, 30, 8)
    assert {fault.target for fault in schedule(TARGETS, 3, 7)} == {target.name for target in TARGETS}


def test_everything_once_is_a_pass() -> None:
    assert judge(SENT, RESENDS, found()).good


@pytest.mark.parametrize(
    ("wrong", "changed"),
    [
        ("lost", {"events": {place: said for place, said in WHOLE.items() if place != ("b1", 2)}}),
        ("lost", {"events": WHOLE | {("b1", 2): content(999)}}),
        ("lost", {"events": WHOLE | {("b1", 2): ("d", 102, 0.9, 0.5)}}),
        ("lost", {"batch_rows": Counter(["b1"])}),
        ("doubled", {"event_rows": Counter([("b1", 0), ("b1", 2), ("b2", 0), ("b2", 0)])}),
        ("doubled", {"batch_rows": Counter(["b1", "b2", "b2"])}),
        ("strange", {"events": WHOLE | {("b1", 1): content(101)}}),
        ("letters_lost", {"letter_rows": Counter()}),
        ("letters_doubled", {"letter_rows": Counter([("b1", 1), ("b1", 1)])}),
    ],
)
def test_what_is_wrong_is_counted_and_fails(wrong: str, changed: dict[str, object]) -> None:
    verdict = judge(SENT, RESENDS, found(**changed))
    assert getattr(verdict, wrong) == 1
    assert not verdict.good


def test_a_resend_that_is_answered_otherwise_fails() -> None:
    assert not judge(SENT, (5, 1), found()).good


def test_a_campaign_in_which_nothing_was_tried_proves_nothing() -> None:
    assert not judge([], RESENDS, Stored({}, Counter(), Counter(), Counter())).good
    assert not judge(SENT, (0, 0), found()).good


def test_a_batch_without_an_answer_fails() -> None:
    assert not judge([*SENT, sent("b3", [300], None)], RESENDS, found()).good


@pytest.mark.parametrize("name", sorted(PLANTS))
def test_every_planted_fault_still_finds_its_place(name: str, tmp_path: Path) -> None:
    planted = plant(name, ROOT, tmp_path)
    assert all((planted / each.file).read_text() != (ROOT / each.file).read_text() for each in PLANTS[name])
