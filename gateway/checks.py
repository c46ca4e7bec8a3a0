"""Publish update checks behind their answers: a batch without events has nothing that its device could lose.

* What a check says (its number, the ledger, what runs) the device says again with its next batch. Of a check that never
  gets onto the log a number is missing, and no event.
* What comes within some milliseconds goes to the log together. So a check may come behind its device's next batch:
  nothing of ours counts on their order, and a check has no event that a reader of `events` could see.
* Bounded: a large one, or past so many bytes, or while the log is in trouble, waits for the log like any batch.
* One that the log does not take after all is counted and told; only a gateway that is killed forgets some untold.
"""

import asyncio
import logging
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

    def __init__(self, sink: Sink, max_bytes: int) -> None:
        self._sink = sink
        self._max_bytes = max_bytes
        self._gathered: list[Record] = []
        self._publishing: set[asyncio.Task[None]] = set()
        self._failing = False
        self.pending_bytes = 0
        self.lost = 0

    def take(self, record: Record) -> bool:
        """Publish the record soon; False: there is no room for it, or the log is in trouble."""
        more_bytes = len(record.value) + _RECORD_BYTES
        has_room = more_bytes <= _MOST_BYTES and self.pending_bytes + more_bytes <= self._max_bytes
        if not has_room or self._sink.trouble() is not None:
            return False
        self.pending_bytes += more_bytes
        self._gathered.append(record)
        if len(self._gathered) == 1:
            publishing = asyncio.create_task(self._publish())
            self._publishing.add(publishing)
            publishing.add_done_callback(self._publishing.discard)
        return True

    async def finish(self) -> None:
        """Return when the log has answered for all that was taken."""
        while self._publishing:
            await asyncio.wait(self._publishing)

    async def _publish(self) -> None:
        await asyncio.sleep(_GATHER_SECONDS)
        records, self._gathered = self._gathered, []
        try:
            await self._sink.publish(records)
            self._failing = False
        except Exception as error:  # the boundary: nobody waits for this
            self.lost += len(records)
            if not self._failing:
                surprising = not isinstance(error, Unavailable)
                _log.warning("update checks were answered and are not on the log: %s", error, exc_info=surprising)
            self._failing = True
        self.pending_bytes -= sum(len(record.value) + _RECORD_BYTES for record in records)
