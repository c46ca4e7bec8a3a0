"""A consumer's positions on disk."""

from pathlib import Path

import pytest

from consumers.positions import keep, load, positions_path
from schemas.positions import Positions


def test_kept_positions_are_loaded_again_and_leave_no_other_file(tmp_path: Path) -> None:
    path = positions_path(tmp_path, "warehouse")
    assert load(path) is None
    for offset in (3, 7):
        keep(path, Positions("log-1", {"batches": offset}))
    assert load(path) == Positions("log-1", {"batches": 7})
    assert [file.name for file in path.parent.iterdir()] == ["warehouse.json"]


def test_a_crash_while_writing_leaves_the_positions_from_before(tmp_path: Path) -> None:
    path = positions_path(tmp_path, "warehouse")
    keep(path, Positions("log-1", {"batches": 3}))
    path.with_suffix(".new").write_text('{"identity":"lo')
    assert load(path) == Positions("log-1", {"batches": 3})
    keep(path, Positions("log-1", {"batches": 4}))
    assert load(path) == Positions("log-1", {"batches": 4})


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "a.b", "a" * 65, "a\n"])
def test_a_consumer_name_that_is_no_plain_file_name_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="regex"):
        positions_path(tmp_path, name)
