"""What runs of one model, and what it falls back on.

* The order is the active release, the previous one, the bundle: within one call of `predict` if need be.
* The bundle is always allowed: it came with the app, and nothing unsigned can change it.
* Every prediction by what came over the air is marked, so that a release which ends processes is left alone after two;
  those that have it loaded look before each prediction, so that it ends no more of them. Of its loads, no more go on at
  once than may end: the other processes run the next best until the gateway answers them again.
* The artifact itself is kept and every launch builds and proves it anew, from its compiled form where the runtime makes
  one. What fails, or did not come back the last time, is built once more from the artifact, as is everything after an
  update of the SDK or the system; a release that fails then gives way until its quarantine ends or they change again.
"""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Literal, cast

import msgspec
from msgspec import Struct

from gateway.client import state as rules
from gateway.client.bundled import Bundled
from gateway.client.kept import Ground, Kept
from gateway.client.running import NOTHING, LoadFailed, NoAnswer, Running, load
from gateway.client.runtimes import Model
from schemas.releases import Release
from schemas.versions import os_can_run, satisfies
from schemas.wire import MAX_SIGNALS, Have, Source, Use

logger = logging.getLogger(__name__)


class NotNow(Exception):
    """A load that must wait: for a disk that takes its mark, or for other processes that are at the same load.

    Only the former is reported: that several start at once is no fault of a release, and counts in no rollout.
    """

    def __init__(self, code: Literal["not_marked", "loads_elsewhere"]) -> None:
        super().__init__(code)
        self.code = code


class Choice(Struct, frozen=True):
    """Something that could run: an entry of the catalogue, or the bundle (no entry)."""

    release: int
    sha256: str
    source: Source
    entry: Release | None = None


class Slot:
    """A model's place on the device."""

    def __init__(self, ground: Ground, model: str, bundled: Bundled, label: str | None) -> None:
        self._ground = ground
        self._label = label
        self.bundled = bundled
        self.kept = Kept(ground, model, bundled.sha256)
        self.running = NOTHING
        self._strangers: set[str] = set()
        # Why the newest catalogue that came was refused in this session; empty where it was not.
        self.refused = ""

    def restore(self, text: bytes | None) -> None:
        """Take up what was written, and load what should run."""
        self.kept.restore(text)
        self.begin()

    def begin(self) -> None:
        """Load what should run by what was taken up."""
        if self.kept.state.bundled != self.bundled.release:
            self.kept.move(lambda state: rules.bundle_changed(state, self.bundled.release), anyway=True)
        self.settle()

    def follow(self, text: bytes | None) -> None:
        """Take up what another process of the app has written. Only what may not run any more gives way to what may."""
        self.kept.restore(text)
        if (self.running.release, self.running.sha256) in {(each.release, each.sha256) for each in self._choices()}:
            self.adopt_terms()
        else:
            self.settle()

    def have(self) -> Have:
        """Say what this device has."""
        return rules.have(self.kept.state, self.kept.catalogue, self.use())

    def use(self) -> Use:
        """Name what runs as the gateway knows it: by number only if the accepted catalogue lists this very artifact."""
        if self.running.model is None:
            return "none"
        entry = rules.listed(self.kept.catalogue, self.kept.floor, self.running.release)
        return self.running.release if entry is not None and entry.sha256 == self.running.sha256 else "bundled"

    def settle(self) -> None:
        """Run the best that may run and can be loaded."""
        for choice in self._choices():
            running = self._start(choice)
            if running is not None:
                self.running = running
                return
        self.running = NOTHING

    def known(self, signals: Mapping[str, float | None]) -> dict[str, float | None]:
        """Return the values of the signals that `Bundled` names. Of any other the log hears once."""
        values = {name: _finite(signals.get(name)) for name in self.bundled.carried}
        if not signals.keys() <= values.keys() and len(self._strangers) < MAX_SIGNALS:
            for name in signals.keys() - values.keys() - self._strangers:
                self._strangers.add(name)
                logger.warning("%s: the signal %r is not used: Bundled does not name it", self.kept.model, name)
        return values

    def score(self, signals: Mapping[str, float | None]) -> float:
        """Ask what runs, unless it has ended too many processes by now. Raises `NoAnswer`."""
        running, kept = self.running, self.kept
        if running.source in ("bundled", "none"):
            return running.score(signals)
        if kept.crashed_too_often(running.sha256):
            raise NoAnswer("others have died of it")
        with kept.predicting(running.sha256):  # a disk that refuses the mark refuses the next load, too
            return running.score(signals)

    def answer_instead(self, signals: Mapping[str, float | None]) -> tuple[Running, float]:
        """Answer after what runs could not: by the previous release, the bundle, or no."""
        while self.running.sha256 not in ("", self.bundled.sha256):
            if self.kept.may_load(self.running.release, self.running.sha256):  # else it is left alone already
                self.kept.quarantine(self.running.release, self.running.sha256, "predict_failed")
            self.settle()
            try:
                return self.running, self.score(signals)
            except NoAnswer:
                logger.warning("%s: release %d gave no answer either", self.kept.model, self.running.release)
        # The bundle is never given up for an answer: what it cannot say to these signals it may say to the next.
        self.kept.report(self.running.release, "predict_failed")
        return NOTHING, 0.0

    def stored(self, entry: Release) -> bytes | None:
        """Return an artifact that needs no download, because it is kept or is the bundle itself."""
        return self.artifact(entry.sha256)

    def artifact(self, digest: str) -> bytes | None:
        """Return the bytes with that hash, if this device has them."""
        if digest == self.bundled.sha256:
            return self.bundled.content
        return self._ground.artifacts.read(digest)

    def unsupported(self, entry: Release) -> str | None:
        """Say why this app cannot run a release, or None."""
        if entry.format != self._ground.format:
            return "format_unsupported"
        if not set(entry.inputs) <= set(self.bundled.carried):
            return "inputs_unsupported"
        try:
            if not satisfies(self._ground.sdk, entry.sdk):
                return "sdk_unsupported"
        except ValueError:
            return "sdk_unsupported"
        try:
            return None if os_can_run(self._ground.system, entry.os) else "os_unsupported"
        except ValueError:
            return "os_unsupported"

    def source_of(self, entry: Release) -> Source:
        return "bundled" if entry.sha256 == self.bundled.sha256 else "ota"

    def load(self, data: bytes, entry: Release | None, source: Source, *, anew: bool = False) -> Running:
        """Load and prove an artifact, compiled `anew` or not; changes nothing here, so it may run in a thread.

        Raises `LoadFailed`, and `NotNow` for all but the bundle: the last resort, without it nothing would decide.
        """
        digest = self.bundled.sha256 if entry is None else entry.sha256
        with self.kept.loading(digest) as tried:
            if not tried.marked and entry is not None:
                raise NotNow("not_marked")
            if self.kept.enough_at_it(tried) and entry is not None:
                raise NotNow("loads_elsewhere")
            return self._loaded(partial(self._ground.compiled.load, digest, data, tried, anew=anew), entry, source)

    def _loaded(self, build: Callable[[], Model], entry: Release | None, source: Source) -> Running:
        bundled = self.bundled
        if entry is None:
            terms = self._bundled_entry()
            return load(
                build,
                release=bundled.release,
                source=source,
                sha256=bundled.sha256,
                parameters=terms.parameters if terms is not None else bundled.parameters,
                inputs=bundled.inputs,
                probes=(),
                label=self._label,
            )
        return load(
            build,
            release=entry.release,
            source=source,
            sha256=entry.sha256,
            parameters=entry.parameters,
            inputs=entry.inputs or bundled.inputs,
            probes=entry.probe,
            label=self._label,
        )

    def adopt_terms(self) -> None:
        """Decide from now on with the parameters that the catalogue gives to what runs."""
        entry = rules.listed(self.kept.catalogue, self.kept.floor, self.running.release)
        if entry is not None and entry.sha256 == self.running.sha256:
            self.running = msgspec.structs.replace(self.running, parameters=entry.parameters)

    def _choices(self) -> Iterator[Choice]:
        state, bundled = self.kept.state, self.bundled
        if state.use == "none":
            return
        if state.use != "bundled":
            for kept, source in ((state.active, "ota"), (state.previous, "previous")):
                entry = rules.current(self.kept.catalogue, self.kept.floor, kept)
                if entry is not None:
                    source = "bundled" if entry.sha256 == bundled.sha256 else source
                    yield Choice(entry.release, entry.sha256, cast("Source", source), entry)
        yield Choice(bundled.release, bundled.sha256, "bundled")

    def _start(self, choice: Choice) -> Running | None:
        entry, kept = choice.entry, self.kept
        code = None if entry is None else self.unsupported(entry)
        data = self.bundled.content if entry is None else self.stored(entry)
        if code is not None or data is None:
            kept.forget(choice.release, choice.sha256, code or "artifact_missing")
            return None
        doubtful = kept.deaths(choice.sha256) > 0
        if not kept.may_load(choice.release, choice.sha256):
            return None
        try:
            running = self._built(data, choice, anew=doubtful)
        except LoadFailed as error:
            if entry is None:  # nothing would decide without it: the next launch tries again
                kept.came_back(choice.sha256)
                kept.forget(choice.release, choice.sha256, error.code)
            else:  # it has worked here before, so it may again
                kept.quarantine(choice.release, choice.sha256, error.code)
            return None
        except NotNow as error:
            logger.warning("%s: release %d waits: %s", kept.model, choice.release, error.code)
            if error.code == "not_marked":
                kept.report(choice.release, error.code)
            return None
        kept.came_back(choice.sha256)
        return running

    def _built(self, data: bytes, choice: Choice, *, anew: bool) -> Running:
        """Build what has run here before, once more and from the artifact if that fails. Raises `LoadFailed`."""
        remade = self._ground.compiled.remade
        remade.discard(choice.sha256)
        try:
            running = self.load(data, choice.entry, choice.source, anew=anew)
            why = "recompiled" if choice.sha256 in remade else ""
        except LoadFailed as error:
            logger.warning("%s: release %d is built again: %s", self.kept.model, choice.release, error)
            running = self.load(data, choice.entry, choice.source, anew=True)
            why = f"rebuilt_{error.code}"
        if why:
            self.kept.report(choice.release, why, "verified")
        return running

    def _bundled_entry(self) -> Release | None:
        """Return the catalogue's entry for the bundle itself, whose newer parameters then hold."""
        entry = rules.listed(self.kept.catalogue, self.kept.floor, self.bundled.release)
        return entry if entry is not None and entry.sha256 == self.bundled.sha256 else None


def _finite(value: float | None) -> float | None:
    try:
        return float(value) if value is not None and math.isfinite(value) else None
    except OverflowError:  # a whole number beyond what a double holds
        return None
