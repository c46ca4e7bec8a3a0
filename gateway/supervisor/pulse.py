"""How a supervisor notices a child that is there and does nothing: a pipe into which the child writes while it works.

* A child beats from where its work is done: from its event loop, or as long as its server answers. A process that is
  stopped, a loop that hangs and a server that no longer listens are all silent.
* A server may take long to start, so silence counts only from the first beat on; before it, patience is longer.
"""

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Self

BEAT_SECONDS: Final = 1.0
# Nothing that goes well keeps an event loop or a server's answer from its turn for so long.
SILENCE_SECONDS: Final = 30.0
FIRST_BEAT_SECONDS: Final = 600.0
_CHUNK_BYTES: Final = 4096


def beat(fd: int) -> None:
    """Tell the supervisor that this process works; never waits for it."""
    with suppress(BlockingIOError, BrokenPipeError):  # it will read what is there, or it is gone
        os.write(fd, b".")


async def keep_beating(fd: int) -> None:
    """Beat for as long as the event loop turns."""
    while True:
        beat(fd)
        await asyncio.sleep(BEAT_SECONDS)


class Pulse:
    """The supervisor's end, and the descriptor that one life of a child gets. A context manager."""

    def __init__(
        self, silence_seconds: float, first_beat_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._silence_seconds = silence_seconds
        self._first_beat_seconds = first_beat_seconds
        self._clock = clock
        self._since = clock()
        self._began = False
        self._end, self.fd = os.pipe()
        for fd in (self._end, self.fd):
            os.set_blocking(fd, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave_to_child()
        os.close(self._end)

    def leave_to_child(self) -> None:
        """Close the child's descriptor here, once the child has it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def silent_seconds(self) -> float | None:
        """Return for how long nothing was heard, where that is too long; None where it is not."""
        with suppress(BlockingIOError):
            while os.read(self._end, _CHUNK_BYTES):
                self._since, self._began = self._clock(), True
        silent = self._clock() - self._since
        return silent if silent > (self._silence_seconds if self._began else self._first_beat_seconds) else None
