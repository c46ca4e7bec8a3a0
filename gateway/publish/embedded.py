"""The embedded log: a `Sink` on a SQLite file, for one machine and for spilling.

* `publish` costs the event loop an append to a queue; a thread commits, and settles each group in one callback.
* Bounded, else `Unavailable`: the bytes that wait for the disk, those that wait for the slowest consumer, and what is
  left free of the disk (`reserve_bytes`), so that a log that has filled it can still be read and trimmed.
* A publisher that gives up (cancellation) changes nothing for the others; its records may still be stored.
* Any number of processes may have the same directory open. Use each instance from the event loop that opened it.
"""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import msgspec

from gateway.publish import Sink, Unavailable
from gateway.publish.storage import Storage, StorageError
from gateway.publish.writer import Answers, Request, Writer
from schemas.records import Record
from schemas.topics import TOPICS

_BUSY_RETRY_SECONDS: Final = 1.0
_CLOSED_RETRY_SECONDS: Final = 1.0
_STALLED_RETRY_SECONDS: Final = 5.0
# A healthy disk confirms a group in milliseconds; one that hangs must not collect requests without end.
_STALLED_SECONDS: Final = 5.0

_headers = msgspec.msgpack.Encoder()


class EmbeddedLog(Sink):
    """`directory/log.db`, written. Made by `open`."""

    def __init__(self, storage: Storage, max_bytes: int, max_pending_bytes: int, clock: Callable[[], float]) -> None:
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._writer = Writer(storage, max_bytes, self._loop, self._settle, clock)
        self._max_pending_bytes = max_pending_bytes
        self._pending_bytes = 0
        self._closing = False
        self._thread = threading.Thread(target=self._writer.run, name="log-writer", daemon=True)
        self._thread.start()

    @classmethod
    async def open(
        cls,
        directory: Path,
        *,
        max_bytes: int,
        max_pending_bytes: int,
        reserve_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Open the log, made where it is missing; `clock` counts seconds. Raises `Unavailable`."""
        storage = Storage(directory, max_bytes, reserve_bytes)
        try:
            await asyncio.to_thread(_make_directory, directory)
            await asyncio.to_thread(storage.probe)
        except (StorageError, OSError) as error:
            storage.close()
            raise Unavailable(f"the log cannot be opened: {error}", _STALLED_RETRY_SECONDS) from error
        return cls(storage, max_bytes, max_pending_bytes, clock)

    async def publish(self, records: Sequence[Record]) -> None:
        """Return when all records are on the disk: all or none are stored. Raises `Unavailable`."""
        if not records:
            return
        self._check()
        rows, size = _rows(records)
        if self._pending_bytes + size > self._max_pending_bytes:
            raise Unavailable(f"{self._pending_bytes} bytes wait for the log's disk", _BUSY_RETRY_SECONDS)
        answer: asyncio.Future[None] = self._loop.create_future()
        self._pending_bytes += size
        self._writer.queue.put(Request(rows, size, answer))
        await answer

    def trouble(self) -> str | None:
        """Say why the log cannot take records; None when it can."""
        if self._closing:
            return "the log is closing"
        return self._stalled() or self._writer.trouble

    def gauges(self) -> Mapping[str, float]:
        """Return sizes, offsets and counts, at most half a second old."""
        return {**self._writer.gauges, "log_pending_bytes": self._pending_bytes}

    async def close(self) -> None:
        """Finish what was accepted, then close; what comes later is `Unavailable`."""
        if not self._closing:
            self._closing = True
            self._writer.queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _check(self) -> None:
        if self._closing:
            raise Unavailable("the log is closing", _CLOSED_RETRY_SECONDS)
        stalled = self._stalled()
        if stalled is not None:
            raise Unavailable(stalled, _STALLED_RETRY_SECONDS)

    def _stalled(self) -> str | None:
        since = self._writer.busy_since
        waited = 0.0 if since is None else self._clock() - since
        return f"the log's disk has not answered for {waited:.0f} s" if waited > _STALLED_SECONDS else None

    def _settle(self, answers: Answers) -> None:
        for request, failure in answers:
            self._pending_bytes -= request.size_bytes
            if request.answer.done():  # its publisher gave up
                continue
            if failure is None:
                request.answer.set_result(None)
            else:
                request.answer.set_exception(Unavailable(failure.reason, failure.retry_after_seconds))


def _rows(records: Sequence[Record]) -> tuple[list[tuple[str, bytes, bytes, bytes]], int]:
    """Return the rows and their bytes, made here so that what cannot be encoded fails its own caller alone."""
    rows = []
    size = 0
    for record in records:
        if record.topic not in TOPICS:
            raise ValueError(f"no such topic: {record.topic!r}")
        headers = _headers.encode(record.headers)
        rows.append((record.topic, record.key, headers, record.value))
        size += len(record.key) + len(headers) + len(record.value)
    return rows, size


def _make_directory(directory: Path) -> None:
    """Make the directory, and sync the names that lead to it: a log whose name a power cut takes is lost whole.

    At every open: whoever made one of them, this software or an operator a second ago, need not have synced it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    device = directory.stat().st_dev
    for above in directory.resolve().parents:
        if above.stat().st_dev != device:  # a mount point's own name is not on the disk that is mounted there
            return
        try:
            opened = os.open(above, os.O_RDONLY)
        except PermissionError:  # not ours, so it was here before us
            return
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
