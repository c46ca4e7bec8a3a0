"""How a child notices that its supervisor is gone: the read end of a pipe that nobody writes to.

* The supervisor alone holds the write end, so the kernel closes it however the supervisor ends, kill -9 included.
* A child that does not leave by itself within the grace is ended: an orphan must not keep the data directory.
"""

import os
import threading
import time
from collections.abc import Callable
from typing import Final

_NAME: Final = "lifeline"


def watch(fd: int, leave: Callable[[], object], grace_seconds: float) -> threading.Thread:
    """Call `leave` when the pipe closes, and end the process if it is still there after the grace."""
    thread = threading.Thread(target=_wait, args=(fd, leave, grace_seconds), name=_NAME, daemon=True)
    thread.start()
    return thread


def _wait(fd: int, leave: Callable[[], object], grace_seconds: float) -> None:
    while os.read(fd, 1):
        pass
    leave()
    time.sleep(grace_seconds)
    os._exit(1)
