"""How far the embedded log may be trimmed: when in doubt, not at all."""

import json
from pathlib import Path

import pytest

from gateway.publish.floors import floors

ENDS = {"batches": 100, "dead_letters": 10}
NOTHING = {"batches": 0, "dead_letters": 0}


def register(directory: Path, consumer: str, identity: str = "this", **positions: int) -> None:
    (directory / "positions").mkdir(exist_ok=True)
    text = json.dumps({"identity": identity, "positions": positions})
    (directory / "positions" / f"{consumer}.json").write_text(text)


def test_nothing_is_trimmed_without_a_consumer(tmp_path: Path) -> None:
    assert floors(tmp_path, "this", ENDS) == NOTHING


def test_the_slowest_consumer_of_each_topic_sets_its_floor(tmp_path: Path) -> None:
    register(tmp_path, "one", batches=40, dead_letters=3)
    register(tmp_path, "two", batches=30, dead_letters=4)
    assert floors(tmp_path, "this", ENDS) == {"batches": 30, "dead_letters": 3}


def test_a_topic_that_nobody_reads_is_kept(tmp_path: Path) -> None:
    register(tmp_path, "one", batches=40)
    assert floors(tmp_path, "this", ENDS) == {"batches": 40, "dead_letters": 0}


def test_a_consumer_of_another_log_holds_everything(tmp_path: Path) -> None:
    register(tmp_path, "one", batches=40, dead_letters=3)
    register(tmp_path, "two", identity="other", batches=40, dead_letters=3)
    assert floors(tmp_path, "this", ENDS) == NOTHING


def test_a_position_past_the_end_holds_its_topic(tmp_path: Path) -> None:
    register(tmp_path, "one", batches=101, dead_letters=3)
    register(tmp_path, "two", batches=50, dead_letters=3)
    assert floors(tmp_path, "this", ENDS) == {"batches": 0, "dead_letters": 3}


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"identity":"this"}', '{"identity":"this","positions":{"batches":-1}}']
)
def test_a_file_that_cannot_be_read_holds_everything(text: str, tmp_path: Path) -> None:
    register(tmp_path, "one", batches=40, dead_letters=3)
    (tmp_path / "positions/two.json").write_text(text)
    assert floors(tmp_path, "this", ENDS) == NOTHING
