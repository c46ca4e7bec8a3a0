"""Move what was spooled to Kafka: in order, at a limited rate, and always a little faster than more arrives.

* A group goes to Kafka, is confirmed, and only then the position moves. A crash between the two sends the group again:
  consumers keep one of each batch and letter.
* What Kafka will never take is put aside once it is told to: see `spool_aside`.
* A position that cannot be written does not send a group twice: this process goes on from what it knows.
* Every turn moves the configured share plus as many as arrived since the last one, so the spool always shrinks by
  that share, however fast devices send.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Protocol, Self

from asyncio_throttle.throttler import Throttler

from gateway.publish import Sink, spool_aside
from gateway.publish.kafka import TooLarge
from schemas.records import Record, StoredRecord, dead_letter_record
from schemas.topics import BATCHES, DEAD_LETTERS

_log = logging.getLogger(__name__)

CONSUMER: Final = "drain"
_TURNS_PER_SECOND: Final = 10
_GROUP_RECORDS: Final = 500
_GROUP_BYTES: Final = 4 * 1024 * 1024
# Letters before batches, as in a publish.
_TOPICS: Final = (DEAD_LETTERS, BATCHES)


class SpoolReader(Protocol):
    """The part of a consumer's port that a drain needs: `consumers.source.EmbeddedSource` is one."""

    async def read(
        self, topic: str, partition: int, first: int, *, max_records: int, max_bytes: int
    ) -> list[StoredRecord]: ...
    async def position(self, topic: str, partition: int) -> int: ...
    async def commit(self, topic: str, partition: int, next_offset: int) -> None: ...
    async def end(self, topic: str, partition: int) -> int: ...
    async def close(self) -> None: ...


class Kafka(Sink, Protocol):
    """Where it is moved to."""

    def check(self, records: Sequence[Record]) -> None:
        """Refuse what can never be published. Raises `TooLarge`."""


# The gateway knows no consumers: whoever composes the process hands this in.
OpenReader = Callable[[Path, str], Awaitable[SpoolReader]]


class Drain:
    """One reader of the spool and its places. Made by `open`."""

    def __init__(self, reader: SpoolReader, kafka: Kafka, records_per_second: int) -> None:
        self._reader = reader
        self._kafka = kafka
        self._share = max(1, records_per_second // _TURNS_PER_SECOND)
        self._throttler = Throttler(rate_limit=1, period=1 / _TURNS_PER_SECOND)
        self._next: dict[str, int] = {}
        self.moved_records = 0
        self.aside_records = 0

    @classmethod
    async def open(cls, reader: SpoolReader, kafka: Kafka, records_per_second: int) -> Self:
        """Take up where the last drain was."""
        drain = cls(reader, kafka, records_per_second)
        for topic in _TOPICS:
            drain._next[topic] = await reader.position(topic, 0)
        return drain

    async def left(self) -> int:
        """Return how many records wait."""
        return sum([await self._reader.end(topic, 0) - self._next[topic] for topic in _TOPICS])

    def is_short(self, left: int) -> bool:
        """Say whether so many records are moved in a moment."""
        return left <= self._share

    async def turn(self, arrived: int) -> None:
        """Wait for the next turn, then move its share and as many as arrived. Raises `Unavailable`."""
        async with self._throttler:
            allowance = self._share + arrived
        while allowance > 0:
            moved = await self.move(min(allowance, _GROUP_RECORDS))
            if not moved:
                return
            allowance -= moved

    async def move(self, max_records: int = _GROUP_RECORDS) -> int:
        """Move one group of each topic; return how many records that was. Raises `Unavailable`."""
        return sum([await self._move(topic, max_records) for topic in _TOPICS])

    async def put_aside(self, directory: Path) -> int:
        """Put aside the records at the spool's head that Kafka will never take; return how many.

        What stands before them in their group is moved first. Raises `Unavailable` or OSError.
        """
        before = self.aside_records
        for topic in _TOPICS:
            first = self._next[topic]
            for stored in await self._reader.read(topic, 0, first, max_records=_GROUP_RECORDS, max_bytes=_GROUP_BYTES):
                if self._fits(*_as_published([stored])):
                    await self._kafka.publish(_as_published([stored]))
                    self.moved_records += 1
                else:
                    await self._put_aside(directory, stored)
                self._next[topic] = stored.offset + 1
            if self._next[topic] > first:
                await self._keep(topic)
        return self.aside_records - before

    async def close(self) -> None:
        await self._reader.close()

    async def _put_aside(self, directory: Path, stored: StoredRecord) -> None:
        kept = await asyncio.to_thread(spool_aside.keep, directory, stored)
        letter = spool_aside.letter_of(stored)
        whole = dead_letter_record(letter)
        await self._kafka.publish([whole if self._fits(whole) else spool_aside.without_body(letter, kept)])
        _log.error("a record that does not fit on Kafka is put aside, in %s and as a dead letter", kept)
        self.aside_records += 1

    def _fits(self, record: Record) -> bool:
        try:
            self._kafka.check([record])
        except TooLarge:
            return False
        return True

    async def _move(self, topic: str, max_records: int) -> int:
        first = self._next[topic]
        group = await self._reader.read(topic, 0, first, max_records=max_records, max_bytes=_GROUP_BYTES)
        if group:
            await self._kafka.publish(_as_published(group))
            self._next[topic] = group[-1].offset + 1
            self.moved_records += len(group)
            await self._keep(topic)
        return len(group)

    async def _keep(self, topic: str) -> None:
        try:
            await self._reader.commit(topic, 0, self._next[topic])
        except Exception:
            _log.exception("the spool's position cannot be kept; a restart would send again what was drained since")


def _as_published(group: Sequence[StoredRecord]) -> list[Record]:
    return [Record(stored.topic, stored.key, stored.value, stored.headers) for stored in group]
