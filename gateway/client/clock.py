"""The device's clock as a port, so that tests turn it by hand and a fleet lives a day in a minute.

* `now_ms` is the wall clock, which lies and jumps: it dates events. `monotonic` measures ages and waits.
"""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """What tells a device the time."""

    def now_ms(self) -> int:
        """Epoch milliseconds, as the device believes them."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait that many of this clock's seconds."""
        ...


class SystemClock:
    """The clock of this machine."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ScaledClock:
    """A clock that runs `rate` times faster than this machine's, from `start_ms`: how a fleet hurries."""

    def __init__(self, rate: float, start_ms: int) -> None:
        self._rate = rate
        self._start_ms = start_ms
        self._began = time.monotonic()

    def move(self, seconds: float) -> None:
        """Set the wall clock, as a user or the network does; what is measured goes on."""
        self._start_ms += int(seconds * 1000)

    def now_ms(self) -> int:
        return self._start_ms + int(self.monotonic() * 1000)

    def monotonic(self) -> float:
        return (time.monotonic() - self._began) * self._rate

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._rate)
