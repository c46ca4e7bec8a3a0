"""The command line itself: exit codes, one-line errors, what goes where, and how fast the help is."""

import json
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.cli.failures import one_line
from gateway.cli.options import this_command
from gateway.cli.printing import as_json, moment, show, show_table
from gateway.cli.sql import statement

NOUNS = ("serve", "app", "key", "release", "report", "dead-letters", "sql", "fleet", "demo", "doctor", "consume")


def test_the_help_names_every_noun(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    words = capsys.readouterr().out.split()
    assert [noun for noun in NOUNS if noun not in words] == []
    assert "child" not in words


@pytest.mark.parametrize(
    "words", [[], ["nope"], ["app"], ["app", "create"], ["serve", "--port", "1"], ["key", "generate"], ["child"]]
)
def test_wrong_usage_is_one_line_and_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "--help)" in printed.err


@pytest.mark.parametrize("words", [["serve", "--port", "1"], ["report", "summary", "--aps", "shop"]])
def test_an_unknown_flag_is_refused_by_the_command_that_does_not_know_it(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(words)
    command = " ".join(["backhaul", *words[:-2]])
    said = f"{command}: unrecognized arguments: {' '.join(words[-2:])} (see {command} --help)\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["--url", "127.0.0.1:1"], 2, "--url 127.0.0.1:1 is no address of a gateway, such as http://127.0.0.1:8080"),
        (["--url", "http://127.0.0.1:1"], 3, "cannot reach the gateway at http://127.0.0.1:1: Connection refused"),
        (["--url", "http://127.0.0.1:1", "--bundled", "/nowhere"], 1, "with /nowhere: No such file or directory"),
    ],
)
def test_a_fleet_that_cannot_begin_says_why(
    words: list[str], code: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fleet", "run", "--app-key", "shop.x", *words]) == code
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["run", "compare", "versus"])
def test_more_real_devices_than_a_machine_takes_are_refused_at_once(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["fleet", verb, "--devices", "100000000"])
    assert "argument --devices: 100000000 is above 100000" in capsys.readouterr().err


def test_a_wrong_configuration_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKHAUL_GRACE_SECOND", "1")
    assert main(["app", "list"]) == 2
    assert capsys.readouterr().err == (
        "backhaul: unknown key 'grace_second' from the variable BACKHAUL_GRACE_SECOND: did you mean 'grace_seconds'?\n"
    )


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("backhaul ")


def test_the_help_imports_nothing_heavy() -> None:
    """Wall time depends on the machine; what is imported does not."""
    script = (
        "import sys\nfrom gateway.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'aiohttp', 'asyncio', 'clickhouse_connect', 'cryptography', 'obstore', 'rich', 'sqlite3', 'chdb'}\n"
        "sys.stderr.write(' '.join(sorted(heavy & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_a_table_is_json_objects_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(Namespace(json=True), ("a", "b"), [(1, "x"), (2, None)])
    assert json.loads(capsys.readouterr().out) == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]


def test_no_rows_is_an_empty_list_for_programs_and_a_remark_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(Namespace(json=True), ("a",), [])
    assert capsys.readouterr().out == "[]\n"
    show_table(Namespace(json=False), ("a",), [], "none yet")
    assert capsys.readouterr() == ("", "none yet\n")


def test_a_table_in_a_pipe_loses_no_cell(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(Namespace(json=False), ("name", "rate"), [("x" * 200, 0.123456789), ("[bold]", None)])
    printed = capsys.readouterr().out
    assert "x" * 200 in printed
    assert "0.123457" in printed
    assert "[bold]" in printed


def test_text_is_for_people_and_data_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    show(Namespace(json=False), {"key": "k"}, "k")
    assert capsys.readouterr().out == "k\n"
    show(Namespace(json=True), {"key": "k"}, "k")
    assert capsys.readouterr().out == '{"key":"k"}\n'


def test_what_json_has_no_form_for_becomes_text() -> None:
    assert as_json({"o": {1: complex(1, 2)}}) == '{"o":{"1":"(1+2j)"}}'


def test_a_moment_is_utc_to_the_second() -> None:
    assert moment(1795334400123) == "2026-11-22 08:00:00Z"
    assert moment(None) == ""


def test_a_message_of_many_lines_becomes_one() -> None:
    assert one_line("a\n  b\tc") == "a b c"


def test_a_table_that_does_not_fit_is_lines_of_name_and_value(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(Namespace(json=False), ("id", "body", "n"), [(1, "x" * 2000, None), (2, "y\nz", 0.5)])
    assert capsys.readouterr().out == f"id    1\nbody  {'x' * 2000}\nn     \n\nid    2\nbody  y\n      z\nn     0.5\n"


def test_the_running_program_can_be_pasted_into_a_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "a directory" / "backhaul"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "argv", [str(program)])
    assert shlex.split(this_command()) == [str(program)]
    monkeypatch.setattr(sys, "argv", ["gateway/cli/__main__.py"])
    assert shlex.split(this_command()) == [sys.executable, "-P", "-m", "gateway.cli"]


@pytest.mark.parametrize("text", ["SELECT 1", " SELECT 1 ; ", "SELECT 1 FORMAT JSON", "SELECT 1\nformat Pretty;"])
def test_a_statement_loses_what_the_client_adds_itself(text: str) -> None:
    assert statement(text) == "SELECT 1"


def test_a_word_that_only_looks_like_a_format_stays() -> None:
    for text in ("SELECT format FROM formats", "SELECT ' FORMAT JSON'"):
        assert statement(text) == text


def test_an_empty_statement_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", " ; "]) == 2
    assert "the query is empty" in capsys.readouterr().err
