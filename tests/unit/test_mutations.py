"""The list of deliberate breakages keeps up with the client: every text is there, every test exists."""

from pathlib import Path
from typing import Final

import pytest

from tests.mutations.__main__ import RESULTS, read_table
from tests.mutations.breakages import Breakage, breakages

ROOT: Final = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("breakage", breakages(), ids=lambda breakage: breakage.name)
def test_a_breakage_has_its_place_and_its_tests(breakage: Breakage) -> None:
    whole = (ROOT / "gateway" / "client" / breakage.file).read_text()
    assert whole.count(breakage.text) == 1
    compile(whole.replace(breakage.text, breakage.instead), breakage.file, "exec")
    assert [test for test in breakage.tests if not (ROOT / "tests" / test.partition("::")[0]).exists()] == []


def test_no_two_breakages_have_one_name() -> None:
    names = [breakage.name for breakage in breakages()]
    assert len(set(names)) == len(names) > 60


def test_every_breakage_was_caught_when_the_list_was_last_run() -> None:
    kept = read_table(RESULTS.read_text())
    assert [breakage.name for breakage in breakages() if " caught " not in kept.get(breakage.name, "")] == []
