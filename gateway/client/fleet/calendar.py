"""The fleet's calendar: device time runs faster than ours and goes on where it was when the process was killed.

* A client keeps waits and leases in its own wall clock's time; a clock that went back at a restart would make it wait
  for days that do not come.
"""

import os
import time
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

_FILE: Final = "calendar.json"
_DAY_SECONDS: Final = 86_400.0


class Calendar(Struct, frozen=True):
    """At `real_ms` it was `device_ms`, and device time ran `rate` times as fast from there."""

    real_ms: int
    device_ms: int
    rate: float

    def device_now_ms(self, real_now_ms: int) -> int:
        """Translate."""
        return self.device_ms + int(max(0, real_now_ms - self.real_ms) * self.rate)


def go_on(directory: Path, day_seconds: float) -> Calendar:
    """Read the calendar, start a new page at the present moment with the rate asked for, and write it down."""
    path = directory / _FILE
    now = time.time_ns() // 1_000_000
    try:
        device_now = msgspec.json.decode(path.read_bytes(), type=Calendar).device_now_ms(now)
    except (OSError, ValueError):  # none yet, or torn by a crash: device time begins now
        device_now = now
    calendar = Calendar(now, device_now, _DAY_SECONDS / day_seconds)
    temporary = path.with_suffix(".new")
    with temporary.open("wb") as file:
        file.write(msgspec.json.encode(calendar))
        os.fsync(file.fileno())
    temporary.replace(path)
    return calendar
