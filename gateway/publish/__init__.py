"""Where a batch becomes durable: the port that the gateway publishes through, whichever log is behind it.

* `publish` returns when every record is durable, and stores all of them or none.
* `Unavailable` is the only failure of a sink. After it the records may still turn out to be stored (a disk that failed
  while it confirmed): the sender sends again, and the batch's id makes the second copy harmless.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from schemas.records import Record


class Unavailable(Exception):
    """The log cannot take records now; `retry_after_seconds` is a hint without jitter."""

    def __init__(self, reason: str, retry_after_seconds: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class Sink(Protocol):
    """A durable log, written."""

    async def publish(self, records: Sequence[Record]) -> None:
        """Return when all records are durable: all or none are stored. Raises `Unavailable`."""

    def trouble(self) -> str | None:
        """Say why the sink cannot take records; None when it can."""

    def gauges(self) -> Mapping[str, float]:
        """Return what to show an operator, by metric name."""

    async def close(self) -> None:
        """Finish what was accepted, then close; what comes later is `Unavailable`."""
