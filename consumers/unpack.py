"""Fill the topic `events`: one plain JSON event per record, for every consumer that is not ours.

* **Exactly once against the log handing a record out again**, on Apache Kafka and for readers with
  isolation.level=read_committed: the events of a range and the position behind it are one transaction. Each partition
  has a transactional id of its own. Whoever takes the partition over first starts its producer under that id, which
  ends the transaction of the one before and shuts it out, and only then looks where it stood: so a range is either all
  there with its position, or not there at all, and a zombie can add nothing. Brokers that only speak the protocol may
  show what was aborted: there it is at least once.
* **A position that brokers lost, or that went back, doubles nothing.** It is a record of another topic than the events,
  on other brokers, so one can be lost without the other (a disk, a clock that lets positions expire, a reset by hand).
  Each event says of which batch it is (`consumers.origins`), and a start goes on behind the newest batch that has a
  committed event, or from the position, whichever is further. An event there proves that its whole range is, and all
  before it: ranges come in order, one transaction each. Batches without events leave no trace, and read again give
  nothing again. This rests on events being there: where `events` keeps less long than `batches`, was made again, or has
  none of the partition among its last `search_records` offsets, the position stands alone. To unpack all of a log
  again, make `events` again and delete the group's offsets.
* **A batch that a device sent again** is dropped when its first copy is among the last `resend_window_records` records
  of its partition. The window is read again at every start, so what is dropped depends on the log alone. An older copy
  is passed on, with the same `app`, `device`, `batch` and `index` in each event: who needs more keeps those unique. A
  batch is known by its app and device beside its own id, which devices choose: none can silence another's. The window
  counts records of the partition, not time: 5000 last 8 minutes where ten arrive in a second, and a device may send
  again for as long as it keeps a batch.
* An event's key is its device, so that a device's events stay in order. Brokers compress the topic.
* A record that cannot be read is counted and skipped here; the warehouse consumer makes it a dead letter.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Annotated, Any, Final, NamedTuple

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from msgspec import Meta, Struct
from msgspec.structs import replace

from consumers.ending import until, wind_up
from consumers.kafka import KafkaSource
from consumers.origins import ORIGIN, origin, unpacked_up_to
from consumers.plain_event import plain_events
from consumers.source import SourceError
from schemas.kafka import GIB, KIB, MIB, KafkaSettings
from schemas.partition import partition_of
from schemas.records import Malformed, StoredRecord, batch_headers
from schemas.topics import BATCHES, EVENTS

_log = logging.getLogger(__name__)

_PARTITIONS_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 2.0
_CLOSE_SECONDS: Final = 5.0


class UnpackSettings(Struct, frozen=True, kw_only=True):
    """Bounds of a transaction, how far back a batch sent again is known, and how far back a start looks for events."""

    range_records: Annotated[int, Meta(ge=1, le=100_000, description="the most batches in one transaction")] = 500
    range_bytes: Annotated[int, Meta(ge=64 * KIB, le=GIB, description="the most bytes of them")] = 4 * MIB
    poll_seconds: Annotated[float, Meta(ge=0.01, le=60, description="how long it waits when nothing is new")] = 0.2
    resend_window_records: Annotated[
        int, Meta(ge=0, le=1_000_000, description="records of a partition in which a batch sent again is dropped")
    ] = 5000
    search_records: Annotated[
        int, Meta(ge=1, le=100_000_000, description="offsets at the end of `events` that a start searches for its own")
    ] = 200_000
    transaction_seconds: Annotated[
        float, Meta(ge=1, le=900, description="a transaction open for longer is aborted by the brokers")
    ] = 60.0
    stop_seconds: Annotated[float, Meta(ge=0, le=300, description="how long a stop waits for ranges under way")] = 10.0


class UnpackProgress(Struct, frozen=True):
    """How far a partition is, and counts since its unpacker began.

    `skipped` counts offsets that the log had no record for: deleted by its retention before they were read.
    `broken` says that the log is in trouble, and `trouble` which; both are empty while all is well.
    """

    partition: int
    next_offset: int
    batches: int = 0
    events: int = 0
    resends: int = 0
    unreadable: int = 0
    skipped: int = 0
    retries: int = 0
    trouble: str = ""
    broken: str = ""

    @property
    def topic(self) -> str:
        """The topic that is unpacked."""
        return BATCHES

    @property
    def records(self) -> int:
        """Each batch is a record."""
        return self.batches


Observer = Callable[[UnpackProgress], None]


class _Event(NamedTuple):
    """A record of the topic `events`."""

    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]


async def run(
    source: KafkaSource,
    kafka: KafkaSettings,
    settings: UnpackSettings,
    stop: asyncio.Event,
    observe: Observer | None = None,
) -> None:
    """Unpack the partitions that the source's group gives to this member, until `stop` is set."""
    _quieten_left_futures()
    running: dict[int, tuple[asyncio.Event, asyncio.Task[None]]] = {}
    try:
        while not stop.is_set():
            wanted = source.partitions(BATCHES)
            for partition, (leave, task) in list(running.items()):
                if partition not in wanted:
                    leave.set()
                if task.done():
                    del running[partition]
                    task.result()
            for partition in wanted:
                if partition not in running:
                    leave = asyncio.Event()
                    unpacker = Unpacker(source, kafka, settings, partition, observe or (lambda _: None))
                    running[partition] = (leave, asyncio.create_task(unpacker.run(leave)))
            await until(stop, _PARTITIONS_SECONDS)
    finally:
        for leave, _ in running.values():
            leave.set()
        await wind_up([task for _, task in running.values()], settings.stop_seconds)


def _quieten_left_futures() -> None:
    """Keep asyncio from reporting, by a traceback for each, the futures that a producer which failed leaves behind.

    aiokafka sets the error also on futures of its own that nobody waits for, one for each batch not yet on its way. The
    error itself reaches whoever sends, so nothing goes unsaid. It is no trouble at all where another member took the
    partition over, as in every deployment.
    """
    logger = logging.getLogger("asyncio")
    if not any(isinstance(each, _LeftFutures) for each in logger.filters):
        logger.addFilter(_LeftFutures())


class _LeftFutures(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is written: all but those of a future, not a task, that ended with an error of Kafka."""
        error = record.exc_info[1] if record.exc_info else None
        left = record.getMessage().startswith("Future exception was never retrieved")
        return not (left and isinstance(error, KafkaError))


class Unpacker:
    """One partition of `batches`, unpacked. `run` until stopped; what fails is tried again with a new producer."""

    def __init__(
        self, source: KafkaSource, kafka: KafkaSettings, settings: UnpackSettings, partition: int, observe: Observer
    ) -> None:
        self._source, self._kafka, self._settings = source, kafka, settings
        self._partition = partition
        self._observe = observe
        self._window = ResendWindow(settings.resend_window_records)
        self.progress = UnpackProgress(partition, 0)

    async def run(self, stop: asyncio.Event) -> None:
        """Unpack until stopped."""
        while not stop.is_set():
            producer = self._producer()
            try:
                await producer.start()  # from here on nobody else adds to this partition's events
                await self._unpack(producer, stop)
            except (KafkaError, SourceError, OSError) as error:
                level = logging.DEBUG if self.progress.broken else logging.WARNING
                _log.log(level, "batches/%d: unpacking starts again: %r", self._partition, error)
                self._tell(retries=self.progress.retries + 1, trouble=repr(error), broken="log")
                await until(stop, _RETRY_SECONDS)
            finally:
                with suppress(KafkaError, OSError, TimeoutError):
                    await asyncio.wait_for(producer.stop(), _CLOSE_SECONDS)
        self._tell(trouble="", broken="")  # whatever it is, it is another one's now

    async def _unpack(self, producer: AIOKafkaProducer, stop: asyncio.Event) -> None:
        next_offset = await self._stood(producer)
        await self._look_back(next_offset)
        if self.progress.broken:
            _log.warning("batches/%d: unpacking goes on", self._partition)
        # A partition that is at its end already says so, too.
        self._tell(next_offset=next_offset, trouble="", broken="")
        while not stop.is_set():
            records = await self._read(next_offset)
            if not records:
                await until(stop, self._settings.poll_seconds)
                continue
            events, progress = await asyncio.to_thread(self._events, records, next_offset)
            next_offset = progress.next_offset
            async with producer.transaction():
                await self._send(producer, events)
                await self._keep(producer, next_offset)
            self.progress = progress
            self._observe(progress)

    async def _stood(self, producer: AIOKafkaProducer) -> int:
        """Return where the one before stood: at the position, or further where the events say so."""
        kept = await self._source.position(BATCHES, self._partition)
        found = await unpacked_up_to(
            self._kafka,
            self._source.identity_of(BATCHES),
            self._partition,
            search_records=self._settings.search_records,
            open_seconds=self._settings.transaction_seconds,
        )
        if found <= kept:
            return kept
        _log.warning("batches/%d: brokers say %d, but events go up to %d", self._partition, kept, found)
        async with producer.transaction():
            await self._keep(producer, found)
        return found

    async def _keep(self, producer: AIOKafkaProducer, next_offset: int) -> None:
        place = TopicPartition(self._kafka.topic(BATCHES), self._partition)
        kept = {place: self._source.kept(BATCHES, next_offset)}
        await producer.send_offsets_to_transaction(kept, self._source.group)

    def _events(self, records: Sequence[StoredRecord], first: int) -> tuple[list[_Event], UnpackProgress]:
        """Return the events of what was read from `first` on, and how far that comes once stored."""
        log = self._source.identity_of(BATCHES)
        events: list[_Event] = []
        resends = unreadable = 0
        for record in records:
            try:
                if self._window.is_resend(_key(record), record.offset):
                    resends += 1
                else:
                    told = [(ORIGIN, origin(log, self._partition, record.offset))]
                    events += [_Event(record.key, event, told) for event in plain_events(record)]
            except Malformed as error:
                _log.warning("batches/%d:%d cannot be read: %s", self._partition, record.offset, error)
                unreadable += 1
        before, next_offset = self.progress, records[-1].offset + 1
        return events, replace(
            before,
            next_offset=next_offset,
            batches=before.batches + len(records),
            events=before.events + len(events),
            resends=before.resends + resends,
            unreadable=before.unreadable + unreadable,
            skipped=before.skipped + next_offset - first - len(records),
        )

    def _tell(self, **changes: int | str) -> None:
        self.progress = replace(self.progress, **changes)
        self._observe(self.progress)

    async def _send(self, producer: AIOKafkaProducer, events: Sequence[_Event]) -> None:
        """Send whole batches of records, and wait for all: a commit alone would not tell of one that was refused."""
        topic = self._kafka.topic(EVENTS)
        count = len(await producer.partitions_for(topic))
        by_partition: dict[int, list[_Event]] = {}
        for event in events:
            by_partition.setdefault(partition_of(event.key, count), []).append(event)
        sent: list[asyncio.Future[Any]] = []
        for partition, together in by_partition.items():
            builder = producer.create_batch()
            for event in together:
                if builder.append(**event._asdict(), timestamp=None) is None:
                    sent.append(await producer.send_batch(builder, topic, partition=partition))
                    builder = producer.create_batch()
                    builder.append(**event._asdict(), timestamp=None)
            sent.append(await producer.send_batch(builder, topic, partition=partition))
        for ended in await asyncio.gather(*sent, return_exceptions=True):
            if isinstance(ended, BaseException):
                raise ended

    async def _look_back(self, next_offset: int) -> None:
        """Fill the window from the records before the position, so that a start forgets nothing."""
        self._window.clear()
        at = max(0, next_offset - self._settings.resend_window_records)
        while at < next_offset:
            records = [record for record in await self._read(at) if record.offset < next_offset]
            for record in records:
                with suppress(Malformed):
                    self._window.is_resend(_key(record), record.offset)
            at = records[-1].offset + 1 if records else next_offset

    async def _read(self, first: int) -> list[StoredRecord]:
        limits = self._settings
        return await self._source.read(
            BATCHES, self._partition, first, max_records=limits.range_records, max_bytes=limits.range_bytes
        )

    def _producer(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            **self._kafka.client_options(),
            transactional_id=f"{self._source.group}.{BATCHES}.{self._partition}",
            transaction_timeout_ms=int(self._settings.transaction_seconds * 1000),
            max_batch_size=256 * KIB,
            linger_ms=0,
        )


BatchKey = tuple[str, bytes, str]


class ResendWindow:
    """The batches of the last so many offsets, whether they were passed on or dropped."""

    def __init__(self, records: int) -> None:
        self._records = records
        self._last: dict[BatchKey, int] = {}
        self._order: deque[tuple[int, BatchKey]] = deque()

    def is_resend(self, batch: BatchKey, offset: int) -> bool:
        """Say whether the batch stands on one of the last offsets already; remember it. Offsets only grow."""
        while self._order and self._order[0][0] < offset - self._records:
            gone, name = self._order.popleft()
            if self._last.get(name) == gone:
                del self._last[name]
        known = batch in self._last
        self._last[batch] = offset
        self._order.append((offset, batch))
        return known

    def clear(self) -> None:
        self._last.clear()
        self._order.clear()


def _key(record: StoredRecord) -> BatchKey:
    """Return what the warehouse knows a batch by: its app, device and id. Raises `Malformed`."""
    about = batch_headers(record)
    return about.app, record.key, about.batch
