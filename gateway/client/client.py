"""The face of the reference device client: predict, say what came of it, flush.

* A prediction never touches the network, and never raises because of the queue, the disk or a model: the worst it can
  do is to answer no (`source` "none").
* What is recorded is on disk before the call returns; everything else happens behind it. Where the file cannot be
  opened, it is in memory until it can: each call and each flush tries again.
"""

import asyncio
import logging
import math
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from time import perf_counter_ns
from typing import Final, Self

import aiohttp
from msgspec import Struct

from gateway.client.artifacts import Artifacts, FreeBytes
from gateway.client.bundled import Bundled
from gateway.client.clock import Clock, SystemClock
from gateway.client.compiled import Compiled
from gateway.client.decision import SCORE_DIGITS, decide
from gateway.client.downloads import Downloads
from gateway.client.envelope import Facts, compose
from gateway.client.kept import Ground
from gateway.client.limits import Limits
from gateway.client.moment import BUILT_MS
from gateway.client.policy import should_call
from gateway.client.queue import Contents, Queue
from gateway.client.running import NoAnswer
from gateway.client.runtimes import Runtime
from gateway.client.sender import Flushed, Sender
from gateway.client.slot import Slot
from gateway.client.static import StaticSource
from gateway.client.storage import Storage, StorageFailed
from gateway.client.timer import FlushTimer
from gateway.client.transport import Transport
from gateway.client.tries import Tries
from gateway.client.trust import Trust
from gateway.client.updates import Updates
from gateway.client.verify import named_keys
from schemas.wire import LARGEST_UINT32, Ledger, Outcome, Prediction, Source, Use

logger = logging.getLogger(__name__)

_LABEL_CHARACTERS: Final = 64
_KEY_BYTES: Final = 32


class Predicted(Struct, frozen=True, gc=False):
    """A decision: `id` names it to `outcome`, `score` is the positive label's.

    The id is 0 when it could not be recorded, and below 0, for this session, while no file could be opened.
    """

    id: int
    score: float
    decision: bool
    release: int
    source: Source
    explored: bool


class ModelStatus(Struct, frozen=True):
    """What runs of one model now, as the device and as the gateway know it, and the newest catalogue accepted.

    `refused` says why the newest catalogue that came in this session was not accepted; empty where it was.
    """

    release: int
    source: Source
    use: Use
    catalogue: int
    refused: str = ""


class Status(Struct, frozen=True):
    """A device at a glance. `wait_seconds` is how long nothing may be sent, and `trouble` why: the last refusal's code,
    its status or "no answer"; empty once a batch has arrived.
    """

    device: str
    queued_events: int
    queued_bytes: int
    frozen_batch: str | None
    contact_ms: int
    wait_seconds: float
    ledger: Ledger
    models: dict[str, ModelStatus]
    trouble: str = ""


class Client:
    """One install of an app.

    * `root_keys`: raw 32-byte Ed25519 public keys; `root_threshold` of them must sign a list of release keys. With a
      threshold of 1, a catalogue signed by any of them is believed too.
    * `positive`: per model, the label whose probability is the score; by default the last label in sorted order.
    * `built_ms`: when the app was built; nothing that expired before then is ever installed, whatever the clock says.
    * `expiry_clock`: by which documents expire, where `clock` is made to run faster than time.
    * `free_bytes`: how much room the app may fill where a path lies; by default, what the system says is free.
    * `limits`: what it may keep, send, fetch and wait for (LIMITS.md).
    * `session`: shared by many clients if given, and then not closed here.

    Not to be used on in the child of a fork: `SyncClient` is.
    """

    def __init__(
        self,
        app_key: str,
        url: str,
        root_keys: Sequence[bytes],
        *,
        directory: Path | str,
        bundled: Mapping[str, Bundled],
        runtime: Runtime,
        sdk: str = "2.3.0",
        app_version: str = "",
        os: str = "",
        hardware: str = "",
        locale: str = "",
        positive: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        dice: random.Random | None = None,
        session: aiohttp.ClientSession | None = None,
        limits: Limits | None = None,
        root_threshold: int = 1,
        built_ms: int = BUILT_MS,
        expiry_clock: Clock | None = None,
        free_bytes: FreeBytes | None = None,
    ) -> None:
        if not 1 <= root_threshold <= len(root_keys):
            raise ValueError(f"{root_threshold} of {len(root_keys)} root keys can never agree")
        if any(len(key) != _KEY_BYTES for key in root_keys):
            raise ValueError(f"a root key is {_KEY_BYTES} raw bytes: decode the base64 of its .pub file")
        self._root_threshold = root_threshold
        self._app_key = app_key
        self._url = url
        self._keys = named_keys(root_keys)
        self._directory = Path(directory)
        self._bundled = dict(bundled)
        self._runtime = runtime
        self._positive = dict(positive or {})
        self._clock: Clock = clock or SystemClock()
        self._expiry_clock = expiry_clock or self._clock
        self._built_ms = built_ms
        self._dice = dice or random.Random()  # noqa: S311 - spreads load and explores; guards nothing
        self._given_session = session
        self._free_bytes = free_bytes
        self._limits = limits or Limits()
        self._low_power = self._expensive = self._opened = False
        carried = {model: bundle.carried for model, bundle in self._bundled.items()}
        self._facts = Facts(sdk, app_version, os, hardware, locale, carried)

    async def open(self) -> Self:
        """Read the device's state, load its models and start the flush timer. Needs no network."""
        self._storage = await asyncio.to_thread(Storage, self._directory, self._limits.busy_seconds)
        self._queue = Queue(self._storage, self._limits)
        self._session = self._given_session or aiohttp.ClientSession()
        artifacts = Artifacts(self._directory, self._free_bytes)
        context = f"{self._facts.sdk}|{self._facts.os}"
        app = self._app_key.partition(".")[0]
        self._trust = Trust(
            self._storage, self._keys, self._root_threshold, built_ms=self._built_ms, limits=self._limits
        )
        self._ground = Ground(
            app=app,
            sdk=self._facts.sdk,
            system=self._facts.os,
            context=context,
            trust=self._trust,
            format=self._runtime.format,
            queue=self._queue,
            artifacts=artifacts,
            compiled=Compiled(self._runtime, self._directory, context),
            tries=Tries(self._directory),
            limits=self._limits,
            clock=self._clock,
            expiry_clock=self._expiry_clock,
        )
        self._slots = {
            model: Slot(self._ground, model, bundle, self._positive.get(model))
            for model, bundle in self._bundled.items()
        }
        await asyncio.to_thread(self._restore)
        base_url = f"{self._url.rstrip('/')}/"
        self._updates = Updates(
            self._ground,
            self._slots,
            Downloads(self._session, base_url, artifacts, self._limits),
        )
        self._sender = self._make_sender()
        self._timer = FlushTimer(self._sender, self._clock, self._dice, self._limits)
        try:
            queued = self._sender.restore()
        except StorageFailed:
            queued = 0
        self._opened = True
        self._spare()
        self._timer.start(queued)
        return self

    async def close(self) -> None:
        """Stop. Everything that matters is on disk already, or is tried to be put there once more."""
        await self._timer.stop()
        self._queue.opened()  # what only memory has yet
        if self._session is not self._given_session:
            await self._session.close()
        self._storage.close()

    async def foreground(self) -> None:
        """The app came to the front: flush when something waits or the last contact is older than the lease.

        A little later than the call, so that devices woken together do not call together; nothing needs to wait for it.
        """
        self._timer.awake = True
        if self._low_power or not self._should_call():
            return
        await self._clock.sleep(self._dice.uniform(0.0, self._limits.jitter_seconds))
        await self.flush()

    async def background(self) -> None:
        """The app leaves the front: flush what waits, however little; the system may not let us run again."""
        self._timer.awake = False
        if self._should_call():
            await self.flush()

    def low_power(self, on: bool) -> None:
        """The system saves power or data: only `background` flushes by itself, and no large download is made.

        `flush` still sends when called: an app that never leaves the front must call it, or its queue fills up.
        """
        self._low_power = on
        self._spare()

    def expensive_network(self, on: bool) -> None:
        """The network is metered: downloads larger than `Limits.expensive_download_bytes` wait until it no longer is.

        They are begun after the next answer then. A smaller way to the same release, such as a patch, is still taken,
        and so is an urgent release.
        """
        self._expensive = on
        self._spare()

    def predict(self, model: str, signals: Mapping[str, float | None]) -> Predicted:
        """Decide. A signal that is missing, None or not finite is recorded as null, and counts as 0.0 for the model.

        One that `Bundled` does not name is not used. Raises KeyError for a model that the app did not name, TypeError
        for a signal that is no number.
        """
        began = perf_counter_ns()
        slot = self._slots[model]
        known = slot.known(signals)
        with suppress(StorageFailed):  # what was stopped meanwhile, in another process, stops here as well
            self._sender.follow_others()
        running = slot.running
        try:
            score = slot.score(known)
        except NoAnswer:
            running, score = slot.answer_instead(known)
        chosen = decide(score, running.parameters, self._dice.random)
        event = Prediction(
            id=0,
            t=self._ground.now_ms(),
            model=model,
            release=running.release,
            source=running.source,
            score=round(score, SCORE_DIGITS),
            decision=chosen.yes,
            explored=chosen.explored,
            propensity=chosen.propensity,
            latency_us=min((perf_counter_ns() - began) // 1000, LARGEST_UINT32),
            signals=list(known.values()),
        )
        number, queued = self._queue.predicted(event, slot.bundled.carried)
        self._timer.added(queued)
        return Predicted(number, score, chosen.yes, running.release, running.source, chosen.explored)

    def outcome(self, prediction: int, model: str, label: str, value: float = 0.0) -> None:
        """Record what came of a prediction; of one that was not recorded itself (id 0), nothing.

        A second outcome of a prediction is sent beside the first. An id that was never given out is sent as it is, and
        no prediction will be found for it.

        Raises KeyError for a model that the app did not name, ValueError for a label that is empty or longer than 64
        characters or a value that is not finite.
        """
        if model not in self._slots:
            raise KeyError(model)
        if not 1 <= len(label) <= _LABEL_CHARACTERS or not math.isfinite(value):
            raise ValueError(f"not an outcome: {label!r}, {value!r}")
        if prediction:
            self._timer.added(self._queue.outcome(Outcome(prediction, self._ground.now_ms(), model, label, value)))

    async def flush(self) -> Flushed:
        """Send what waits, in one request or more; an empty queue sends an empty batch: the update check.

        Then fetch and switch to what the answer wants: other flushes need not wait for that.
        """
        done = await self._sender.flush()
        self._timer.waiting(self._sender.queued())
        await self._sender.install()
        self._timer.added(self._sender.queued())
        return done

    async def update_from(self, url: str) -> bool:
        """Follow plain files at a URL instead of a gateway; say whether they could be read. Telemetry stays queued."""
        limits = self._limits
        source = StaticSource(
            self._session, url, self._ground.app, seconds=limits.request_seconds, most_bytes=limits.reply_bytes
        )
        return await source.update(self._slots, self._updates)

    def status(self) -> Status:
        """Tell how the device stands. Raises `StorageFailed`."""
        standing, frozen = self._queue.standing(), self._queue.frozen()
        return Status(
            device=standing.device,
            queued_events=standing.queued_events,
            queued_bytes=standing.queued_bytes,
            frozen_batch=None if frozen is None else frozen.batch,
            contact_ms=standing.contact_ms,
            wait_seconds=self._sender.wait_seconds(),
            ledger=self.ledger,
            models={
                model: ModelStatus(
                    slot.running.release, slot.running.source, slot.use(), slot.kept.state.number, slot.refused
                )
                for model, slot in self._slots.items()
            },
            trouble=self._sender.trouble,
        )

    @property
    def ledger(self) -> Ledger:
        """Counts since install. Raises `StorageFailed`."""
        return self._queue.ledger()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _spare(self) -> None:
        """Let the parts know what to be sparing with; both may be said before `open`."""
        if self._opened:
            sparing = self._low_power or self._expensive
            self._updates.most_bytes = self._limits.expensive_download_bytes if sparing else None
            self._timer.spare(self._low_power)

    def _restore(self) -> None:
        self._trust.restore()
        try:
            states = self._storage.states()
        except StorageFailed:
            states = {}
        for model, slot in self._slots.items():
            slot.restore(states.get(model))

    def _make_sender(self) -> Sender:
        limits = self._limits
        return Sender(
            storage=self._storage,
            queue=self._queue,
            transport=Transport(self._session, self._url, self._app_key, limits),
            updates=self._updates,
            compose=self._compose,
            key_name=sha256(self._app_key.encode()).hexdigest()[:16],
            lock_path=self._directory / "send.lock",
            clock=self._clock,
            dice=self._dice,
            limits=limits,
        )

    def _compose(self, contents: Contents) -> bytes:
        return compose(contents, self._facts, self._updates.have(), self._trust.ring.version, self._ground.now_ms())

    def _should_call(self) -> bool:
        return should_call(
            self._sender.flush_policy,
            queued=self._sender.queued(),
            now_ms=self._clock.now_ms(),
            contact_ms=self._sender.contact_ms,
        )
