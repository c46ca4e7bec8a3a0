"""Kafka as a `Sink`: what is acknowledged stands on every in-sync broker, and waiting is bounded everywhere.

* **All or none**, of a batch and its dead letters: the dead letters go first and the batch only once they are
  confirmed. A publish that fails half way leaves at most dead letters; the device sends the batch again, the same
  letters are written again, and consumers keep one of each (app, device, batch, index). A batch never stands on the
  log without its letters. Of several batches in one call some may stand there: each is its own, by its id.
* **Unavailable is not "not stored".** A record whose confirmation did not come in time may be on the log, or come to
  be there later. The sender sends it again under the same batch id, and consumers keep the lowest offset of an id.
* **One wait, not thousands.** The first publish that fails or waits too long trips the sink: all others are refused at
  once, until the producer has had everything confirmed that it still held, or is replaced by a new one.
* **Bounded.** Bytes count until Kafka has answered for them, however long ago their publisher gave up.
* Brokers need not be there at the start: a background task connects, makes the topics, and tries again.
* Topics that would lose what is acknowledged are not written: the sink is `unfit` until they are mended. They are
  looked at whenever it connects, and every `topics_check_seconds`: where they have changed, it connects anew.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Final, Self

from aiokafka.errors import KafkaError, MessageSizeTooLargeError
from msgspec import Meta, Struct

from gateway.publish import Sink, Unavailable
from gateway.publish.deadlines import Deadlines
from gateway.publish.kafka_parcels import Confirmation, Together
from gateway.publish.kafka_producer import Abandoned, Producer
from gateway.publish.kafka_topics import ensure_topics, examine_topics
from schemas.kafka import GIB, KIB, MIB, KafkaSettings, TopicSettings
from schemas.records import Record
from schemas.topics import BATCHES, TOPICS

_log = logging.getLogger(__name__)

_AWAY_RETRY_SECONDS: Final = 5.0
_BUSY_RETRY_SECONDS: Final = 1.0
_CONNECT_SECONDS: Final = 30.0
_FIRST_PAUSE_SECONDS: Final = 0.2
_LAST_PAUSE_SECONDS: Final = 5.0
# What a record costs beside its parts: lengths, and the batch's header where it travels alone.
_RECORD_OVERHEAD_BYTES: Final = 128
# Two lengths; a header's name is ours, so ASCII.
_HEADER_OVERHEAD_BYTES: Final = 10


class KafkaSinkSettings(Struct, frozen=True, kw_only=True):
    """How a gateway writes to Kafka."""

    publish_timeout_seconds: Annotated[
        float, Meta(gt=0, le=300, description="how long a batch waits for Kafka's confirmation")
    ] = 5.0
    max_pending_bytes: Annotated[
        int, Meta(ge=64 * KIB, le=16 * GIB, description="bytes that may wait for Kafka's confirmation")
    ] = 64 * MIB
    batch_bytes: Annotated[
        int,
        Meta(
            ge=16 * KIB,
            le=64 * MIB,
            description="records of a partition that travel together, at most; 16 KiB costs "
            "4 times the processor time of 256 KiB",
        ),
    ] = 512 * KIB
    linger_ms: Annotated[int, Meta(ge=0, le=1000, description="how long a record waits for others to travel with")] = 2
    renew_seconds: Annotated[
        float, Meta(ge=1, le=3600, description="a connection that confirms nothing for so long is made again")
    ] = 30.0
    topics_check_seconds: Annotated[
        float, Meta(ge=0.1, le=86_400, description="how soon a topic that somebody changes is noticed")
    ] = 60.0
    close_seconds: Annotated[
        float, Meta(ge=0, le=300, description="how long a stop waits for confirmations under way")
    ] = 5.0


class TooLarge(Unavailable):
    """A record that the topic does not take, now or later."""


class Unfit(Exception):
    """The topics are there and would lose records; the message names each fault and what mends it."""


class KafkaSink(Sink):
    """The topics of the log on Kafka, written. Made by `open`."""

    def __init__(self, kafka: KafkaSettings, topics: TopicSettings, settings: KafkaSinkSettings) -> None:
        self._kafka = kafka
        self._topics = topics
        self._settings = settings
        self._record_bytes: Mapping[str, int] = dict.fromkeys(TOPICS, topics.max_record_bytes)
        self._producer: Producer | None = None
        self._trouble: str | None = "not connected to Kafka yet"
        self._tripped = asyncio.Event()
        self._healthy = asyncio.Event()
        self._broken = False
        self._deadlines = Deadlines(settings.publish_timeout_seconds)
        self._pending_bytes = 0
        self._active = 0
        self._idle = asyncio.Event()
        self._closing = False
        self._counts = dict.fromkeys(("records", "parcels", "failures", "timeouts", "connections"), 0)
        self.differences: tuple[str, ...] = ()
        self._unfit: str | None = None
        self._keeper = asyncio.create_task(self._keep(), name="kafka-keeper")

    @classmethod
    async def open(
        cls, kafka: KafkaSettings, topics: TopicSettings, settings: KafkaSinkSettings, *, wait_seconds: float = 0.0
    ) -> Self:
        """Begin to connect; wait so long for it, and go on without. Raises OSError for a TLS file that is not there."""
        kafka.client_options()
        sink = cls(kafka, topics, settings)
        await sink.wait_healthy(wait_seconds)
        return sink

    async def publish(self, records: Sequence[Record]) -> None:
        """Return when all in-sync brokers have all records. Raises `Unavailable`."""
        if not records:
            return
        sizes = self._sizes(records)
        producer = self._admit(sum(sizes))
        self._active += 1
        try:
            if len(records) == 1:
                stored = self._deadlines.future()
                self._add(producer, records[0], sizes[0], stored)
                await stored
            else:
                async with asyncio.timeout(self._settings.publish_timeout_seconds):
                    await self._deliver(producer, records, sizes)
        except TimeoutError:
            self._counts["timeouts"] += 1
            self._broken |= not producer.sent  # nothing was even sent: whatever is wrong will not end by itself
            self._trip(f"Kafka has not confirmed within {self._settings.publish_timeout_seconds:g} s")
            raise self._unavailable() from None
        except MessageSizeTooLargeError as error:
            raise TooLarge(str(error), _AWAY_RETRY_SECONDS) from error
        except KafkaError as error:
            self._fail(error)
            raise self._unavailable() from error
        finally:
            self._active -= 1
            if self._closing and not self._active:
                self._idle.set()
        self._counts["records"] += len(records)

    def check(self, records: Sequence[Record]) -> None:
        """Refuse what can never be published. Raises `TooLarge`, and ValueError for a topic that there cannot be."""
        self._sizes(records)

    async def wait_healthy(self, seconds: float) -> bool:
        """Wait until records can be published; say whether they can."""
        if seconds > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._healthy.wait(), seconds)
        return self._healthy.is_set()

    def trouble(self) -> str | None:
        """Say why Kafka cannot take records; None when it can."""
        return "the connection to Kafka is closed" if self._closing else self._trouble

    def unfit(self) -> str | None:
        """Say what of the topics a person must mend before they are written; None where nothing is."""
        return self._unfit

    def gauges(self) -> Mapping[str, float]:
        """Return whether Kafka takes records, what waits for it, and counts."""
        return {
            "kafka_up": float(self.trouble() is None),
            "kafka_pending_bytes": self._pending_bytes,
            "kafka_topic_differences": len(self.differences),
            "kafka_topics_unfit": float(self._unfit is not None),
            **{f"kafka_{name}": count for name, count in self._counts.items()},
        }

    async def close(self) -> None:
        """Wait for what was accepted, within bounds, then let go; what comes later is `Unavailable`."""
        if not self._closing:
            self._closing = True
            self._healthy.clear()
            if self._active:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._idle.wait(), self._settings.close_seconds)
            self._keeper.cancel()
        await asyncio.wait({self._keeper})

    def _sizes(self, records: Sequence[Record]) -> list[int]:
        """Return how many bytes each record takes. Raises as `check`."""
        sizes = []
        for record in records:
            most = self._record_bytes.get(record.topic)
            if most is None:
                raise ValueError(f"no such topic: {record.topic!r}")
            size = size_bytes(record)
            if size > most:
                raise TooLarge(f"a record of {size} bytes; Kafka takes {most}", _AWAY_RETRY_SECONDS)
            sizes.append(size)
        return sizes

    def _admit(self, more_bytes: int) -> Producer:
        if self._producer is None or self.trouble() is not None:
            raise self._unavailable()
        if self._pending_bytes + more_bytes > self._settings.max_pending_bytes:
            raise Unavailable(f"{self._pending_bytes} bytes wait for Kafka", _BUSY_RETRY_SECONDS)
        return self._producer

    def _add(self, producer: Producer, record: Record, size: int, confirmation: Confirmation) -> None:
        producer.add(record, size, confirmation)
        self._pending_bytes += size

    async def _deliver(self, producer: Producer, records: Sequence[Record], sizes: Sequence[int]) -> None:
        """Return when all are stored, the letters before the batches are sent."""
        sized = list(zip(records, sizes, strict=True))
        for is_batch in (False, True):
            if group := [each for each in sized if (each[0].topic == BATCHES) is is_batch]:
                together = Together(len(group))
                for record, size in group:
                    self._add(producer, record, size, together)
                await together.stored

    def _settled(self, size: int, failure: BaseException | None) -> None:
        """Hear of a parcel's end, also when its publishers are gone."""
        self._counts["parcels"] += 1
        self._pending_bytes -= size
        if failure is not None and not isinstance(failure, Abandoned):
            self._fail(failure)

    def _fail(self, error: BaseException) -> None:
        self._counts["failures"] += 1
        self._broken = True
        self._trip(f"Kafka does not take records: {error!r}")

    def _trip(self, reason: str) -> None:
        if self._trouble is None:
            _log.warning("%s", reason)
            self._trouble = reason
        self._healthy.clear()
        self._tripped.set()

    def _mend(self) -> None:
        if self._trouble is not None:
            _log.warning("Kafka takes records")
        self._trouble = None
        self._tripped.clear()
        self._healthy.set()

    def _unavailable(self) -> Unavailable:
        return Unavailable(self.trouble() or "Kafka is away", _AWAY_RETRY_SECONDS)

    async def _keep(self) -> None:
        """Have a producer that works, for as long as the sink lives."""
        try:
            while True:
                self._producer = await self._connect()
                self._broken = False
                self._mend()
                while await self._recovers(self._producer):
                    self._mend()
                producer, self._producer = self._producer, None
                await producer.abandon()
        finally:
            self._trouble = self._trouble or "the connection to Kafka is closed"
            if self._producer is not None:
                await self._producer.close(0.0 if self._pending_bytes else 1.0)

    async def _recovers(self, producer: Producer) -> bool:
        """Wait for trouble and then for its end: everything that was sent is confirmed. False: it does not end."""
        changed = False
        while not changed:
            try:
                await asyncio.wait_for(self._tripped.wait(), self._settings.topics_check_seconds)
                break
            except TimeoutError:
                # Twice: brokers hear of a change one by one, and one that is behind tells of another.
                changed = await self._topics_changed() and await self._topics_changed()
        if changed:
            self._trip("the topics on Kafka have changed")
        settled = not self._broken and await producer.wait_settled(self._settings.renew_seconds)
        return settled and not self._broken and not changed

    async def _topics_changed(self) -> bool:
        """Say whether the topics are not what they were when this connected. Unknown is unchanged."""
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                report = await examine_topics(self._kafka, self._topics, TOPICS)
        except (KafkaError, OSError):  # a timeout is an OSError; whatever it is, publishing tells of it
            return False
        return (report.differences, report.record_bytes) != (self.differences, self._record_bytes)

    async def _connect(self) -> Producer:
        pause_seconds = _FIRST_PAUSE_SECONDS
        said: type[Exception] | None = None
        while True:
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    return await self._connect_once()
            except Unfit as unfit:
                if self._unfit != str(unfit):
                    _log.error("%s", unfit)
                self._trouble = self._unfit = str(unfit)
                said = Unfit
            except Exception as error:  # the loop that must not end
                self._trouble = f"not connected to Kafka at {self._kafka.bootstrap}: {error!r}"
                if type(error) is not said:
                    _log.warning("%s", self._trouble, exc_info=not isinstance(error, (KafkaError, OSError)))
                said = type(error)
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, _LAST_PAUSE_SECONDS)

    async def _connect_once(self) -> Producer:
        report = await ensure_topics(self._kafka, self._topics, TOPICS)
        if report.differences != self.differences:
            for difference in report.differences:
                _log.warning("%s", difference)
        self.differences = report.differences
        if report.faults:
            raise Unfit(
                f"Kafka would lose records that were acknowledged, so it is not written: {'; '.join(report.faults)}. "
                "kafka-configs.sh --alter --entity-type topics changes it"
            )
        self._unfit = None
        self._record_bytes = report.record_bytes
        producer = await Producer.start(
            self._kafka,
            TOPICS,
            self._settled,
            parcel_bytes=min(self._settings.batch_bytes, report.max_record_bytes),
            linger_ms=self._settings.linger_ms,
        )
        self._counts["connections"] += 1
        return producer


def size_bytes(record: Record) -> int:
    """Return no less than what the record takes on Kafka."""
    size = len(record.key) + len(record.value) + _RECORD_OVERHEAD_BYTES
    for name, value in record.headers:
        size += _HEADER_OVERHEAD_BYTES + len(name) + len(value)
    return size
