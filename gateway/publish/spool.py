"""Kafka with a bounded, fsynced spool behind it: what Kafka does not take now is kept on this disk and drained later.

* **Acknowledged is durable**: on Kafka's in-sync brokers, or synced to the spool. Only a spool that is full or whose
  disk fails makes it `Unavailable`, while Kafka is away or what waits in the spool must go there first.
* **A disk that the spool fills recovers alone**: batches are refused while only `reserve_bytes` of it are free, so that
  there is always room for the drain's position, by which space is given back, and for a gateway's start.
* **In order**: while anything is in the spool, new batches go behind it. When only a moment's worth is left, new ones
  wait that moment, the rest is moved, and Kafka is written directly again; so the drain ends under any load.
* **Of one gateway only**: a device that is balanced to another gateway, or worker, while this one spools, overtakes
  what waits here. Nothing of ours counts on the order: copies of a batch are told apart by their places, a device's
  newest state and its ledger by `seq`, outcomes find their predictions by id. Readers of `events` sort by `seq`.
* **A few twice, none lost**: a publish that timed out may be on Kafka and is in the spool as well; a crash while
  draining sends its last group again. Consumers keep one of each batch and letter.
* **A record too large for its topic** (whose limit was lowered while it waited) holds up the others for a while, in
  which the limit can be raised, and is then put aside: whole in a file, and as a dead letter.
* **Killed with a full spool**, a gateway drains it at its next start. One process per directory: a lock says so.
"""

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Protocol, Self

from msgspec import Meta, Struct

from gateway.publish import Sink, Unavailable
from gateway.publish.database import FILE_NAME
from gateway.publish.embedded import EmbeddedLog
from gateway.publish.kafka import TooLarge
from gateway.publish.reserve import most_bytes
from gateway.publish.spool_drain import CONSUMER, Drain, OpenReader
from schemas.kafka import GIB, KIB, MIB
from schemas.records import Record

_log = logging.getLogger(__name__)

# Beneath the spool's directory: what Kafka will never take.
ASIDE: Final = "aside"
_CLOSED_RETRY_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.5
_PAUSE_SECONDS: Final = 1.0
_BUSY_SECONDS: Final = 0.1
_HAND_OVER_SECONDS: Final = 2.0
_CLOSE_SECONDS: Final = 3.0
# What devices hear as soon as anything is spooled, so that they slow down before it fills.
_LEAST_PRESSURE: Final = 0.1


class SpoolSettings(Struct, frozen=True, kw_only=True):
    """The spool of one gateway."""

    max_bytes: Annotated[
        int, Meta(ge=MIB, le=2**50, description="how much the spool keeps before batches are answered 503")
    ] = 8 * GIB
    max_pending_bytes: Annotated[
        int, Meta(ge=64 * KIB, le=16 * GIB, description="bytes that may wait for the spool's disk")
    ] = 64 * MIB
    reserve_bytes: Annotated[
        int, Meta(ge=0, le=2**50, description="how much of its disk the spool leaves free, to be drained")
    ] = 192 * MIB
    drain_records_per_second: Annotated[
        int,
        Meta(ge=10, le=10_000_000, description="how fast the spool shrinks once Kafka is back, beside what arrives"),
    ] = 2000
    stuck_seconds: Annotated[
        float,
        Meta(ge=0, le=86_400, description="how long a record too large for Kafka holds up the rest"),
    ] = 300.0


class MainSink(Sink, Protocol):
    """What a spool stands behind: `gateway.publish.kafka.KafkaSink`."""

    def check(self, records: Sequence[Record]) -> None:
        """Refuse what can never be published. Raises `TooLarge`."""

    async def wait_healthy(self, seconds: float) -> bool:
        """Wait until records can be published; say whether they can."""

    def unfit(self) -> str | None:
        """Say what a person must mend before records can be published; None where nothing is."""


class Aside(Struct, frozen=True):
    """Where records go that Kafka does not take, and after how long."""

    directory: Path
    stuck_seconds: float


class Spool(Sink):
    """A `KafkaSink`, and an `EmbeddedLog` for when it is away. Made by `open`, which takes over the Kafka sink."""

    def __init__(
        self, kafka: MainSink, log: EmbeddedLog, drain: Drain, lock: int, aside: Aside, *, empty: bool
    ) -> None:
        self._kafka = kafka
        self._log = log
        self._drain = drain
        self._lock = lock
        self._direct = empty
        self._spilled = asyncio.Event()
        self._gate = asyncio.Event()
        self._gate.set()
        self._storing: set[asyncio.Task[None]] = set()
        self._active = 0
        self._idle = asyncio.Event()
        self._stored_records = 0
        self._arrived = 0
        self._left = 0
        self._aside = aside
        self._stuck: str | None = None
        self._stuck_at = 0.0
        self._closing = False
        if not empty:
            self._spilled.set()
        self._drainer = asyncio.create_task(self._keep_draining(), name="spool-drain")

    @classmethod
    async def open(cls, directory: Path, kafka: MainSink, settings: SpoolSettings, open_reader: OpenReader) -> Self:
        """Open the spool, made where it is missing, and begin to drain what is in it. Raises `Unavailable`."""
        log = await EmbeddedLog.open(
            directory,
            max_bytes=settings.max_bytes,
            max_pending_bytes=settings.max_pending_bytes,
            reserve_bytes=settings.reserve_bytes,
        )
        try:
            lock = _locked(directory)
            try:
                _warn_without_room(directory, settings.reserve_bytes)
                reader = await open_reader(directory, CONSUMER)
                drain = await Drain.open(reader, kafka, settings.drain_records_per_second)
                aside = Aside(directory / ASIDE, settings.stuck_seconds)
                return cls(kafka, log, drain, lock, aside, empty=await drain.left() == 0)
            except BaseException:
                os.close(lock)
                raise
        except BaseException:
            await log.close()
            raise

    async def publish(self, records: Sequence[Record]) -> None:
        """Return when all records are on Kafka or all are in the spool. Raises `Unavailable`."""
        if self._closing:
            raise Unavailable("the gateway is stopping", _CLOSED_RETRY_SECONDS)
        self._active += 1
        try:
            if not self._gate.is_set():
                await self._gate.wait()
            if not (self._direct and await self._published(records)):
                self._kafka.check(records)
                await self._store(records)
        finally:
            self._end_one()

    def pressure(self) -> float:
        """Return how urgently devices should flush less often: 0 not at all, 1 the spool is full."""
        if self._direct:
            return 0.0
        if self._log.trouble() is not None:
            return 1.0
        gauges = self._log.gauges()
        held, room = gauges.get("log_bytes", 0.0), max(gauges.get("log_room_bytes", 1.0), 1.0)
        return max(_LEAST_PRESSURE, held / (held + room))

    def trouble(self) -> str | None:
        """Say why neither Kafka nor the spool takes records, or what a person must mend; None when one does.

        A spool behind topics that are not written would only fill: batches still go there, and nobody calls it ready.
        """
        if self._closing:
            return "the gateway is stopping"
        if unfit := self._kafka.unfit():
            return unfit
        if self._direct and self._kafka.trouble() is None:
            return None
        return self._log.trouble()

    def gauges(self) -> Mapping[str, float]:
        """Return Kafka's numbers and the spool's."""
        return {
            **self._kafka.gauges(),
            **{f"spool_{name.removeprefix('log_')}": number for name, number in self._log.gauges().items()},
            "spool_direct": float(self._direct),
            "spool_pressure": self.pressure(),
            "spool_left_records": self._left,
            "spool_stuck": float(self._stuck is not None),
            "spool_stored_records": self._stored_records,
            "spool_drained_records": self._drain.moved_records,
            "spool_aside_records": self._drain.aside_records,
        }

    async def close(self) -> None:
        """Finish what was accepted, on Kafka or in the spool, then close. The next start drains the spool."""
        if not self._closing:
            self._closing = True
            self._spilled.set()
            await asyncio.wait({self._drainer}, timeout=_CLOSE_SECONDS)
            self._drainer.cancel()
            await asyncio.wait({self._drainer})
            await self._kafka.close()  # what it could not confirm comes to the spool now
            if self._active:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._idle.wait(), _CLOSE_SECONDS)
            await self._drain.close()
            await self._log.close()
            os.close(self._lock)

    def _end_one(self) -> None:
        self._active -= 1
        if self._closing and not self._active:
            self._idle.set()

    async def _published(self, records: Sequence[Record]) -> bool:
        """Publish to Kafka; say whether it is done."""
        try:
            await self._kafka.publish(records)
        except TooLarge:  # it would stand in the spool's way for good
            raise
        except Unavailable as away:
            _log.log(logging.WARNING if self._direct else logging.DEBUG, "batches go to the spool: %s", away.reason)
            return False
        return True

    async def _store(self, records: Sequence[Record]) -> None:
        """Put the records behind all that wait. Raises `Unavailable`."""
        await self._gate.wait()
        # From here to the end of the write nobody may find the spool empty: also when the publisher gives up.
        self._direct = False
        self._spilled.set()
        storing = asyncio.ensure_future(self._log.publish(records))
        self._storing.add(storing)
        storing.add_done_callback(self._settle)
        await asyncio.shield(storing)
        self._stored_records += len(records)
        self._arrived += len(records)

    def _settle(self, storing: "asyncio.Task[None]") -> None:
        self._storing.discard(storing)
        if not storing.cancelled():
            storing.exception()  # its publisher may be gone

    async def _keep_draining(self) -> None:
        while not self._closing:
            await self._spilled.wait()
            try:
                await self._drain_on()
                self._stuck = None
            except Unavailable as away:
                self._stick(away)
                if await self._put_aside():
                    continue
                await asyncio.sleep(_PAUSE_SECONDS if isinstance(away, TooLarge) else _BUSY_SECONDS)
            except Exception:  # the loop that must not end
                _log.exception("the spool cannot be drained")
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _drain_on(self) -> None:
        """Move records until the spool is empty and Kafka is written directly. Raises `Unavailable`."""
        while not (self._direct or self._closing):
            away = self._kafka.trouble() is not None
            healthy = await self._kafka.wait_healthy(_LOOK_SECONDS)
            if away:
                self._arrived = 0  # only what arrives while it drains is moved on top of its share
            self._left = await self._drain.left()
            if not healthy:
                continue
            if self._drain.is_short(self._left):
                await self._hand_over()
            else:
                arrived, self._arrived = self._arrived, 0
                await self._drain.turn(arrived)

    async def _hand_over(self) -> None:
        """Hold new batches back for a moment, move the rest, and write Kafka directly. Raises `Unavailable`."""
        self._gate.clear()
        try:
            async with asyncio.timeout(_HAND_OVER_SECONDS):
                if self._storing:
                    await asyncio.wait(self._storing)
                while await self._drain.move():
                    pass
        except TimeoutError:
            _log.warning("Kafka takes records too slowly for the spool to end; draining goes on")
        else:
            self._direct = True
            self._spilled.clear()
            self._left = 0
            _log.warning("the spool is empty; batches go to Kafka directly")
        finally:
            self._gate.set()

    def _stick(self, away: Unavailable) -> None:
        if isinstance(away, TooLarge) and self._stuck is None:
            self._stuck_at = time.monotonic()
            _log.error(
                "the spool's next record does not fit on Kafka; it waits %g s for its topic to take it: %s",
                self._aside.stuck_seconds,
                away,
            )
        self._stuck = away.reason if isinstance(away, TooLarge) else None

    async def _put_aside(self) -> bool:
        """Put aside what has been in the way for long enough; say whether anything was."""
        if self._stuck is None or time.monotonic() - self._stuck_at < self._aside.stuck_seconds:
            return False
        try:
            return bool(await self._drain.put_aside(self._aside.directory))
        except (Unavailable, OSError) as failed:
            _log.warning("a record cannot be put aside: %s", failed)
            return False


def _warn_without_room(directory: Path, reserve_bytes: int) -> None:
    """Tell at the start what would be seen only once Kafka is away."""
    if most_bytes(directory / FILE_NAME, reserve_bytes) <= 0:
        _log.warning(
            "the spool in %s takes nothing: %d bytes of its disk are to stay free, and fewer are;"
            " give it a larger disk, or set disk_reserve_bytes lower",
            directory,
            reserve_bytes,
        )


def _locked(directory: Path) -> int:
    """Take the directory for this process. Raises `Unavailable`."""
    lock = os.open(directory / "drain.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Unavailable(f"another gateway drains {directory}: each needs its own", _CLOSED_RETRY_SECONDS) from None
    return lock
