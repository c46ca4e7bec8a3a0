"""`backhaul rollout` as an operator types it, on a real object store."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from gateway.cli import main

MODELS = Path(__file__).resolve().parents[1] / "models"
UPSELL = ("--app", "shop", "--model", "upsell")


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A store with the releases 41 and 42."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGNAME", "ann")

    def _run(*words: object) -> Ran:
        try:
            code = main([str(word) for word in words])
        except SystemExit as left:
            code = int(str(left.code))
        return Ran(code, *capsys.readouterr())

    _run("app", "create", "shop")
    _run("key", "generate", "release.pem")
    for number in (41, 42):
        file = MODELS / f"upsell-{number - 40}.mlmodel"
        words = ("--file", file, "--sdk", ">=2.3", "--sign", "release.pem", "--release", number)
        assert _run("release", "publish", *UPSELL, *words).code == 0
    return _run


def start(run: Run, *more: object) -> Ran:
    words = ("--challenger", 42, "--champion", 41, "--baseline", 0.1, "--stages", "1,5,25,100", "--reason", "new trees")
    return run("rollout", "start", *UPSELL, *words, *more)


def test_a_rollout_is_started_advanced_and_rolled_back(run: Run) -> None:
    started = start(run, "--json").json
    assert (started["waits"], started["document"]) == (False, 1)
    rollout = started["rollout"]
    assert rollout["arms"] == [
        {"name": "champion", "use": 41, "weight": 0.45},
        {"name": "challenger", "use": 42, "weight": 0.45},
        {"name": "baseline", "use": "none", "weight": 0.1},
    ]
    assert (rollout["exposure"], rollout["stages"], rollout["otherwise"]) == (0.01, [0.01, 0.05, 0.25, 1.0], 41)
    assert (rollout["author"], rollout["reason"]) == ("ann", "new trees")
    assert (
        run("rollout", "advance", *UPSELL, "--to", 5, "--reason", "fine", "--json").json["rollout"]["exposure"] == 0.05
    )
    assert run("rollout", "advance", *UPSELL, "--reason", "fine", "--to", 50).code == 0
    assert run("rollout", "pause", *UPSELL, "--reason", "look").code == 0
    assert run("rollout", "resume", *UPSELL, "--reason", "go").code == 0
    back = run("rollout", "rollback", *UPSELL, "--reason", "worse", "--author", "bob")
    assert "rollout 1.6 rolled back" in back.out
    found = run("rollout", "status", *UPSELL, "--json").json
    assert (found["number"], found["rollout"]["state"], found["rollout"]["author"]) == (6, "rolled_back", "bob")
    entries = run("rollout", "history", *UPSELL, "--json").json
    assert [entry["rollout"]["reason"] for entry in entries] == ["new trees", "fine", "fine", "look", "go", "worse"]
    assert [entry["number"] for entry in entries] == [1, 2, 3, 4, 5, 6]


def test_people_read_where_a_rollout_stands_and_what_changed(run: Run) -> None:
    assert "no rollout" in run("rollout", "status", *UPSELL).out
    assert run("rollout", "history", *UPSELL).err.startswith("no rollouts yet")
    start(run)
    said = run("rollout", "status", *UPSELL).out
    assert "shop/upsell rollout 1.1 running at 1 %" in said
    assert "challenger   42       45 %" in said
    assert "by ann at " in said
    run("rollout", "complete", *UPSELL, "--reason", "better")
    assert len(run("rollout", "history", *UPSELL).out.splitlines()) == 3
    lines = run("rollout", "diff", *UPSELL).out.splitlines()
    assert any(line.split() == ["otherwise", "41", "42"] for line in lines)
    changes = run("rollout", "diff", *UPSELL, "--from", 1, "--to", 2, "--json").json["changes"]
    assert changes["state"] == {"from": "running", "to": "complete"}
    assert run("rollout", "diff", *UPSELL, "--from", 7).code == 2


def test_targets_are_told_by_name_or_as_the_document_has_them(run: Run) -> None:
    words = [
        "sdk=>=2.3",
        "sdk=<3",
        "os=iOS >=17",
        "app-version=>=5",
        "locale=de_AT",
        "locale=fr",
        "hardware=iPhone15,3",
    ]
    rollout = start(run, *(word for target in words for word in ("--target", target)), "--json").json["rollout"]
    target = {
        "sdk": ">=2.3,<3",
        "app_version": ">=5",
        "os": "iOS >=17",
        "locale": ["de_AT", "fr"],
        "hardware": ["iPhone15,3"],
    }
    assert rollout["target"] == target
    run("rollout", "rollback", *UPSELL, "--reason", "again")
    assert start(run, "--target", json.dumps(target), "--json").json["rollout"]["target"] == target


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("start", "--challenger", 42, "--champion", 41), 2, "--reason"),
        (("start", "--challenger", 42, "--champion", 41, "--reason", " "), 2, "--reason is empty"),
        (
            ("start", "--challenger", 43, "--champion", 41, "--reason", "x"),
            1,
            "release 43 of shop/upsell is not listed",
        ),
        (("start", "--challenger", "new", "--champion", 41, "--reason", "x"), 2, "no release's number"),
        (
            ("start", "--challenger", 42, "--champion", 41, "--stages", "5,1", "--reason", "x"),
            1,
            "percentages that rise",
        ),
        (("start", "--challenger", 42, "--champion", 41, "--stages", "a", "--reason", "x"), 2, "not a percentage"),
        (("start", "--challenger", 42, "--champion", 41, "--target", "os", "--reason", "x"), 2, "not NAME=VALUE"),
        (
            ("start", "--challenger", 42, "--champion", 41, "--target", "sdk=new", "--reason", "x"),
            1,
            "no gateway would",
        ),
        (("start", "--challenger", 42, "--reason", "x"), 1, "say what runs now"),
        (("advance", "--reason", "x"), 1, "there is no rollout"),
        (("rollback", "--reason", "x", "--seen", 3), 1, "you looked at document 3"),
        (("approve",), 1, "nothing waits for approval"),
        (("approve", "--proposal", 1), 2, "say why you approve it with --reason"),
        (("approve", "--proposal", 1, "--reason", "x"), 1, "nothing waits for approval"),
    ],
)
def test_what_cannot_be_done_says_why_in_one_line(run: Run, words: tuple[object, ...], code: int, said: str) -> None:
    refused = run("rollout", words[0], *UPSELL, *words[1:])
    assert (refused.code, refused.out) == (code, "")
    assert said in refused.err
    assert refused.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("history",),
        ("diff",),
        ("start", "--challenger", 42, "--reason", "x"),
        ("rollback", "--reason", "x"),
    ],
)
def test_a_model_that_is_misspelt_is_no_model_without_rollouts(run: Run, words: tuple[object, ...]) -> None:
    refused = run("rollout", *words, "--app", "shop", "--model", "upsel")
    assert (refused.code, refused.out) == (1, "")
    assert "nothing is published for a model 'upsel' of shop: its models are upsell" in refused.err


def test_of_a_rollout_that_is_over_the_status_says_what_everyone_is_offered(run: Run) -> None:
    start(run)
    assert "challenger   42       45 %" in run("rollout", "status", *UPSELL).out
    run("rollout", "rollback", *UPSELL, "--reason", "worse")
    over = run("rollout", "status", *UPSELL).out.splitlines()
    assert over[2:] == [
        "every device but those held out is offered 41",
        "baseline is held out across rollouts, 1 % of it so far",
    ]


def test_a_step_that_two_operators_mean_is_taken_once(run: Run) -> None:
    start(run)
    advance = ("rollout", "advance", *UPSELL, "--reason", "fine")
    vague = run(*advance)
    assert vague.code == 1
    assert "rollout 1 stands at 1 %, by ann: say how far with --to (its next stage is 5)" in vague.err
    assert run(*advance, "--seen", 1, "--json").json["rollout"]["exposure"] == 0.05
    assert "you looked at document 1, but 2 is the newest" in run(*advance, "--seen", 1).err
    assert "rollout 1 stands at 5 %, by ann, and only rises" in run(*advance, "--to", 5).err
    assert run("rollout", "status", *UPSELL, "--json").json["number"] == 2
    assert "(document 2)" in run("rollout", "status", *UPSELL).out, "the number that --seen asks for"


def test_under_the_two_person_rule_a_second_operator_approves(run: Run) -> None:
    assert run("rollout", "rule", "--app", "shop", "--two-person", "on", "--reason", "payments").out.endswith("is on\n")
    assert "it waits for a second operator" in start(run).out
    assert "waits for approval: proposal 1 by ann" in run("rollout", "status", *UPSELL).out
    which = run("rollout", "approve", *UPSELL, "--author", "bob")
    assert (which.code, which.out) == (2, "")
    assert "--proposal 1 is the one that waits, by ann (new trees): shop/upsell rollout 1.1 running at 1 %" in which.err
    assert run("rollout", "approve", *UPSELL, "--proposal", 1, "--reason", "mine").code == 1
    approve = ("rollout", "approve", *UPSELL, "--author", "bob", "--proposal", 1, "--reason", "seen the figures")
    approved = run(*approve, "--json").json
    assert (approved["document"], approved["rollout"]["approved_by"]) == (1, "bob")
    assert approved["rollout"]["reason"] == "new trees; bob: seen the figures"
    assert "ann, approved by bob" in run("rollout", "history", *UPSELL).out
    assert run("rollout", "rollback", *UPSELL, "--reason", "worse", "--json").json["waits"] is False
    off = ("rollout", "rule", "--app", "shop", "--two-person", "off", "--reason", "alone now")
    assert "until a second operator" in run(*off).out
    assert run(*off, "--author", "bob", "--json").json["two_person"] == "off"


def test_everyone_is_held_on_a_release_until_a_rollout_names_the_next(run: Run) -> None:
    held = run("rollout", "hold", *UPSELL, "--use", 41, "--reason", "42 is for the rollout", "--json").json["rollout"]
    assert (held["state"], held["otherwise"]) == ("complete", 41)
    started = run("rollout", "start", *UPSELL, "--challenger", 42, "--reason", "now", "--json").json["rollout"]
    assert (started["rollout"], started["otherwise"], started["exposure"]) == (2, 41, 0.01)
