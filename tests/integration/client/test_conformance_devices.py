"""The kit on the reference client, row by row; and on the sample that the field copies, which it must catch."""

import asyncio
import gc
import sys
from typing import Final

import pytest

from gateway.cli import main
from gateway.client.conformance import Result
from gateway.client.conformance.devices import judge
from gateway.client.conformance.results import PHONE_ONLY, Row
from gateway.client.conformance.rows import ROWS, TABLE
from gateway.client.conformance.world import World

DRIVER: Final = (sys.executable, "-m", "gateway.client.conformance.driver")
SAMPLE: Final = (sys.executable, "-m", "gateway.client.conformance.blog_driver")
# Where the sample fails, by the rows that say so, and what the field sees.
CAUGHT: Final = {
    "A10": "every check downloads again",
    "2": "a page is kept as a model",
    "4": "corrupt bytes decide",
    "10": "a model that crashes on load crashes every launch",
    "12": "an error of a prediction has no answer",
    "13": "killed between two moves",
    "18": "two checks at once",
    "20": "an app update with a newer bundled model is ignored",
    "24": "anybody's catalogue is believed",
}


@pytest.fixture(scope="module")
def results() -> dict[str, Result]:
    return {result.row: result for result in asyncio.run(judge(DRIVER))}


@pytest.mark.parametrize("row", ROWS.rows, ids=lambda row: f"{row.name}: {row.sentence}")
def test_the_reference_client_holds_row(row: Row[World], results: dict[str, Result]) -> None:
    result = results[row.name]
    if result.outcome == "skipped" and result.why.startswith(PHONE_ONLY):
        pytest.skip(result.why)
    assert (result.outcome, result.why) == ("passed", "")


def test_every_row_of_the_table_is_a_row_of_the_kit_and_one_is_a_phones_alone() -> None:
    assert [row.name for row in ROWS.rows][:TABLE] == [str(number) for number in range(1, TABLE + 1)]
    assert [row.name for row in ROWS.rows if row.check is None] == ["26"]


def test_every_row_says_why_it_exists() -> None:
    assert [row.name for row in ROWS.rows if row.check is not None and not row.check.__doc__] == []


@pytest.fixture(scope="module")
def sample() -> dict[str, Result]:
    return {result.row: result for result in asyncio.run(judge(SAMPLE, only=CAUGHT))}


@pytest.mark.parametrize("row", CAUGHT, ids=lambda row: f"{row}: {CAUGHT[row]}")
def test_the_kit_catches_the_copied_sample(row: str, sample: dict[str, Result]) -> None:
    assert sample[row].outcome == "failed"
    assert "could not go on" not in sample[row].why


def saying(answer: str) -> tuple[str, ...]:
    """Return a driver that answers every command with this."""
    program = (
        f"import json\nfor line in open(0): print(json.dumps({{'id': json.loads(line)['id'], {answer}}}), flush=True)"
    )
    return (sys.executable, "-c", program)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ((sys.executable, "-c", ""), "the process died over 'start'"),
        ((sys.executable, "-c", "print('hello')"), "the process died over 'start'"),
        (saying("'yes': 1"), "not of the protocol"),
        (saying("'error': 'it hurts'"), "it hurts"),
        (saying("'ok': {}"), "a prediction was answered with the score None"),
        (("/nowhere/driver",), "the driver cannot be started"),
    ],
)
async def test_a_driver_that_does_not_speak_the_protocol_fails(command: tuple[str, ...], why: str) -> None:
    (result,) = await judge(command, only=["28"])
    assert result.outcome == "failed"
    assert why in result.why


async def test_a_driver_that_does_not_know_a_command_is_not_blamed_for_it() -> None:
    (result,) = await judge(saying("'unsupported': 'start'"), only=["28"])
    assert (result.outcome, result.why) == ("skipped", "the driver does not support 'start'")


# The reference driver, but for the flush.
UNFLUSHED: Final = """
import asyncio, sys
from gateway.client.conformance.driver import Driver, serve
handlers = Driver().handlers
del handlers["flush"]
asyncio.run(serve(handlers, sys.stdin, sys.stdout))
"""


@pytest.mark.parametrize("row", ["1", "13", "28"])
async def test_an_app_that_cannot_be_told_to_flush_is_not_blamed_for_it_either(
    row: str, caplog: pytest.LogCaptureFixture
) -> None:
    (result,) = await judge((sys.executable, "-c", UNFLUSHED), only=[row])
    gc.collect()  # a task whose end nobody asked for says so when it is forgotten
    assert (result.outcome, result.why, caplog.text) == ("skipped", "the driver does not support 'flush'", "")


async def test_the_command_line_starts_the_same_driver() -> None:
    (result,) = await judge((sys.executable, "-m", "gateway.cli", "device", "driver"), only=["A8"])
    assert (result.outcome, result.why) == ("passed", "")


@pytest.mark.parametrize(
    ("driver", "said", "code"),
    [
        ("./nowhere", "the driver's command './nowhere' is not there", 3),
        (__file__, "is not executable", 3),
        ('driver "', "the --driver cannot be read: No closing quotation", 2),
        (f"{sys.executable} -c 'import nowhere'", "(exit code 1); its stderr ends: ", 1),
        (f"{sys.executable} -c 'import nowhere'", "No module named 'nowhere'", 1),
        (f"{sys.executable} -c 'import os; os.kill(os.getpid(), 9)'", "died over 'start' (signal 9)", 1),
        ("sh -c 'echo debug; exec sleep 60'", "within 1 s; its stdout said b'debug\\n', which is no answer", 1),
    ],
    ids=["nowhere", "not executable", "quotes", "exit code", "last words", "signal", "hangs"],
)
def test_a_newcomer_hears_at_once_why_no_row_can_hold(
    driver: str, said: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["device", "check", "--driver", driver, "--answer-seconds", "1"]) == code
    written = capsys.readouterr().err
    assert said in written
    assert written.count("\n") == 1


def test_every_row_is_told_as_it_ends_also_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    driver = f"{sys.executable} -m gateway.client.conformance.driver"
    assert main(["device", "check", "--driver", driver, "--row", "A8", "--row", "26"]) == 0
    *lines, total = capsys.readouterr().err.splitlines()
    assert sorted(line.split("  ", 1)[1] for line in lines) == ["passed   A8", "skipped  26"]
    assert [line.split()[0] for line in lines] == ["1/2", "2/2"]
    assert total == "1 passed, 0 failed, 1 skipped"


def test_a_row_that_is_not_there_is_named_with_those_that_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device", "check", "--driver", sys.executable, "--row", "13", "--row", "G99"]) == 2
    assert "there is no row G99: there are 1, 2, 3," in capsys.readouterr().err
    assert main(["device", "check", "http://127.0.0.1:9", "--app-key", "k", "--row", "13"]) == 2
    assert "there is no row 13: there are G1, G2," in capsys.readouterr().err


def test_a_gateway_without_a_scheme_is_the_callers_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device", "check", "127.0.0.1:8080", "--app-key", "k"]) == 2
    assert "127.0.0.1:8080 is no URL of a gateway, such as http://127.0.0.1:8080" in capsys.readouterr().err
