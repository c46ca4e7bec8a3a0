"""What is kept of one model: its state on disk and in memory, changed together with the events that report it.

* A change and its events are one durable transaction; memory follows only when that is written. Only what must stop (a
  revoked release, one that crashes) stops in memory even when the disk refuses.
* A load is marked before it begins, and so is each prediction by what came over the air: a process that dies in it is
  counted.
* A change is made to what is written, not to what this process remembers: another one may have written the rest.
"""

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.client import state as rules
from gateway.client.artifacts import Artifacts
from gateway.client.clock import Clock
from gateway.client.compiled import Compiled
from gateway.client.limits import Limits
from gateway.client.queue import Queue
from gateway.client.state import Attempt, ModelState
from gateway.client.storage import StorageFailed, read_state, write_state
from gateway.client.tries import Tries, Try
from gateway.client.trust import Trust
from gateway.client.verify import read_again
from schemas.releases import Catalogue, Release
from schemas.wire import LARGEST_UINT32, LAST_MILLISECOND, ModelEvent
from schemas.wire import ModelState as Step

logger = logging.getLogger(__name__)

Change = Callable[[ModelState], ModelState]

_encode: Final = msgspec.json.Encoder().encode
_state: Final = msgspec.json.Decoder(ModelState)


@dataclass(frozen=True)
class Ground:
    """What the models of one device share. `context` is what a failed attempt is bound to, and a compiled form: another
    SDK or system deserves a new one.
    """

    app: str
    sdk: str
    system: str
    context: str
    trust: Trust
    format: str
    queue: Queue
    artifacts: Artifacts
    compiled: Compiled
    tries: Tries
    limits: Limits
    clock: Clock
    expiry_clock: Clock

    @property
    def keys(self) -> Mapping[str, bytes]:
        """The keys any of which may have signed a catalogue."""
        return self.trust.ring.trusted()

    def floor(self, model: str) -> int:
        """The key list's floor of a model."""
        return self.trust.ring.floor(model)

    def now_ms(self) -> int:
        """The device's time, moved into the range that an event can carry."""
        return min(max(self.clock.now_ms(), 0), LAST_MILLISECOND)

    def expiry_ms(self) -> int:
        """The time by which documents expire, as far as the device knows it."""
        return min(max(self.expiry_clock.now_ms(), 0), LAST_MILLISECOND)


class Kept:
    """The state of one model, and every way in which it changes."""

    def __init__(self, ground: Ground, model: str, bundled_sha256: str) -> None:
        self._ground = ground
        self._bundled_sha256 = bundled_sha256
        self._said: set[tuple[int, str]] = set()
        self.model = model
        self.state = ModelState()
        self.catalogue: Catalogue | None = None
        self._unwritten = False
        self._predicting: tuple[tuple[str, str], Try] | None = None

    @property
    def floor(self) -> int:
        """The release below which nothing runs, by the catalogue that is kept and by the key list."""
        return max(self.state.floor, self._ground.floor(self.model))

    def restore(self, text: bytes | None) -> None:
        """Take up what was written. A catalogue whose key is no longer ours is as good as none."""
        self.state = self._read(text)
        self.catalogue = read_again(self.state.document, self.state.signatures, self._ground.keys)

    def differs(self, text: bytes | None) -> bool:
        """Say whether another process of the app has changed what is written; what we could not write is newer."""
        return text is not None and not self._unwritten and self._read(text) != self.state

    def _read(self, text: bytes | None) -> ModelState:
        try:
            return ModelState() if text is None else _state.decode(text)
        except ValueError:
            logger.exception("the state of %s cannot be read; it starts afresh", self.model)
            return ModelState()

    def move(self, change: Change, *events: ModelEvent, anyway: bool = False, durable: bool = True) -> bool:
        """Change the state and report it, in one transaction. Return whether it is written.

        What is not written does not happen, unless `anyway`.
        """
        try:
            with self._ground.queue.writing(durable=durable) as tx:
                written = self._written(read_state(tx, self.model))
                write_state(tx, self.model, _encode(change(written)))
                for event in events:
                    self._ground.queue.add(tx, event)
        except StorageFailed as error:
            logger.warning("%s: the change could not be written: %s", self.model, error)
            if anyway:
                self.state, self._unwritten = change(self.state), True
                self._ground.queue.lose(error.reason, len(events))
            return False
        # Here, only that: what another process has written besides is followed as a whole, with what it runs.
        self.state, self._unwritten = change(self.state), False
        return True

    def _written(self, text: bytes | None) -> ModelState:
        """Return the state to change: what is on disk, unless it is older than ours or not there."""
        return self.state if text is None or self._unwritten else self._read(text)

    def event(self, step: Step, release: int, detail: str = "", *, size: int = 0, ms: float = 0) -> ModelEvent:
        took = min(LARGEST_UINT32, max(0, round(ms)))
        return ModelEvent(self._ground.now_ms(), self.model, release, step, detail, size, took)

    def report(self, release: int, detail: str, step: Step = "failed") -> None:
        """Say once in a session that something was refused, or what else happened; later, if the disk refuses that."""
        said = release, detail
        if said not in self._said and self.move(_as_it_is, self.event(step, release, detail), durable=False):
            self._said.add(said)

    def attempt(self, sha256: str) -> Attempt:
        return rules.attempt_of(self.state, sha256, self._ground.context)

    def blocked(self, sha256: str) -> bool:
        return rules.blocked(self.attempt(sha256), self._ground.now_ms(), self._ground.limits)

    def offered(self, entry: Release) -> None:
        """Note which release is on its way."""
        if self.state.candidate is None or self.state.candidate.sha256 != entry.sha256:
            self.move(
                lambda state: msgspec.structs.replace(state, candidate=entry), self.event("offered", entry.release)
            )

    def fetched(self, entry: Release, *, size: int, ms: float) -> None:
        downloaded = self.event("downloaded", entry.release, size=size, ms=ms)
        self.move(_as_it_is, downloaded, self.event("verified", entry.release))

    def fetch_failed(self, entry: Release, detail: str, *, wrong_bytes: bool) -> None:
        ground = self._ground
        attempt = rules.fetch_failed(
            self.attempt(entry.sha256), ground.now_ms(), ground.limits, wrong_bytes=wrong_bytes
        )
        self._note(entry.sha256, attempt, self.event("failed", entry.release, detail))

    def may_load(self, release: int, sha256: str) -> bool:
        """Say whether an artifact may be loaded; one that has ended too many processes is left alone from now on."""
        if self.blocked(sha256):
            return False
        if self.crashed_too_often(sha256):
            self.quarantine(release, sha256, "crashed")
            return False
        return True

    def crashed_too_often(self, sha256: str) -> bool:
        return rules.crashed_too_often(self.deaths(sha256), self._ground.limits)

    def deaths(self, sha256: str) -> int:
        """Return how many processes have died of an artifact here, as far as it counts."""
        return self._ground.tries.deaths(sha256, self._tried_as(sha256))

    def loading(self, sha256: str) -> AbstractContextManager[Try]:
        """Mark a load, so that a process which dies in it is counted."""
        return self._ground.tries.marked(sha256, self._tried_as(sha256), "load", durable=True)

    def enough_at_it(self, tried: Try) -> bool:
        """Say whether so many others may die of the same load that it must wait for how they fare."""
        return rules.crashed_too_often(tried.others, self._ground.limits)

    def predicting(self, sha256: str) -> AbstractContextManager[None]:
        """Mark a prediction; where a disk refuses the mark, it is asked again at the next."""
        key = sha256, self._tried_as(sha256)
        if self._predicting is None or self._predicting[0] != key or not self._predicting[1].marked:
            self._predicting = key, self._ground.tries.held(*key, "prediction")
        return self._predicting[1].inside()

    def came_back(self, sha256: str) -> None:
        """Note that a load did not crash: what died in one before did so by chance."""
        self._ground.tries.forgive(sha256, self._tried_as(sha256), "load")
        before = self.attempt(sha256)
        if before != (attempt := rules.came_back(before)):
            self._note(sha256, attempt, durable=False)

    def _tried_as(self, sha256: str) -> str:
        """Name what deaths count for: the SDK, the system, and the tries since the last quarantine."""
        attempt = self.attempt(sha256)
        return f"{attempt.context}|{attempt.quarantines}"

    def load_failed(self, release: int, sha256: str, detail: str) -> None:
        """Give up an artifact that cannot be loaded or proven here."""
        attempt = rules.load_failed(self.attempt(sha256))
        self._abandon(sha256, attempt, self.event("failed", release, detail))

    def quarantine(self, release: int, sha256: str, detail: str) -> None:
        """Leave an artifact alone for a while."""
        attempt = rules.quarantined(self.attempt(sha256), self._ground.now_ms(), self._ground.limits)
        self._abandon(sha256, attempt, self.event("quarantined", release, detail))

    def forget(self, release: int, sha256: str, detail: str) -> None:
        """Drop an artifact that is missing or does not fit this app, without holding it against it."""
        self._abandon(sha256, self.attempt(sha256), self.event("failed", release, detail))

    def _abandon(self, sha256: str, attempt: Attempt, event: ModelEvent) -> None:
        self.move(lambda state: rules.with_attempt(rules.without(state, sha256), sha256, attempt), event, anyway=True)

    def _note(self, sha256: str, attempt: Attempt, *events: ModelEvent, durable: bool = True) -> None:
        self.move(lambda state: rules.with_attempt(state, sha256, attempt), *events, anyway=True, durable=durable)


def _as_it_is(state: ModelState) -> ModelState:
    return state
