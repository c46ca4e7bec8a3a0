"""The flush: freeze, send, and do what the answer says, one batch at a time.

* One flush at a time in this process (a lock) and on this device (a file lock): the queue is shared, the sender is not.
* A batch leaves the disk only after a 200 to that very batch, or when the contract says to drop it, or when it is too
  old to be known again; and then counted.
* What an answer wants fetched is fetched after the flush, under neither lock: a slow download silences no device.
* After a failure nothing is sent before the wait is over, however urgent; the wait survives a restart. One that a
  refused app key began ends when the app brings another.
"""

import asyncio
import fcntl
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from gateway.client import policy
from gateway.client.clock import Clock
from gateway.client.envelope import Unreadable, made_at, sent_now
from gateway.client.limits import Limits
from gateway.client.policy import Fate
from gateway.client.queue import Contents, Frozen, Queue
from gateway.client.storage import Storage, StorageFailed
from gateway.client.transport import Answer, Transport
from gateway.client.updates import Got, Updates
from schemas.wire import LAST_MILLISECOND, Flush

logger = logging.getLogger(__name__)

Flushed = Literal["sent", "kept", "dropped", "waiting", "busy", "no_storage"]


class Sender:
    """What moves events from the queue to the gateway."""

    def __init__(
        self,
        *,
        storage: Storage,
        queue: Queue,
        transport: Transport,
        updates: Updates,
        compose: Callable[[Contents], bytes],
        key_name: str,
        lock_path: Path,
        clock: Clock,
        dice: random.Random,
        limits: Limits,
    ) -> None:
        self._storage = storage
        self._queue = queue
        self._transport = transport
        self._updates = updates
        self._compose = compose
        self._key_name = key_name
        self._lock_path = lock_path
        self._clock = clock
        self._dice = dice
        self._limits = limits
        self._lock = asyncio.Lock()
        self._installing = False
        self._most_events = self._whole_batch()
        self._failures = 0
        self._ready_at = clock.monotonic()
        self._seen = self._swept = -1, -1
        self._restored = False
        # Why nothing has been sent since the last contact, in the gateway's word where it gave one.
        self.trouble = ""
        self.contact_ms = 0
        self.flush_policy: Flush = limits.first_flush

    def restore(self) -> int:
        """Take up the wait, the policy and the last contact. Return how many events wait. Raises `StorageFailed`."""
        standing = self._queue.standing()
        self._restored = self._storage.kept
        self.contact_ms = standing.contact_ms
        self.flush_policy = standing.flush or self._limits.first_flush
        self._failures = standing.failures
        if standing.refused_key not in ("", self._key_name):
            return standing.queued_events
        left = (standing.wait_until_ms - self._clock.now_ms()) / 1000
        # A wait longer than any we ask for means that the clock went back.
        longest = max(self._limits.retry_after_most_seconds, self.flush_policy.lease_seconds)
        self._ready_at = self._clock.monotonic() + (left if 0 < left <= longest else 0.0)
        return standing.queued_events

    def queued(self) -> int:
        """Return how many events wait, 0 when the disk will not say."""
        try:
            return self._queue.standing().queued_events
        except StorageFailed:
            return 0

    def wait_seconds(self) -> float:
        """Return how long nothing may be sent."""
        return max(0.0, self._ready_at - self._clock.monotonic())

    async def flush(self) -> Flushed:
        """Send what waits, or an empty batch when nothing does: the update check."""
        if not self._queue.opened():
            self._pause(self._limits.backoff_first_seconds)
            return "no_storage"
        async with self._lock:
            try:
                with _only_one(self._lock_path) as alone:
                    if alone:
                        done = await self._send_all()
                        await self._updates.install_stored()
                        return done
                    self._pause(self._limits.backoff_first_seconds)
                    return "busy"
            except (StorageFailed, OSError):
                logger.warning("the flush is put off: the disk refuses", exc_info=True)
                self._pause(self._limits.backoff_first_seconds)
                return "no_storage"

    def follow_others(self) -> None:
        """Stop what another process of the app was told to stop. Raises `StorageFailed`."""
        seen = self._storage.changes_by_others()
        if seen != self._seen:
            self._updates.reload(self._storage.states())
            self._seen = seen

    async def install(self) -> None:
        """Fetch what answers want to run and switch to it; leave it to whoever is at it already.

        What cannot be done now is wanted again in the answer to the next flush; bytes that came are kept.
        """
        if self._installing or not self._storage.kept or self._updates.wanted() is None:
            return
        self._installing = True
        try:
            with _only_one(self._lock_path.with_name("fetch.lock")) as alone:
                while alone and (wanted := self._updates.wanted()) is not None:
                    got = await self._updates.fetch(wanted)
                    alone = await self._switch(got)
        except (StorageFailed, OSError):
            logger.warning("the installation is put off: the disk refuses", exc_info=True)
        finally:
            self._installing = False

    async def _switch(self, got: Got) -> bool:
        async with self._lock:
            with _only_one(self._lock_path) as alone:
                if alone:
                    self._follow_others()
                    await self._updates.install(got)
                return alone

    async def _send_all(self) -> Flushed:
        """Send until everything that waited at the start is away."""
        self._follow_others()
        newest = self._queue.newest()
        done: Flushed = "sent"
        while True:
            if self.wait_seconds() > 0:
                return "waiting"
            frozen = self._queue.freeze(self._compose, self._most_events)
            fate = await self._send(frozen)
            if fate in (Fate.WAIT, Fate.LEASE):
                return "kept"
            if fate is Fate.DROPPED:
                done = "dropped"
            if fate is not Fate.SPLIT and (frozen.last >= newest or self._queue.newest() == 0):
                return done

    async def _send(self, frozen: Frozen) -> Fate:
        try:
            now_ms = min(max(self._clock.now_ms(), 0), LAST_MILLISECOND)
            if policy.too_old(made_at(frozen.document), now_ms, self._limits.batch_days):
                return self._drop(frozen, policy.TOO_OLD)
            body = sent_now(frozen.document, now_ms)
        except Unreadable:
            return self._drop(frozen, "storage")
        answer = await self._transport.send(frozen.batch, body)
        if answer.delivered:
            self._delivered(frozen, answer)
            return Fate.DELIVERED
        fate = policy.fate_of(answer.status, answer.code)
        if fate is Fate.SPLIT and frozen.events > 1:
            self._most_events = max(1, frozen.events // 2)
            self._queue.thaw(frozen)
        elif fate in (Fate.SPLIT, Fate.DROPPED):
            return self._drop(frozen, answer.code)
        else:
            if not answer.sent and frozen.events == 0:
                self._queue.thaw(frozen)  # nobody has seen this check: the next batch carries what happens meanwhile
            self._back_off(fate, answer)
        return fate

    def _delivered(self, frozen: Frozen, answer: Answer) -> None:
        self._most_events = min(self._whole_batch(), self._most_events * 2)
        self._failures = 0
        self.trouble = ""
        self.contact_ms = self._clock.now_ms()
        if answer.reply is not None:
            self.flush_policy = answer.reply.flush
        self._queue.delivered(frozen, self.contact_ms, self.flush_policy)
        if answer.reply is None:
            self._updates.unreadable()
        else:
            self._updates.apply(answer.reply)

    def _drop(self, frozen: Frozen, reason: str) -> Fate:
        logger.warning("batch %s with %d events is given up: %s", frozen.batch, frozen.events, reason)
        self._queue.dropped(frozen, reason)
        return Fate.DROPPED

    def _back_off(self, fate: Fate, answer: Answer) -> None:
        self._failures += 1
        limits = self._limits
        jitter = policy.backoff(
            self._failures, limits.backoff_first_seconds, limits.backoff_last_seconds, self._dice.random()
        )
        asked = policy.read_retry_after(answer.retry_after, limits.retry_after_most_seconds)
        seconds = policy.wait_after(fate, jitter, asked, self.flush_policy.lease_seconds)
        self.trouble = answer.code or (f"status {answer.status}" if answer.status else "no answer")
        level = logging.WARNING if fate is Fate.LEASE else logging.INFO
        logger.log(level, "the gateway takes nothing (%s): nothing is sent for %.0f s", self.trouble, seconds)
        self._pause(seconds)
        refused_key = self._key_name if fate is Fate.LEASE else ""
        self._queue.wait(self._clock.now_ms() + round(seconds * 1000), self._failures, refused_key)

    def _pause(self, seconds: float) -> None:
        self._ready_at = self._clock.monotonic() + seconds

    def _whole_batch(self) -> int:
        return max(1, min(self._limits.batch_events, self._limits.queue_events // 2))

    def _follow_others(self) -> None:
        """Another process of the app may have sent, waited or updated since; or there was no file before."""
        at_last = not self._restored
        if at_last:
            self.restore()
        self.follow_others()
        if at_last:
            self._updates.begin()
        if self._swept != self._seen:
            self._swept = self._seen
            self._updates.sweep()


@contextmanager
def _only_one(path: Path) -> Iterator[bool]:
    """Say whether no other process of the app is at it."""
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True  # closing the file ends the lock, as does the process's death
