"""One process at a time writes to the log's database: a fair lock between processes, let go by the kernel if one dies.

* SQLite's own write lock is polled with sleeps of up to 100 ms and is not fair; here the next one waits in the kernel.
* It covers checkpoints too. SQLite before 3.51.3 can lose committed records when one connection checkpoints at the very
  moment another commits (sqlite.org/wal.html#walresetbug), and the interpreter's SQLite may be older than that.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Turn:
    """Two files, two locks: who has `next` waits for `write`, so who has just written queues behind it."""

    def __init__(self, directory: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self._next = os.open(directory / "next.lock", flags, 0o644)
        self._write = os.open(directory / "write.lock", flags, 0o644)

    @contextmanager
    def mine(self) -> Iterator[None]:
        """Hold the turn; blocks while another process has it."""
        fcntl.flock(self._next, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._write, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._next, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._write, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._next)
        os.close(self._write)
