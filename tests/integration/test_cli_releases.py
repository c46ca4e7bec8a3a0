"""The commands for apps, keys and releases, on a real object store."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.cli import main

MODELS = Path(__file__).resolve().parents[1] / "models"


class Ran(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def _run(*words: object) -> Ran:
        code = main([str(word) for word in words])
        return Ran(code, *capsys.readouterr())

    return _run


@pytest.fixture
def publish(run: Run) -> Callable[..., Ran]:
    run("app", "create", "shop")
    run("key", "generate", "release.pem")

    def _publish(file: str = "upsell-1.mlmodel", *more: object) -> Ran:
        words = ("--app", "shop", "--model", "upsell", "--file", MODELS / file, "--sdk", ">=2.3")
        return run("release", "publish", *words, "--sign", "release.pem", *more)

    return _publish


def test_an_app_s_key_is_printed_once_and_alone(run: Run) -> None:
    made = run("app", "create", "shop")
    assert made.code == 0
    assert made.out.startswith("shop.")
    assert made.out.count("\n") == 1
    key = made.out.strip()
    stored = [path.read_text() for path in Path("backhaul-data/store").rglob("*") if path.is_file()]
    assert stored
    assert not any(key in text for text in stored)
    assert key not in run("app", "list", "--json").out


def test_an_app_that_exists_is_refused_in_one_line(run: Run) -> None:
    run("app", "create", "shop")
    again = run("app", "create", "shop")
    assert (again.code, again.out) == (1, "")
    assert again.err.startswith("backhaul: app 'shop' exists already")
    assert again.err.count("\n") == 1


def test_another_key_lets_the_first_be_revoked(run: Run) -> None:
    first = run("app", "create", "shop").out.strip()
    second = json.loads(run("app", "add-key", "shop", "--json").out)["key"]
    assert second != first
    assert run("app", "revoke", "shop", first).code == 0
    [app] = json.loads(run("app", "list", "--json").out)
    assert ["revoked_at" in key for key in app["keys"]] == [True, False]
    assert run("app", "revoke", "shop", "shop.nonsense").code == 1


def test_no_apps_is_no_error(run: Run) -> None:
    Path("backhaul-data/store").mkdir(parents=True)
    assert run("app", "list") == (0, "", "no apps yet: backhaul app create NAME\n")
    assert run("app", "list", "--json").out == "[]\n"


@pytest.mark.parametrize(
    "words",
    [
        ("app", "list"),
        ("release", "list"),
        ("release", "verify"),
        ("key", "list", "--app", "shop"),
        ("rollout", "status", "--app", "shop", "--model", "upsell"),
        ("rollout", "start", "--app", "shop", "--model", "upsell", "--challenger", "2", "--reason", "x"),
        ("explain", "--app", "shop", "--model", "upsell", "--device", "x"),
        ("cost", "--devices", "5", "--release", "1"),
        ("static", "out"),
    ],
)
def test_a_data_directory_that_is_misspelt_is_no_empty_store(run: Run, words: tuple[str, ...]) -> None:
    run("app", "create", "shop")
    refused = run(*words, "--data", "typo")
    assert (refused.code, refused.out) == (2, "")
    assert "/typo/store: `backhaul serve` or `app create` makes one, and --data names the directory" in refused.err
    assert not Path("typo").exists()


def test_a_key_pair_is_private_and_never_overwritten(run: Run) -> None:
    made = json.loads(run("key", "generate", "k.pem", "--json").out)
    assert Path("k.pem").stat().st_mode & 0o777 == 0o600
    assert (made["private"], made["public"]) == ("k.pem", "k.pem.pub")
    again = run("key", "generate", "k.pem")
    assert again.code == 1
    assert again.err.count("\n") == 1


def test_releases_are_numbered_and_listed_newest_first(run: Run, publish: Callable[..., Ran]) -> None:
    first, described = publish().out.splitlines()
    assert first == "published shop/upsell release 1 in catalogue 1"
    assert described == (
        "tree ensemble classifier, specification version 1, labels Dismissed, Purchased; takes input: array of "
        "float64[2]; gives classLabel: string, classProbability: dictionary of string to float64; needs iOS >=11"
    )
    second = json.loads(publish("upsell-2.mlmodel", "--threshold", 0.25, "--json").out)
    assert (second["release"], second["catalogue"]) == (2, 2)
    [catalogue] = json.loads(run("release", "list", "--app", "shop", "--json").out)
    assert [release["release"] for release in catalogue["releases"]] == [2, 1]
    assert catalogue["releases"][0]["parameters"]["threshold"] == 0.25
    assert [release["os"] for release in catalogue["releases"]] == ["iOS >=11", "iOS >=11"]
    assert second["facts"] == catalogue["releases"][0]["facts"]
    assert second["facts"]["inputs"] == [{"name": "input", "type": "array of float64", "shape": [4]}]
    lines = run("release", "list").out.splitlines()
    assert len(lines) == 3
    assert run("release", "list", "--model", "other", "--json").out == "[]\n"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--sdk", "~=2"), "not a comparison"),
        (("--file", "nothing.mlmodel"), "cannot read nothing.mlmodel"),
        (("--file", "release.pem"), "give an .mlmodel file"),
        (("--sign", "release.pem.pub"), "is not a private key"),
        (("--app", "nobody"), "there is no app 'nobody'"),
        (("--threshold", "7"), "from 0 to 1"),
    ],
)
def test_what_cannot_be_published_is_refused_in_one_line(
    publish: Callable[..., Ran], more: tuple[str, str], said: str
) -> None:
    refused = publish("upsell-1.mlmodel", *more)
    assert (refused.code, refused.out) == (1, "")
    assert said in refused.err
    assert refused.err.count("\n") == 1


def test_the_publisher_brings_golden_vectors_in_a_file(run: Run, publish: Callable[..., Ran]) -> None:
    probes = [{"input": [0.5], "output": {"yes": 0.4}}]
    Path("probes.json").write_text(json.dumps(probes))
    words = ("--format", "opaque", "--probes", "probes.json")
    assert publish("upsell-1.mlmodel", *words).code == 0
    assert json.loads(run("release", "list", "--json").out)[0]["releases"][0]["probe"] == probes
    wrong = publish("upsell-1.mlmodel", "--probes", "probes.json")
    assert (wrong.code, wrong.out) == (1, "")
    assert "the model answers" in wrong.err
    Path("probes.json").write_text('[{"input": "x"}]')
    assert "probes.json holds no golden vectors" in publish("upsell-2.mlmodel", *words).err
    assert "cannot read gone.json" in publish("upsell-2.mlmodel", "--probes", "gone.json").err


def test_a_release_that_is_made_urgent_is_another_one(run: Run, publish: Callable[..., Ran]) -> None:
    assert publish().code == 0
    assert publish("upsell-1.mlmodel", "--urgent").code == 0
    [catalogue] = json.loads(run("release", "list", "--json").out)
    assert [release.get("urgent", False) for release in catalogue["releases"]] == [True, False]


def test_a_store_that_cannot_be_reached_is_exit_code_3(run: Run) -> None:
    refused = run("app", "create", "shop", "--data", "/proc/nowhere")
    assert refused.code == 3
    assert "check store_url" in refused.err


def test_a_warehouse_that_is_not_served_is_exit_code_3(run: Run) -> None:
    refused = run("sql", "SELECT 1")
    assert refused.code == 3
    assert "start `backhaul serve`" in refused.err


def test_what_is_the_newest_release_already_is_published_only_when_asked_again(
    run: Run, publish: Callable[..., Ran]
) -> None:
    publish()
    refused = publish()
    assert (refused.code, refused.out) == (1, "")
    assert "is release 1 already" in refused.err
    assert json.loads(publish("upsell-1.mlmodel", "--again", "--json").out)["release"] == 2
    assert json.loads(publish("upsell-1.mlmodel", "--threshold", 0.125, "--json").out)["release"] == 3


@pytest.mark.parametrize(
    "words",
    [("release", "list"), ("release", "verify"), ("rollout", "status", "--model", "m"), ("key", "list")],
)
def test_an_app_that_is_not_there_is_no_app_without_releases(run: Run, words: tuple[str, ...]) -> None:
    run("app", "create", "shop")
    refused = run(*words, "--app", "nope")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("backhaul: there is no app 'nope'")


def test_writing_to_a_directory_that_nobody_serves_says_so(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run("app", "create", "shop", "--data", "here")
    assert "nothing serves here now" in made.err
    assert "nothing serves" not in run("app", "list", "--data", "here").err
    Path("here/lock").write_text(f"{os.getpid()}\n")
    assert "nothing serves" not in run("app", "add-key", "shop", "--data", "here").err
    monkeypatch.setenv("BACKHAUL_STORE_URL", f"file://{Path.cwd()}/elsewhere")
    assert "nothing serves" not in run("app", "create", "shop", "--data", "nowhere").err


@pytest.mark.parametrize("how", [("--below", 2), ("--release", 1)])
def test_bytes_that_were_revoked_come_back_only_with_a_word_about_it(
    how: tuple[object, ...], run: Run, publish: Callable[..., Ran]
) -> None:
    publish()
    assert "revoked" not in publish("upsell-2.mlmodel").err
    assert run("release", "revoke", "--app", "shop", "--model", "upsell", "--sign", "release.pem", *how).code == 0
    back = publish()
    assert (back.code, "were revoked as release 1: devices may run them again now, as 3" in back.err) == (0, True)


def test_bytes_that_newer_releases_pushed_off_the_list_were_not_revoked(run: Run, publish: Callable[..., Ran]) -> None:
    for number in range(6):
        publish(f"upsell-{1 + number % 2}.mlmodel")
    assert "revoked" not in publish().err


def test_the_list_says_what_a_release_reads(run: Run, publish: Callable[..., Ran]) -> None:
    publish("upsell-2.mlmodel")
    assert "battery_level, charging, session_seconds, items_viewed" in run("release", "list").out
