"""Tell by the topic `events` itself how far a partition of `batches` is unpacked: each event says where it comes from.

* The header `origin` of an event is LOG/PARTITION:OFFSET of its batch. LOG names that very topic `batches`
  (`KafkaSource.identity_of`): what came from one of the same name before it says nothing.
* Only what is committed counts. What was aborted is on no reader's side, and taken for unpacked it would be lost.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Final

from aiokafka.errors import KafkaError

from consumers.kafka_fetch import Fetcher, Recreated
from consumers.source import SourceError
from schemas.kafka import MIB, KafkaSettings
from schemas.records import StoredRecord
from schemas.topics import BATCHES, EVENTS

ORIGIN: Final = "origin"

_ANSWER_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.1
_CLOSE_SECONDS: Final = 5.0
_FETCH_BYTES: Final = MIB
_FIRST_WINDOW_RECORDS: Final = 500
_GROWTH: Final = 4


def origin(log: str, partition: int, offset: int) -> bytes:
    """Return what the header of an event says."""
    return f"{log}/{partition}:{offset}".encode()


async def unpacked_up_to(
    kafka: KafkaSettings, log: str, partition: int, *, search_records: int, open_seconds: float
) -> int:
    """Return one past the newest batch of the partition that has a committed event; 0 where none is found.

    Call it when nobody else can add events of the partition any more. Looks at the last `search_records` offsets, and
    waits `open_seconds` for others' transactions to end. Raises KafkaError, SourceError and OSError.
    """
    fetcher = Fetcher(kafka, [BATCHES, EVENTS])
    try:
        async with asyncio.timeout(_ANSWER_SECONDS):
            await fetcher.open()
        places = fetcher.partitions(EVENTS)
        if len(places) == len(fetcher.partitions(BATCHES)):
            places = [partition]  # one key, one number of partitions: a device's events are nowhere else
        mark = origin(log, partition, 0)[:-1]
        return max([await _Tail(fetcher, place, mark).search(search_records, open_seconds) for place in places])
    except Recreated as recreated:
        raise SourceError(str(recreated)) from recreated
    finally:
        with suppress(KafkaError, OSError, TimeoutError):
            await asyncio.wait_for(fetcher.close(), _CLOSE_SECONDS)


class _Tail:
    """The newest events of a partition of `events`, searched backwards for those whose origin begins with `mark`."""

    def __init__(self, fetcher: Fetcher, place: int, mark: bytes) -> None:
        self._fetcher, self._place, self._mark = fetcher, place, mark

    async def search(self, records: int, open_seconds: float) -> int:
        """Return one past the highest origin in the newest window that has any, within the last so many offsets."""
        high = end = await self._stable_end(open_seconds)
        async with asyncio.timeout(_ANSWER_SECONDS):
            oldest = max(await self._fetcher.oldest(EVENTS, self._place), end - records)
        window = _FIRST_WINDOW_RECORDS
        while high > oldest:
            low = max(oldest, high - window)
            found = [offset async for event in self._read(low, high) for offset in self._origins(event.headers)]
            if found:
                return max(found) + 1
            high, window = low, window * _GROWTH
        return 0

    async def _stable_end(self, open_seconds: float) -> int:
        """Return the end, once no transaction is open before it: what lies behind one that is, is not shown."""
        async with asyncio.timeout(_ANSWER_SECONDS):
            end = await self._fetcher.end(EVENTS, self._place, None)
        fetch = self._fetcher.fetch
        try:
            async with asyncio.timeout(_ANSWER_SECONDS + open_seconds):
                while (await fetch(EVENTS, self._place, end, 1, committed=True)).stable_end < end:  # noqa: ASYNC110 - brokers are asked
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise SourceError(f"events/{self._place}: a transaction stays open before {end}") from None
        return end

    async def _read(self, first: int, end: int) -> AsyncIterator[StoredRecord]:
        while first < end:
            async with asyncio.timeout(_ANSWER_SECONDS):
                fetched = await self._fetcher.fetch(EVENTS, self._place, first, _FETCH_BYTES, committed=True)
            for record in fetched.records:
                yield record
            if fetched.next_offset <= first:
                raise SourceError(f"events/{self._place} has nothing at {first}, though it ended at {end}")
            first = fetched.next_offset

    def _origins(self, headers: Iterable[tuple[str, bytes]]) -> list[int]:
        said = [value[len(self._mark) :] for name, value in headers if name == ORIGIN and value.startswith(self._mark)]
        return [int(offset) for offset in said if offset.isdigit()]
