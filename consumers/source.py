"""Where a consumer reads the log from: the port, whichever log is behind it.

* Offsets of a partition start at 0, grow by 1 and are never given out twice, not even after records were trimmed.
* A position is the next offset to read. It is each consumer's own, durable once committed, and 0 when new: records
  below the oldest still there are skipped.
"""

from collections.abc import Sequence
from typing import Protocol

from schemas.records import StoredRecord


class SourceError(Exception):
    """The log cannot be read, or a position not be kept."""


class Source(Protocol):
    """A durable log, read by one named consumer. Every method but `close` raises `SourceError`."""

    @property
    def identity(self) -> str:
        """Name this very log: one made again, with offsets from 0, has another."""

    def partitions(self, topic: str) -> Sequence[int]:
        """Return the partitions to read."""

    async def read(
        self, topic: str, partition: int, first: int, *, max_records: int, max_bytes: int
    ) -> list[StoredRecord]:
        """Return records from `first` on, in order; empty when there are none yet.

        At least one record comes even if it alone is larger than `max_bytes` (keys, headers and values together).
        """

    async def position(self, topic: str, partition: int) -> int:
        """Return the next offset to read."""

    async def commit(self, topic: str, partition: int, next_offset: int) -> None:
        """Keep the position: durable on return. What is below it may be trimmed."""

    async def end(self, topic: str, partition: int) -> int:
        """Return one past the newest offset: the next that will be given out."""

    async def close(self) -> None:
        """Let go of the log."""
