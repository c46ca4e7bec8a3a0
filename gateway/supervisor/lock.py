"""One `backhaul serve` per data directory: an flock that the children inherit.

* The kernel drops the lock when the last process that holds it is gone, so a crash leaves nothing to clean up, and a
  new start cannot meet an orphan of the old one that still writes.
* Where the holder named in the file is dead, its children are about to leave; a start waits for them.
"""

import fcntl
import os
import time
from pathlib import Path
from typing import Final

_FILE: Final = "lock"
_LOOK_EVERY_SECONDS: Final = 0.1


class AlreadyServed(Exception):
    """Another process serves the data directory."""

    def __init__(self, directory: Path, pid: int | None) -> None:
        who = f"process {pid}" if pid else "another process"
        super().__init__(f"{directory} is already served by {who}: stop it, or choose another directory with --data")
        self.pid = pid


class DirectoryLock:
    """A held lock; `fd` is inherited by children."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def take(cls, directory: Path, *, wait_seconds: float = 0.0) -> "DirectoryLock":
        """Lock the directory; wait only for the children of a holder that died. Raises `AlreadyServed`, `OSError`."""
        fd = os.open(directory / _FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = time.monotonic() + wait_seconds
        while not _locked(fd):
            pid = holder(directory)
            if pid is None or is_alive(pid) or time.monotonic() > deadline:
                os.close(fd)
                raise AlreadyServed(directory, pid)
            time.sleep(_LOOK_EVERY_SECONDS)
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        return cls(fd)

    def release(self) -> None:
        """Let go of it; it is free when no child holds it any more."""
        os.close(self.fd)


def is_locked(directory: Path) -> bool:
    """Say whether some process holds the directory."""
    try:
        fd = os.open(directory / _FILE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _locked(fd)
    finally:
        os.close(fd)


def holder(directory: Path) -> int | None:
    """Return the process that wrote the lock file last, if it can be read."""
    try:
        return int((directory / _FILE).read_text())
    except (OSError, ValueError):
        return None


def is_alive(pid: int) -> bool:
    """Say whether the process exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
