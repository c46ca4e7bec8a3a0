"""What counts as a death of a model: that of a process in the middle of a try, and no other."""

import fcntl
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from gateway.client.artifacts import delete_others
from gateway.client.tries import Tries, _locked

DIES = """
import os, signal, sys
from pathlib import Path
from gateway.client.tries import Tries

directory, where, kind = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
tries = Tries(directory)
if where == "before":
    tries._begun("a", "here", kind, durable=False)
    os.kill(os.getpid(), signal.SIGKILL)
if where.startswith("held"):
    held = tries.held("a", "here", kind)
    for _ in range(1000):
        with held.inside():
            pass
    if where == "held, inside":
        with held.inside():
            os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
if where == "beside a child":
    with tries.marked("a", "here", kind):
        if os.fork():
            os.kill(os.getpid(), signal.SIGKILL)
        print("forked", flush=True)
    sys.stdin.read()
    os._exit(0)
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


@pytest.mark.parametrize(
    ("where", "deaths"),
    [("before", 0), ("aside", 0), ("inside", 1), ("after", 0), ("held, inside", 1), ("held, between", 0)],
)
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


def test_of_those_that_begin_together_each_sees_who_began_before_and_all_see_the_dead(tmp_path: Path) -> None:
    tries = Tries(tmp_path)
    with ExitStack() as together:
        begun = [together.enter_context(tries.marked("a", "here", "load")) for _ in range(20)]
        assert [tried.others for tried in begun] == list(range(20))
        assert all(tried.marked for tried in begun)
    dies(tmp_path, "inside")
    with tries.marked("a", "here", "load") as tried, tries.marked("a", "there", "load") as elsewhere:
        assert (tried.others, elsewhere.others) == (1, 0)


def test_a_process_that_holds_a_mark_between_its_tries_is_not_at_one(tmp_path: Path) -> None:
    one, two = Tries(tmp_path), Tries(tmp_path)
    held = one.held("a", "here", "prediction")
    with two.marked("a", "here", "load") as tried:
        assert tried.others == 0
    with held.inside(), two.marked("a", "here", "load") as tried:
        assert tried.others == 1


def test_a_death_counts_though_a_child_of_the_process_lives_on(tmp_path: Path) -> None:
    command: list[str | Path] = [sys.executable, "-c", DIES, tmp_path, "beside a child", "load"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as died:
        assert died.stdout is not None
        assert died.stdout.readline() == b"forked\n"
        assert died.wait() == -signal.SIGKILL
        assert Tries(tmp_path).deaths("a", "here") == 1
        died.stdout.close()


def test_no_damaged_byte_of_a_mark_raises_or_makes_more_deaths(tmp_path: Path) -> None:
    dies(tmp_path, "inside")
    tries, path = Tries(tmp_path), tmp_path / "tries" / "a.0"
    whole = path.read_bytes()
    damaged = [whole[:at] + bytes([byte]) + whole[at + 1 :] for at in range(len(whole)) for byte in (1, 0x7F, 0xFF)]
    for text in (*damaged, b"", whole[:-1], bytes(4096)):
        path.write_bytes(text)
        assert tries.deaths("a", "here") in (0, 1)
        tries.forgive("a", "here", "load")
        tries.sweep({"a"})
        with tries.marked("a", "here", "load") as tried:
            assert tried.marked
    path.write_bytes(bytes([whole[0], 7]) + whole[2:])
    assert tries.deaths("a", "here") == 0, "what kind it was is not known"


def test_who_counts_keeps_nobody_from_forgiving(tmp_path: Path) -> None:
    dies(tmp_path, "inside")
    tries = Tries(tmp_path)
    with _locked(tmp_path / "tries" / "a.0", os.O_RDONLY, fcntl.LOCK_SH):
        assert tries.deaths("a", "here") == 1
        tries.forgive("a", "here", "load")
    assert tries.deaths("a", "here") == 0


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


def test_a_death_counts_though_the_files_before_it_are_swept(tmp_path: Path) -> None:
    dies(tmp_path, "inside", "load")
    dies(tmp_path, "inside", "prediction")
    tries = Tries(tmp_path)
    tries.forgive("a", "here", "load")
    tries.sweep(set())
    assert [path.name for path in (tmp_path / "tries").iterdir()] == ["a.1"]
    assert tries.deaths("a", "here") == 1


def test_what_cannot_be_deleted_keeps_nothing_else(tmp_path: Path) -> None:
    tries, others = Tries(tmp_path), [f"other{number}" for number in range(8)]
    held = tries.held("held", "here", "prediction")
    for each in others:
        (tmp_path / "tries" / f"{each}.0").write_bytes(b"")
    (tmp_path / "tries" / "in the way.0").mkdir()
    tries.sweep(set())
    assert {path.name for path in (tmp_path / "tries").iterdir()} == {"held.0", "in the way.0"}
    assert held.marked
    delete_others(tmp_path / "tries", set())
    assert {path.name for path in (tmp_path / "tries").iterdir()} == {"in the way.0"}


def test_marks_of_other_artifacts_are_swept(tmp_path: Path) -> None:
    tries = Tries(tmp_path)
    tries.sweep({"a"})
    for artifact in "ab":
        with tries.marked(artifact, "here", "load"):
            pass
    tries.sweep({"a"})
    assert [path.name for path in (tmp_path / "tries").iterdir()] == ["a.0"]
