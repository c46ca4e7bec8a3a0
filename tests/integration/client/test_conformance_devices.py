"""The kit on the reference client, row by row; and on the sample that the field copies, which it must catch."""

import asyncio
import sys
from typing import Final

import pytest

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


async def test_the_command_line_starts_the_same_driver() -> None:
    (result,) = await judge((sys.executable, "-m", "gateway.cli", "device", "driver"), only=["A8"])
    assert (result.outcome, result.why) == ("passed", "")
