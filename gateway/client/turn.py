"""Who may open and close the device file (several at once), and who may replace it (one, and nobody else meanwhile).

* The lock is a file of its own, which nobody replaces. The kernel lets go of it when its holder dies.
* Where there can be no such file, or the file system has no locks, everybody goes on without: one process needs none.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_LOOK_EVERY_SECONDS: Final = 0.01


@contextmanager
def turn(path: Path, kind: int, wait_seconds: float) -> Iterator[None]:
    """Hold the lock, LOCK_SH or LOCK_EX. Raises BlockingIOError where another process keeps it for longer than that."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        yield
        return
    try:
        held = _take(file, kind, wait_seconds)
        try:
            yield
        finally:
            if held:  # closing is not enough: a child that was forked meanwhile has it open, too
                fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        os.close(file)


def _take(file: int, kind: int, wait_seconds: float) -> bool:
    until = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                raise
            time.sleep(_LOOK_EVERY_SECONDS)
        except OSError:  # no locks here
            return False
        else:
            return True
