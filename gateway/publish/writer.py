"""The log's writer: one thread that commits whatever has queued up as one group.

* A group is one transaction: one fsync for all that wait. Its size is set by the queue, never by a timer.
* A publish call is stored whole or not at all: one that does not fit is refused, the rest of its group goes on.
* An error, of the disk or of ours, fails the group and never the thread: publishers would wait for good. While idle the
  thread keeps trying, so that trouble ends by itself.
* Between groups it trims, checkpoints and looks around; nobody's answer waits for that.
"""

import logging
from asyncio import AbstractEventLoop, Future
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from queue import Empty, SimpleQueue
from typing import Final

from gateway.publish import Unavailable
from gateway.publish.storage import Extent, Room, Rows, Storage, StorageError

_log = logging.getLogger(__name__)

_GROUP_BYTES: Final = 16 * 1024 * 1024  # bounds how long the first of a group waits for the last
_TICK_SECONDS: Final = 0.5
_CHECKPOINT_BYTES: Final = 8 * 1024 * 1024
_FULL_RETRY_SECONDS: Final = 10.0
_BROKEN_RETRY_SECONDS: Final = 2.0
# What trimming adds to the WAL: measured, 100 to 800 bytes a record of up to 100 KB, and up to 50 KB a step.
_TRIMMED_WAL_BYTES: Final = 1024
_TRIM_LEAST_RECORDS: Final = 64
# Full until this share is free again, so that readiness does not flap with every record that happens to fit.
_FREE_SHARE: Final = 0.05


@dataclass(slots=True, frozen=True)
class Request:
    """One publish call: its rows, their bytes, and the future that waits for the answer."""

    rows: Rows
    size_bytes: int
    answer: "Future[None]"


Answers = Sequence[tuple[Request, Unavailable | None]]


class Writer:
    """What the thread knows. Other threads put into `queue` (None: finish and leave) and read the public fields."""

    def __init__(
        self,
        storage: Storage,
        max_bytes: int,
        loop: AbstractEventLoop,
        settle: Callable[[Answers], None],
        clock: Callable[[], float],
    ) -> None:
        self.queue: SimpleQueue[Request | None] = SimpleQueue()
        self.trouble: str | None = None
        self.busy_since: float | None = None
        self.gauges: Mapping[str, float] = {}
        self._storage = storage
        self._max_bytes = max_bytes
        self._loop = loop
        self._settle = settle
        self._clock = clock
        self._broken = False
        self._trimming = False
        self._unchecked_bytes = 0
        self._next_look = -inf
        self._counts = dict.fromkeys(("commits", "records", "trimmed", "errors"), 0)

    def run(self) -> None:
        """Commit groups until told to leave; what was queued before that is finished first."""
        leaving = False
        while not leaving:
            group, leaving = self._take()
            self.busy_since = self._clock()
            if group or self._trimming:
                self._answer(self._commit(group))
            self._look_after()
            self.busy_since = None
        self._storage.close()

    def _take(self) -> tuple[list[Request], bool]:
        """Wait for a request, then take what is there; the flag says that the last one has come."""
        group: list[Request] = []
        total = 0
        try:
            request = self.queue.get_nowait() if self._trimming else self.queue.get(timeout=_TICK_SECONDS)
            while request is not None:
                group.append(request)
                total += request.size_bytes
                if total >= _GROUP_BYTES:
                    return group, False
                request = self.queue.get_nowait()
        except Empty:
            return group, False
        return group, True

    def _commit(self, group: Sequence[Request]) -> Answers:
        try:
            fits, room, trimmed = self._storage.store([request.rows for request in group])
        except Exception as error:
            self._break(error)
            failure = Unavailable(f"the log's disk fails: {error}", _BROKEN_RETRY_SECONDS)
            return [(request, failure) for request in group]
        self._mend()
        self._trimming = trimmed > 0
        full = None if all(fits) else Unavailable(self._fill(room), _FULL_RETRY_SECONDS)
        self._counts["commits"] += 1
        self._counts["trimmed"] += trimmed
        self._unchecked_bytes += max(trimmed, _TRIM_LEAST_RECORDS) * _TRIMMED_WAL_BYTES if trimmed else 0
        for request, fit in zip(group, fits, strict=True):
            self._unchecked_bytes += request.size_bytes if fit else 0
            self._counts["records"] += len(request.rows) if fit else 0
        return [(request, None if fit else full) for request, fit in zip(group, fits, strict=True)]

    def _answer(self, answers: Answers) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle, answers)
        except RuntimeError:  # the loop was closed with publishes under way: nobody waits any more
            _log.warning("%d publish calls ended after their event loop had closed", len(answers))

    def _fill(self, room: Room) -> str:
        bound = "all that its disk has but the reserve" if room.set_by_disk else f"{self._max_bytes} bytes"
        full = f"the log is full at {bound}: its slowest consumer is behind"
        if self.trouble is None:
            _log.error(full)
        self.trouble = full
        return full

    def _break(self, error: Exception) -> None:
        if not self._broken:
            _log.error("the log's disk fails: %s", error, exc_info=not isinstance(error, StorageError))
        self._counts["errors"] += 1
        self._broken = True
        self._trimming = False
        self.trouble = f"the log's disk fails: {error}"

    def _mend(self) -> None:
        if self._broken:
            _log.warning("the log's disk works again")
            self._broken = False
            self.trouble = None

    def _look_after(self) -> None:
        try:
            if self._clock() >= self._next_look:
                self._next_look = self._clock() + _TICK_SECONDS
                self._look()
            if self._unchecked_bytes >= _CHECKPOINT_BYTES:
                self._storage.checkpoint()
                self._unchecked_bytes = 0
        except Exception as error:
            self._break(error)

    def _look(self) -> None:
        if self._broken:
            self._storage.probe()
            self._mend()
        extent = self._storage.survey()
        self._trimming = self._trimming or self._storage.to_trim(extent)
        if extent.room.bytes > _FREE_SHARE * (extent.live_bytes + extent.room.bytes):
            self.trouble = None
        self._show(extent)

    def _show(self, extent: Extent) -> None:
        shown = {"log_bytes": extent.live_bytes, "log_max_bytes": self._max_bytes}
        shown |= {"log_room_bytes": extent.room.bytes}
        shown |= {f"log_{name}": count for name, count in self._counts.items()}
        shown |= {f"log_{topic}_oldest_offset": offset for topic, offset in extent.oldest.items()}
        shown |= {f"log_{topic}_next_offset": offset for topic, offset in extent.ends.items()}
        self.gauges = shown
