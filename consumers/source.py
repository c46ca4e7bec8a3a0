"""Where a consumer reads the log from: the port, whichever log is behind it.

* Offsets of a partition start at 0, grow by 1 and are never given out twice, not even after records were trimmed.
* A position is the next offset to read. It is each consumer's own, durable once committed, and 0 when new: records
  below the oldest still there are skipped.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, ParamSpec, Protocol, Self, TypeVar

from consumers.log_file import LogFile, known_version
from consumers.positions import keep, load, positions_path
from schemas.positions import Positions
from schemas.records import StoredRecord
from schemas.topics import TOPICS

_P = ParamSpec("_P")
_T = TypeVar("_T")

_POLL_SECONDS: Final = 0.1


class SourceError(Exception):
    """The log cannot be read, or a position not be kept."""


class Source(Protocol):
    """A durable log, read by one named consumer. Every method but `close` raises `SourceError`."""

    def identity_of(self, topic: str) -> str:
        """Name the very log that the topic's offsets are of: one made again, with offsets from 0, has another."""

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


class EmbeddedSource(Source):
    """`directory/log.db`, read, with this consumer's positions beside it. Made by `open`.

    * One process at a time per consumer name: two would overwrite each other's positions.
    * Files are read and written on a thread of its own, never on the event loop.
    """

    def __init__(self, directory: Path, consumer: str, topics: Sequence[str]) -> None:
        self._log = LogFile(directory)
        self._kept_at = positions_path(directory, consumer)
        self._positions = dict.fromkeys(topics, 0)
        self._identity = ""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="log-reader")
        self._closed = False

    @classmethod
    async def open(
        cls, directory: Path, consumer: str, *, topics: Sequence[str] = TOPICS, wait_seconds: float = 30.0
    ) -> Self:
        """Wait for the log to be made, and register: nothing of these topics is trimmed that was not read.

        Raises `SourceError`, and ValueError for a consumer or topic that there cannot be.
        """
        if not set(topics) <= set(TOPICS):
            raise ValueError(f"topics are {TOPICS}, not {topics}")
        source = cls(directory, consumer, topics)
        try:
            await source._appear(wait_seconds)
            await source._call(source._register)
        except BaseException:
            await source.close()
            raise
        return source

    @property
    def identity(self) -> str:
        """Name this very log."""
        return self._identity

    def identity_of(self, topic: str) -> str:
        """Name this very log: all topics are one file."""
        return self._identity

    def partitions(self, topic: str) -> Sequence[int]:
        """Return the one partition there is."""
        return (0,)

    async def read(
        self, topic: str, partition: int, first: int, *, max_records: int, max_bytes: int
    ) -> list[StoredRecord]:
        """Return records from `first` on, in order; at least one if there is any. Raises `SourceError`."""
        self._check(topic)
        return await self._call(self._log.select, topic, first, max_records, max_bytes)

    async def position(self, topic: str, partition: int) -> int:
        """Return the next offset to read. Raises `SourceError`."""
        self._check(topic)
        return self._positions[topic]

    async def commit(self, topic: str, partition: int, next_offset: int) -> None:
        """Keep the position, synced to the disk. Raises `SourceError`, also for a position past the end."""
        self._check(topic)
        await self._call(self._keep, topic, next_offset)

    async def end(self, topic: str, partition: int) -> int:
        """Return the next offset that will be given out. Raises `SourceError`."""
        self._check(topic)
        return await self._call(self._log.end, topic)

    async def close(self) -> None:
        """Finish the query under way, then let go of the log."""
        if not self._closed:
            self._closed = True
            self._thread.submit(self._log.drop)
        await asyncio.to_thread(self._thread.shutdown)

    def _check(self, topic: str) -> None:
        if self._closed:
            raise SourceError("the source is closed")
        if topic not in self._positions:
            raise SourceError(f"not registered for topic {topic!r}: its records may be trimmed unread")

    async def _call(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, lambda: self._guard(work, *args, **kwargs)
        )

    def _guard(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return work(*args, **kwargs)
        except (sqlite3.Error, OSError, ValueError) as error:
            self._log.drop()  # the next call starts with a new connection
            raise SourceError(f"{self._log.path.parent}: {error}") from error

    async def _appear(self, wait_seconds: float) -> None:
        deadline = time.monotonic() + wait_seconds
        while not await self._call(self._ready):
            if time.monotonic() > deadline:
                raise SourceError(f"no log at {self._log.path} after {wait_seconds:g} s: is the gateway running?")
            await asyncio.sleep(_POLL_SECONDS)

    def _ready(self) -> bool:
        """Say whether the log is there, with the schema that this software reads."""
        try:
            version = self._log.version()
        except sqlite3.OperationalError:  # not made yet, or being made
            self._log.drop()
            return False
        if version > known_version():
            raise SourceError(f"{self._log.path} has schema version {version}; this software knows {known_version()}")
        return version == known_version()

    def _register(self) -> None:
        self._identity = self._log.identity()
        kept = load(self._kept_at)
        if kept is not None and kept.identity == self._identity:
            self._positions = {topic: kept.positions.get(topic, 0) for topic in self._positions}
        for topic, position in self._positions.items():
            if position > self._log.end(topic):
                raise SourceError(
                    f"{self._kept_at} is at offset {position} of {topic}, past the end of the log. A log.db restored "
                    "from a backup gives offsets out again: move the whole directory away and start with a new log"
                )
        self._write(self._positions)

    def _keep(self, topic: str, next_offset: int) -> None:
        # Past the end it would have records trimmed before anyone read them.
        if not 0 <= next_offset <= self._log.end(topic):
            raise SourceError(f"offset {next_offset} of {topic} is not on the log")
        self._write({**self._positions, topic: next_offset})

    def _write(self, positions: dict[str, int]) -> None:
        keep(self._kept_at, Positions(self._identity, positions))
        self._positions = positions
