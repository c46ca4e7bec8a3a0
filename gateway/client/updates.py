"""Obey a reply: accept catalogues, then run what the gateway chose among what they list.

* offered, downloaded and verified, tried, activated: each step is on disk before the next begins, so that a process
  killed anywhere goes on with the old model or the new one, and tries again what was not finished.
* A reply is obeyed at once and without the network; what it wants fetched waits in `wanted`, for when no flush is held
  up by it. Between a fetch and the switch anything may have changed, so that is judged again.
* What a catalogue revokes stops at once, in this session, before anything is fetched in its place.
* What is switched to is loaded in a thread. What stops gives way where that is heard, and what it falls back on is
  loaded right there, on the event loop: it holds up predictions for that long, since nothing else may answer them.
* Nothing new is installed from an expired catalogue or by keys whose list has expired; what runs goes on. What they
  revoke is revoked all the same.
* Key lists are judged first. What a key signed that is no longer listed stops in this session, unless the same reply
  brings a catalogue that lists it under a key that counts.
"""

import asyncio
import logging
from collections.abc import Mapping
from time import perf_counter
from typing import Final

import msgspec
from msgspec import Struct, UnsetType

from gateway.client import state as rules
from gateway.client.downloads import Downloads, FetchCode, Fetched, FetchFailed, wire_name
from gateway.client.kept import Ground
from gateway.client.running import LoadFailed, Running
from gateway.client.slot import NotNow, Slot
from gateway.client.verify import signature_code, verify
from schemas.releases import Release
from schemas.wire import CatalogueNews, Have, ModelEvent, Reply, Use

logger = logging.getLogger(__name__)

_WRONG_BYTES: Final[frozenset[FetchCode]] = frozenset(("too_big", "size_mismatch", "sha256_mismatch", "unpack_failed"))


class Wanted(Struct, frozen=True):
    """A release that a reply wants a model to run, the bytes that came with it, and when that was."""

    model: str
    entry: Release
    inline: Mapping[str, bytes]
    now_ms: int


class Got(Struct, frozen=True):
    """What came of fetching it: the bytes and what they cost, or why there are none."""

    wanted: Wanted
    data: bytes | None = None
    fetched: Fetched | None = None
    failed: FetchCode | None = None
    ms: float = 0.0


class Updates:
    """The models of one device, and how replies change them."""

    def __init__(self, ground: Ground, slots: Mapping[str, Slot], downloads: Downloads) -> None:
        self._ground = ground
        self._slots = slots
        self._downloads = downloads
        self._wanted: dict[str, Wanted] = {}
        self.most_bytes: int | None = None  # of a download, for now

    def have(self) -> dict[str, Have]:
        return {model: slot.have() for model, slot in self._slots.items()}

    def reload(self, states: Mapping[str, bytes]) -> None:
        """Follow what another process of the app has changed: at once in what must stop.

        To what the other one switched to, this one switches after the next answer: that load holds up no prediction.
        """
        before = self._ground.trust.ring
        self._ground.trust.restore()
        for model, slot in self._slots.items():
            text = states.get(model)
            if slot.kept.differs(text):
                slot.follow(text)
        if self._ground.trust.ring is not before:
            self._follow_keys()  # whoever wrote the list may have ended before it followed

    def begin(self) -> None:
        """Load what should run by a file that could not be opened before."""
        for slot in self._slots.values():
            slot.begin()

    def unreadable(self) -> None:
        """Say once in a session that there is news that this device cannot read."""
        for slot in self._slots.values():
            slot.kept.report(0, "news_unreadable")

    def apply(self, reply: Reply, *, timed: bool = True) -> None:
        """Accept and obey what a reply says about the models that this app has; untimed, its time does not count.

        What it wants to run and is not running yet is `wanted` from now on, and nothing else.
        """
        self._wanted = {}
        now_ms = self._time(reply.server_time if timed else None)
        news_of = {model: news for model, news in (reply.catalogues or {}).items() if model in self._slots}
        before = self._ground.trust.ring
        for model, news in news_of.items():
            self._learn_keys(self._slots[model], news, now_ms)
        for model, news in news_of.items():
            self._consider(self._slots[model], news, now_ms)
        if self._ground.trust.ring is not before:
            self._follow_keys()
        for model, use in (reply.use or {}).items():
            if model in self._slots:
                self._obey(self._slots[model], use, reply.inline or {}, now_ms)
        if reply.use or reply.catalogues:
            self.sweep()

    def wanted(self) -> Wanted | None:
        """Return something that is to be fetched and installed."""
        return next(iter(self._wanted.values()), None)

    async def fetch(self, wanted: Wanted) -> Got:
        """Get the bytes. Changes no state, so it needs no lock; it may take as long as the network does."""
        slot, entry = self._slots[wanted.model], wanted.entry
        data = slot.stored(entry)
        if data is not None:
            return Got(wanted, data)
        began = perf_counter()
        most_bytes = None if entry.urgent else self.most_bytes
        try:
            fetched = await self._downloads.fetch(
                entry, slot.kept.state.base_url, wanted.inline, slot.artifact, most_bytes=most_bytes
            )
            self._store(entry, fetched.data)
        except FetchFailed as error:
            return Got(wanted, failed=error.code)
        return Got(wanted, fetched.data, fetched, ms=(perf_counter() - began) * 1000)

    async def install_stored(self) -> None:
        """Switch to what is wanted and needs no network, because its bytes are here."""
        for wanted in list(self._wanted.values()):
            data = self._slots[wanted.model].stored(wanted.entry)
            if data is not None:
                await self.install(Got(wanted, data))

    async def install(self, got: Got) -> None:
        """Note how the fetch went, and switch to what came, if it is still wanted and may still run."""
        wanted = self._wanted.get(got.wanted.model)
        if wanted is None or wanted.entry != got.wanted.entry:
            return
        del self._wanted[wanted.model]
        slot, entry = self._slots[wanted.model], wanted.entry
        if rules.listed(slot.kept.catalogue, slot.kept.floor, entry.release) != entry:
            self.sweep()
            return
        if got.failed == "deferred":  # no fault of its own: the answer to the next flush asks for it again
            slot.kept.report(entry.release, got.failed)
        elif got.failed is not None:
            slot.kept.fetch_failed(entry, got.failed, wrong_bytes=got.failed in _WRONG_BYTES)
        elif got.fetched is not None:
            slot.kept.fetched(entry, size=got.fetched.wire_bytes, ms=got.ms)
        if got.data is not None and self._objection(slot, entry, wanted.now_ms) is None:
            await self._switch(slot, entry, got.data)
        self.sweep()

    def sweep(self) -> None:
        """Delete the artifacts and unfinished downloads that nothing names."""
        states = [slot.kept.state for slot in self._slots.values()]
        wanted = [state.candidate for state in states if state.candidate is not None]
        wanted += [each.entry for each in self._wanted.values()]
        artifacts = {entry.sha256 for entry in wanted}.union(*(rules.kept_artifacts(state) for state in states))
        shipped = {slot.bundled.sha256 for slot in self._slots.values()}
        self._ground.artifacts.sweep(artifacts, {wire_name(way) for entry in wanted for way in entry.downloads})
        self._ground.compiled.sweep(artifacts | shipped)
        self._ground.tries.sweep(artifacts | shipped)

    def _time(self, server_ms: int | None) -> int:
        catalogues = [slot.kept.catalogue for slot in self._slots.values()]
        issued = [catalogue.issued_at for catalogue in catalogues if catalogue is not None]
        return self._ground.trust.time(self._ground.expiry_ms(), server_ms, issued)

    def _learn_keys(self, slot: Slot, news: CatalogueNews, now_ms: int) -> None:
        """Take the key list that came with the news, if any did."""
        if isinstance(news.keys, UnsetType):
            return
        code = self._ground.trust.accept(news.keys, app=self._ground.app, now_ms=now_ms)
        if code not in (None, "ok"):
            logger.warning("a key list does not hold: %s", code)
            slot.kept.report(0, f"keys_{code}")

    def _follow_keys(self) -> None:
        """Stop what a new key list puts an end to: what a dropped key signed, and what is below its floors."""
        for slot in self._slots.values():
            kept = slot.kept
            if kept.state.document and not self._is_bound(kept.state):
                _drop(slot)
            else:
                _relist(slot)

    def _is_bound(self, state: rules.ModelState, now_ms: int | None = None) -> bool:
        """Say whether a key that is believed signed the catalogue that is kept."""
        keys = self._ground.trust.ring.trusted(now_ms)
        return signature_code(state.document, state.signatures, keys) == "ok"

    def _consider(self, slot: Slot, news: CatalogueNews, now_ms: int) -> None:
        kept = slot.kept
        known = rules.unbound(kept.state) if kept.state.document and not self._is_bound(kept.state) else kept.state
        verdict = verify(
            news.document,
            news.signatures,
            keys=self._ground.keys,
            app=self._ground.app,
            model=kept.model,
            seen=known.number,
            seen_document=known.document,
            floor=known.floor,
            now_ms=now_ms,
        )
        if verdict.code != "ok":
            logger.warning("%s: a catalogue does not hold: %s", kept.model, verdict.code)
            kept.report(0, f"catalogue_{verdict.code}")
        if verdict.catalogue is None:
            signers = ", ".join(signature.key for signature in news.signatures) or "nobody"
            slot.refused = f"{verdict.code}: catalogue signed by {signers}"
            return
        slot.refused = ""
        catalogue, least, orphaned = verdict.catalogue, self._ground.floor(kept.model), known is not kept.state

        def accept(state: rules.ModelState) -> rules.ModelState:
            taken = rules.unbound(state) if orphaned else state
            return rules.accepted(taken, catalogue, news, slot.bundled.sha256, least)

        kept.move(accept, *_revocations(slot, kept.state, accept(kept.state)), anyway=True)
        kept.catalogue = catalogue
        # The bundle itself may run under a number, and by terms, that are listed no more.
        running, bundled = slot.running, slot.bundled
        if slot.use() == "bundled" and (running.sha256, running.release) != (bundled.sha256, bundled.release):
            slot.settle()
        slot.adopt_terms()

    def _obey(self, slot: Slot, use: Use, inline: Mapping[str, bytes], now_ms: int) -> None:
        if isinstance(use, str):
            _hold(slot, use)
            return
        entry = rules.listed(slot.kept.catalogue, slot.kept.floor, use)
        if entry is None:
            slot.kept.report(use, "not_listed")
        elif entry.sha256 == slot.running.sha256:
            _adopt(slot, entry)
        elif (code := self._objection(slot, entry, now_ms)) is not None:
            slot.kept.report(use, code)
        elif not slot.kept.blocked(entry.sha256):
            if slot.stored(entry) is None:
                slot.kept.offered(entry)
            self._wanted[slot.kept.model] = Wanted(slot.kept.model, entry, inline, now_ms)

    def _objection(self, slot: Slot, entry: Release, now_ms: int) -> str | None:
        catalogue = slot.kept.catalogue
        known = {kept.sha256 for kept in (slot.kept.state.active, slot.kept.state.previous) if kept is not None}
        if catalogue is not None and entry.sha256 not in known:
            if catalogue.expires_at <= now_ms:
                return "catalogue_expired"
            if not self._is_bound(slot.kept.state, now_ms):
                return "keys_expired"
        return slot.unsupported(entry)

    async def _switch(self, slot: Slot, entry: Release, data: bytes) -> None:
        if not slot.kept.may_load(entry.release, entry.sha256):
            return
        began = perf_counter()
        try:
            running = await asyncio.to_thread(slot.load, data, entry, slot.source_of(entry))
        except LoadFailed as error:
            slot.kept.load_failed(entry.release, entry.sha256, error.code)
            return
        except NotNow as error:  # the answer to the next flush asks for it again
            logger.warning("release %d waits: %s", entry.release, error.code)
            if error.code == "not_marked":
                slot.kept.report(entry.release, error.code)
            return
        _activate(slot, entry, running, ms=(perf_counter() - began) * 1000)

    def _store(self, entry: Release, data: bytes) -> None:
        try:
            self._ground.artifacts.store(entry.sha256, data)
        except OSError as error:
            raise FetchFailed("disk_full") from error


def _drop(slot: Slot) -> None:
    """Forget a catalogue that nobody vouches for any more, and what came by it."""
    kept, leaving = slot.kept, slot.running.source in ("ota", "previous")
    events = [kept.event("reverted", slot.running.release, "key_revoked")] if leaving else []
    use: Use = kept.state.use if isinstance(kept.state.use, str) else "bundled"
    kept.move(
        lambda state: msgspec.structs.replace(
            rules.unbound(state), active=None, previous=None, candidate=None, use=use
        ),
        *events,
        anyway=True,
    )
    kept.catalogue = None
    slot.settle()


def _relist(slot: Slot) -> None:
    """Stop what is below the floors of a new key list."""
    kept, catalogue, floor = slot.kept, slot.kept.catalogue, slot.kept.floor
    after = rules.still_listed(kept.state, catalogue, floor)
    if after != kept.state:
        events = _revocations(slot, kept.state, after)
        kept.move(lambda state: rules.still_listed(state, catalogue, floor), *events, anyway=True)
        slot.settle()


def _revocations(slot: Slot, before: rules.ModelState, after: rules.ModelState) -> list[ModelEvent]:
    floor = max(after.floor, slot.kept.floor)
    return [
        slot.kept.event("reverted", kept.release, "below_floor" if kept.release < floor else "not_listed")
        for kept, left in ((before.active, after.active), (before.previous, after.previous))
        if kept is not None and left is None and kept.sha256 == slot.running.sha256
    ]


def _hold(slot: Slot, use: str) -> None:
    """Run the bundle, or nothing; what came over the air stays, so that coming back costs no download."""
    kept, running = slot.kept, slot.running
    if kept.state.use == use:
        return
    leaving = running.model is not None and (use == "none" or running.source != "bundled")
    events = [kept.event("reverted", running.release, f"told_{use}")] if leaving else []
    told: Use = "none" if use == "none" else "bundled"
    if kept.move(lambda state: msgspec.structs.replace(state, use=told), *events):
        slot.settle()


def _adopt(slot: Slot, entry: Release) -> None:
    """Make active what runs already: the bundle under its number, or the previous release after a fall."""
    kept = slot.kept
    if kept.state.use == entry.release and kept.state.active == entry:
        return
    if kept.move(lambda state: rules.activated(state, entry)):
        source = slot.source_of(entry)
        slot.running = msgspec.structs.replace(
            slot.running,
            release=entry.release,
            source=source,
            parameters=entry.parameters,
            inputs=tuple(entry.inputs or slot.bundled.inputs),
        )


def _activate(slot: Slot, entry: Release, running: Running, *, ms: float) -> None:
    """Switch to a proven release, on disk first."""
    kept, old = slot.kept, slot.running
    attempt = rules.came_back(kept.attempt(entry.sha256))
    events = [kept.event("activated", entry.release, size=entry.size, ms=ms)]
    if old.model is not None and old.release > entry.release:
        events.insert(0, kept.event("reverted", old.release, f"told_{entry.release}"))
    if kept.move(lambda state: rules.with_attempt(rules.activated(state, entry), entry.sha256, attempt), *events):
        slot.running = running
    else:
        kept.came_back(entry.sha256)
