"""One instance a data directory, and what other commands read about it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.supervisor import runfile
from gateway.supervisor.lock import AlreadyServed, DirectoryLock, holder, is_alive, is_locked
from gateway.supervisor.ports import free_port
from gateway.supervisor.runfile import Run


@pytest.fixture
def gone() -> int:
    """The number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_second_instance_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    lock = DirectoryLock.take(tmp_path)
    with pytest.raises(AlreadyServed, match=f"process {os.getpid()}"):
        DirectoryLock.take(tmp_path, wait_seconds=60)  # a holder that lives is not waited for
    lock.release()
    DirectoryLock.take(tmp_path).release()


def test_a_directory_is_locked_as_long_as_a_child_holds_it(tmp_path: Path) -> None:
    lock = DirectoryLock.take(tmp_path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.fd])
    lock.release()
    assert is_locked(tmp_path)
    child.communicate(b"\n")
    assert not is_locked(tmp_path)


def test_the_children_of_a_dead_holder_are_waited_for(tmp_path: Path, gone: int) -> None:
    lock = DirectoryLock.take(tmp_path)
    (tmp_path / "lock").write_text(str(gone))
    with pytest.raises(AlreadyServed):
        DirectoryLock.take(tmp_path, wait_seconds=0.15)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.5)"], pass_fds=[lock.fd])
    lock.release()
    DirectoryLock.take(tmp_path, wait_seconds=30).release()
    assert holder(tmp_path) == os.getpid()
    child.wait()


def test_a_directory_without_a_lock_file_is_not_locked(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert holder(tmp_path) is None


def test_a_run_file_is_private_and_read_back(tmp_path: Path) -> None:
    run = Run(os.getpid(), "http://127.0.0.1:1", "http://127.0.0.1:2", {"gateway": 3})
    runfile.write(tmp_path, run)
    assert runfile.read(tmp_path) == run
    assert (tmp_path / "run.json").stat().st_mode & 0o777 == 0o600
    runfile.remove(tmp_path)
    assert runfile.read(tmp_path) is None


def test_a_run_file_left_by_a_crash_says_nothing(tmp_path: Path, gone: int) -> None:
    runfile.write(tmp_path, Run(gone, "http://127.0.0.1:1", ""))
    assert not is_alive(gone)
    assert runfile.read(tmp_path) is None
    (tmp_path / "run.json").write_text("{")
    assert runfile.read(tmp_path) is None


def test_a_child_s_port_is_out_of_the_reach_of_outgoing_connections() -> None:
    assert 20_000 <= free_port() < 30_000
