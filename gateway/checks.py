"""Publish update checks behind their answers: a batch without events has nothing that its device could lose.

* What a check says (its number, the ledger, what runs) the device says again with its next batch. Of a check that never
  gets onto the log a number is missing, and no event.
* What comes within some milliseconds goes to the log together. So a check may come behind its device's next batch:
  nothing of ours counts on their order, and a check has no event that a reader of `events` could see.
* Bounded: a large one, or past so many bytes, or while the log is in trouble, waits for the log like any batch. So do
  all for a while after the log has refused some: it may be full without being in trouble, and devices are to hear it.
* What goes to the log together is a part of what may wait for it: one publish is taken whole or not at all. As large a
  part as can be: with 64 KiB at most, each check cost the log and the event loop half as much again.
* One that the log does not confirm is counted and told; only a gateway that is killed forgets some untold.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from math import inf
from typing import Final

from gateway.publish import Sink, Unavailable
from schemas.records import Record

_log: Final = logging.getLogger(__name__)

# What a record takes in memory beside its body, on its way through the log's adapter.
_RECORD_BYTES: Final = 2048
_GATHER_SECONDS: Final = 0.01
# Below what any topic takes: one record too large would keep all that go with it from the log.
_MOST_BYTES: Final = 32 * 1024


class Checks:
    """The update checks that are answered and not on the log yet."""

    def __init__(
        self, sink: Sink, max_bytes: int, together_max_bytes: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._sink = sink
        self._max_bytes = max_bytes
        self._together_max_bytes = together_max_bytes
        self._clock = clock
        self._gathered: list[Record] = []
        self._room_bytes = 0
        self._publishing: dict[asyncio.Task[None], list[Record]] = {}
        self._failing = False
        self._again_at = -inf
        self.pending_bytes = 0
        self.lost = 0

    def take(self, record: Record) -> bool:
        """Publish the record soon; False: there is no room for it, or the log takes nothing now."""
        more_bytes = len(record.value) + _RECORD_BYTES
        has_room = more_bytes <= _MOST_BYTES and self.pending_bytes + more_bytes <= self._max_bytes
        if not has_room or self._sink.trouble() is not None or self._clock() < self._again_at:
            return False
        self.pending_bytes += more_bytes
        self._room_bytes -= more_bytes
        if self._room_bytes < 0 or not self._gathered:
            self._gathered = []
            self._room_bytes = self._together_max_bytes - more_bytes
            publishing = asyncio.create_task(self._publish(self._gathered))
            self._publishing[publishing] = self._gathered
            publishing.add_done_callback(self._publishing.pop)
        self._gathered.append(record)
        return True

    async def finish(self, within_seconds: float) -> None:
        """Return when the log has answered for all that was taken, or after that time: its closing ends the rest."""
        if self._publishing:
            await asyncio.wait(self._publishing, timeout=within_seconds)
        if left := sum(map(len, self._publishing.values())):
            _log.warning("%d update checks were answered and are not on the log at the stop", left)

    async def _publish(self, records: list[Record]) -> None:
        await asyncio.sleep(_GATHER_SECONDS)
        if records is self._gathered:
            self._gathered = []
        try:
            await self._sink.publish(records)
            self._failing = False
        except Exception as error:  # the boundary: nobody waits for this
            self._fail(records, error)
        self.pending_bytes -= sum(len(record.value) + _RECORD_BYTES for record in records)

    def _fail(self, records: list[Record], error: Exception) -> None:
        self.lost += len(records)
        if isinstance(error, Unavailable):
            self._again_at = self._clock() + error.retry_after_seconds
        if not self._failing:
            surprising = not isinstance(error, Unavailable)
            _log.warning("update checks were answered and are not on the log: %s", error, exc_info=surprising)
        self._failing = True
