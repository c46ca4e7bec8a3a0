"""Give the measured server a core of its own: what sends and what keeps the log share the others.

* As in production, where neither is on the gateway's machine. On shared cores every switch to the broker throws the
  server's caches away, the more the larger a program is, and no two rounds share alike.
* With one core there is nothing to give. Which one it is, the lowest, can matter: disks interrupt one core or another.
"""

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.bench.processes import tree


@contextmanager
def own_core(server: int, beside: Collection[int]) -> Iterator[None]:
    """Until the block ends, keep the server's processes on one core, and these others and this thread off it."""
    cores = os.sched_getaffinity(0)
    own = {min(cores)}
    if own == cores:
        yield
        return
    try:
        _keep_on(own, server)
        for root in beside:
            _keep_on(cores - own, root)
        os.sched_setaffinity(0, cores - own)
        yield
    finally:
        os.sched_setaffinity(0, cores)
        for root in (server, *beside):
            _keep_on(cores, root)


def _keep_on(cores: Collection[int], root: int) -> None:
    """What a thread starts stays where the thread is."""
    for pid in tree(root):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            for task in (Path("/proc") / str(pid) / "task").iterdir():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(task.name), cores)
