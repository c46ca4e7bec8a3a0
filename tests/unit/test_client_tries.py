"""What counts as a death of a model: that of a process in the middle of a try, and no other."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.client.tries import Tries

DIES = """
import os, signal, sys
from pathlib import Path
from gateway.client.tries import Tries

directory, where, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
tries = Tries(directory)
if where == "before":
    tries._begun("a", "here", kind, durable=False)
    os.kill(os.getpid(), signal.SIGKILL)
with tries.marked("a", "here", kind) as tried:
    if where == "aside":
        with tried.aside():
            os.kill(os.getpid(), signal.SIGKILL)
    with tried.aside():
        pass
    if where == "inside":
        os.kill(os.getpid(), signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


def dies(directory: Path, where: str, kind: str = "load") -> None:
    """Let a process die there."""
    died = subprocess.run([sys.executable, "-c", DIES, directory, where, kind], check=False)
    assert died.returncode == -signal.SIGKILL


@pytest.mark.parametrize(("where", "deaths"), [("before", 0), ("aside", 0), ("inside", 1), ("after", 0)])
def test_only_a_death_inside_a_try_counts(tmp_path: Path, where: str, deaths: int) -> None:
    dies(tmp_path, where)
    assert Tries(tmp_path).deaths("a", "here") == deaths
    with Tries(tmp_path).marked("a", "here", "load", durable=True) as tried:
        assert tried.marked
    assert Tries(tmp_path).deaths("a", "here") == deaths, "the next try does not cover it"


def test_deaths_add_up_and_count_for_one_artifact_in_one_context(tmp_path: Path) -> None:
    for _ in range(2):
        dies(tmp_path, "inside")
    tries = Tries(tmp_path)
    found = [tries.deaths(artifact, context) for artifact in "ab" for context in ("here", "there")]
    assert found == [2, 0, 0, 0]
    with tries.marked("a", "there", "load") as tried:
        assert tried.marked
    assert tries.deaths("a", "here") == 1, "what counts for nothing any more makes room"


def test_a_load_that_came_back_forgives_loads_and_not_predictions(tmp_path: Path) -> None:
    dies(tmp_path, "inside")
    dies(tmp_path, "inside", "prediction")
    tries = Tries(tmp_path)
    tries.forgive("a", "here", "load")
    assert tries.deaths("a", "here") == 1


def test_who_is_at_it_is_alive(tmp_path: Path) -> None:
    one, two = Tries(tmp_path), Tries(tmp_path)
    with one.marked("a", "here", "load"), two.marked("a", "here", "load") as tried:
        assert tried.marked
        assert two.deaths("a", "here") == 0
    assert len(list((tmp_path / "tries").iterdir())) == 2


def test_what_raises_inside_came_back(tmp_path: Path) -> None:
    tries = Tries(tmp_path)
    with pytest.raises(OSError, match="as told"), tries.marked("a", "here", "load"):
        raise OSError("as told")
    assert tries.deaths("a", "here") == 0


def test_a_try_that_had_only_begun_when_the_machine_went_down_counts(tmp_path: Path) -> None:
    dies(tmp_path, "before")
    later = Tries(tmp_path)
    later._boot = bytes(range(16))
    assert later.deaths("a", "here") == 1


def test_where_no_file_can_be_made_nothing_is_marked(tmp_path: Path) -> None:
    (tmp_path / "tries").write_text("in the way")
    with Tries(tmp_path).marked("a", "here", "load") as tried:
        assert not tried.marked


def test_a_death_outlives_the_sweep_of_what_is_not_named_any_more(tmp_path: Path) -> None:
    dies(tmp_path, "inside")
    tries = Tries(tmp_path)
    tries.sweep({"b"})
    assert tries.deaths("a", "here") == 1
    for number in range(64):
        (tmp_path / "tries" / f"other{number}.0").write_bytes((tmp_path / "tries" / "a.0").read_bytes())
    tries.sweep({"b"})
    assert list((tmp_path / "tries").iterdir()) == [], "but there is an end to it"


def test_marks_of_other_artifacts_are_swept(tmp_path: Path) -> None:
    tries = Tries(tmp_path)
    tries.sweep({"a"})
    for artifact in "ab":
        with tries.marked(artifact, "here", "load"):
            pass
    tries.sweep({"a"})
    assert [path.name for path in (tmp_path / "tries").iterdir()] == ["a.0"]
