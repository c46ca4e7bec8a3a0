"""The flush timer: by count at once, by age when the policy says, and never before a wait is over.

* Ages are measured on the monotonic clock: a wall clock that jumps neither floods the gateway nor silences the device.
* In the background nothing is timed: the system may suspend the app at any moment, and `background` has flushed. Nor is
  it while the device saves power.
"""

import asyncio
import logging
import random
from contextlib import suppress
from typing import Any

from gateway.client.clock import Clock
from gateway.client.limits import Limits
from gateway.client.policy import due_in
from gateway.client.sender import Sender

logger = logging.getLogger(__name__)


class FlushTimer:
    """What flushes without being asked."""

    def __init__(self, sender: Sender, clock: Clock, dice: random.Random, limits: Limits) -> None:
        self._sender = sender
        self._clock = clock
        self._dice = dice
        self._limits = limits
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._installing: asyncio.Task[None] | None = None
        self._queued = 0
        self._oldest_at = clock.monotonic()
        self._spread = 0.0
        self._sparing = False
        self.awake = True

    def start(self, queued: int) -> None:
        self.waiting(queued)
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        for task in (self._task, self._installing):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
        self._task = self._installing = None

    def added(self, queued: int) -> None:
        """Note that an event joined the queue; wake the task only when that changes when it must act."""
        first = self._queued == 0 < queued
        crossed = self._queued < self._sender.flush_policy.events <= queued
        self._queued = queued
        if first:
            self._arm()
        if first or crossed:
            self._changed.set()

    def waiting(self, queued: int) -> None:
        """Note how many events wait after a flush."""
        self._queued = queued
        self._arm()
        self._changed.set()

    def spare(self, on: bool) -> None:
        """Time nothing while the device saves power; what has become due meanwhile is flushed when that is over."""
        self._sparing = on
        self._changed.set()

    def _arm(self) -> None:
        self._oldest_at = self._clock.monotonic()
        self._spread = self._dice.uniform(0.0, self._limits.jitter_seconds)

    def _seconds(self) -> float | None:
        if self._sparing or not self.awake:
            return None
        age = self._clock.monotonic() - self._oldest_at - self._spread
        due = due_in(self._sender.flush_policy, queued=self._queued, age_seconds=age)
        return None if due is None else max(due, self._sender.wait_seconds())

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            seconds = self._seconds()
            if seconds == 0.0:
                await self._flush()
            else:
                await self._sleep(seconds)

    async def _flush(self) -> None:
        try:
            await self._sender.flush()
            self.waiting(self._sender.queued())
            if self._installing is None or self._installing.done():
                self._installing = asyncio.create_task(self._install())
        except Exception:  # the loop's boundary: a timer that dies would silence the device
            logger.exception("a timed flush failed")
            self._queued = 0  # the next event arms it again

    async def _install(self) -> None:
        """Let a download take its time without holding up the next flush."""
        try:
            await self._sender.install()
            self.added(self._sender.queued())
        except Exception:  # the task's boundary
            logger.exception("an installation failed")

    async def _sleep(self, seconds: float | None) -> None:
        """Wait that long, or until something changed."""
        changed = asyncio.ensure_future(self._changed.wait())
        waits: list[asyncio.Future[Any]] = [changed]
        if seconds is not None:
            waits.append(asyncio.ensure_future(self._clock.sleep(seconds)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
