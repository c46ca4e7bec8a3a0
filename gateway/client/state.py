"""What a device remembers of one model, and the rules by which that may change.

* Pure: a state and the time go in, a state comes out; `updates` makes each change and its event one transaction.
* The number and the floor only rise. What is not listed, or is below the floor, never runs.
* Two deaths put an artifact in quarantine, for 1 day, then 4, 16 and at most 30: two unrelated kills of the app during
  a load look the same as a crash, so it must end. A death is a process that ended in a load of it or, where it came
  over the air, in any prediction by it (`tries` tells that from other ends).
* A load that comes back forgives the deaths in loads. A good answer forgives nothing: what crashes on one input in a
  thousand gives many. Deaths in predictions count until the quarantine that they make, or another SDK or system.
* A failed fetch is tried again after 1 minute, then 4, 16 and so on up to a day, and no more after six; a model that
  cannot be loaded or answers wrongly is not tried again. Another SDK or system version starts afresh.
"""

from typing import Final

import msgspec
from msgspec import Struct

from gateway.client.limits import Limits
from schemas.releases import Catalogue, Release
from schemas.wire import CatalogueNews, Have, Signature, Use

_DAY_MS: Final = 86_400_000
_MOST_STEPS: Final = 32  # of a pause that grows: beyond, it is at its longest anyway


class Attempt(Struct, frozen=True, omit_defaults=True):
    """What was tried with one artifact on one SDK and system (`context`).

    `until_ms` ends a pause.
    """

    context: str
    fetches: int = 0
    quarantines: int = 0
    until_ms: int = 0
    hopeless: bool = False


class ModelState(Struct, frozen=True, omit_defaults=True):
    """What is kept of one model. `use` is the last instruction obeyed; `bundled` the bundle's release last seen."""

    document: bytes = b""
    signatures: list[Signature] = []
    base_url: str = "/"
    number: int = 0
    floor: int = 0
    use: Use = "bundled"
    active: Release | None = None
    previous: Release | None = None
    candidate: Release | None = None
    bundled: int = 0
    attempts: dict[str, Attempt] = {}


def attempt_of(state: ModelState, sha256: str, context: str) -> Attempt:
    """Return what is known of an artifact here; nothing, if it was tried on another SDK or system."""
    found = state.attempts.get(sha256)
    return found if found is not None and found.context == context else Attempt(context)


def with_attempt(state: ModelState, sha256: str, attempt: Attempt) -> ModelState:
    """Note what was tried; a clean slate is not worth keeping."""
    others = {sha: kept for sha, kept in state.attempts.items() if sha != sha256}
    if attempt != Attempt(attempt.context):
        others[sha256] = attempt
    return msgspec.structs.replace(state, attempts=others)


def blocked(attempt: Attempt, now_ms: int, limits: Limits) -> bool:
    """Say whether an artifact must be left alone now. A pause longer than any we give means the clock went back."""
    longest_ms = max(limits.quarantine_last_days * _DAY_MS, limits.refetch_last_seconds * 1000)
    return attempt.hopeless or 0 < attempt.until_ms - now_ms <= longest_ms


def crashed_too_often(deaths: int, limits: Limits) -> bool:
    return deaths >= limits.most_deaths


def came_back(attempt: Attempt) -> Attempt:
    return msgspec.structs.replace(attempt, fetches=0, until_ms=0)


def quarantined(attempt: Attempt, now_ms: int, limits: Limits) -> Attempt:
    days = _grown(limits.quarantine_first_days, limits.quarantine_last_days, attempt.quarantines, limits)
    return Attempt(
        attempt.context, fetches=attempt.fetches, quarantines=attempt.quarantines + 1, until_ms=now_ms + days * _DAY_MS
    )


def fetch_failed(attempt: Attempt, now_ms: int, limits: Limits, *, wrong_bytes: bool) -> Attempt:
    """Pause after a failed fetch; bytes that were wrong too often are not asked for again, a bad network always is."""
    fetches = attempt.fetches + 1
    seconds = _grown(limits.refetch_first_seconds, limits.refetch_last_seconds, fetches - 1, limits)
    hopeless = wrong_bytes and fetches >= limits.most_wrong_fetches
    return msgspec.structs.replace(attempt, fetches=fetches, until_ms=now_ms + seconds * 1000, hopeless=hopeless)


def _grown(first: int, last: int, steps: int, limits: Limits) -> int:
    growth: int = limits.pause_growth ** min(steps, _MOST_STEPS)
    return min(last, first * growth)


def load_failed(attempt: Attempt) -> Attempt:
    return msgspec.structs.replace(attempt, hopeless=True)


def listed(catalogue: Catalogue | None, floor: int, number: int) -> Release | None:
    """Return a release's entry if it may run."""
    if catalogue is None or number < floor:
        return None
    return next((entry for entry in catalogue.releases if entry.release == number), None)


def current(catalogue: Catalogue | None, floor: int, kept: Release | None) -> Release | None:
    """Return what the catalogue says now about a release that is kept: None when that artifact may not run any more."""
    entry = None if kept is None else listed(catalogue, floor, kept.release)
    return entry if entry is not None and kept is not None and entry.sha256 == kept.sha256 else None


def accepted(
    state: ModelState, catalogue: Catalogue, news: CatalogueNews, bundled_sha256: str, least: int = 0
) -> ModelState:
    """Take a verified catalogue: what it does not list, or is below its floor or `least`, is gone from the state."""
    known = {entry.sha256 for entry in catalogue.releases} | {bundled_sha256}
    taken = msgspec.structs.replace(
        state,
        document=news.document,
        signatures=news.signatures,
        base_url=news.base_url,
        number=catalogue.number,
        floor=max(state.floor, catalogue.floor),
        attempts={sha: attempt for sha, attempt in state.attempts.items() if sha in known},
    )
    return still_listed(taken, catalogue, least)


def still_listed(state: ModelState, catalogue: Catalogue | None, least: int) -> ModelState:
    """Forget what may not run any more; `least` is the floor of the key list, which no catalogue lowers."""
    floor = max(state.floor, least)
    return msgspec.structs.replace(
        state,
        active=current(catalogue, floor, state.active),
        previous=current(catalogue, floor, state.previous),
        candidate=current(catalogue, floor, state.candidate),
    )


def unbound(state: ModelState) -> ModelState:
    """Forget a catalogue whose key is no longer listed: whoever stole that key may have chosen its number and floor.

    The floor that was meant stands in the key list: what signs that was not stolen.
    """
    return msgspec.structs.replace(state, document=b"", signatures=[], number=0, floor=0)


def activated(state: ModelState, entry: Release) -> ModelState:
    """Make a proven release the active one; the one before it stays, to fall back on."""
    others = [kept for kept in (state.active, state.previous) if kept is not None and kept.sha256 != entry.sha256]
    return msgspec.structs.replace(
        state, use=entry.release, active=entry, previous=others[0] if others else None, candidate=None
    )


def without(state: ModelState, sha256: str) -> ModelState:
    """Forget an artifact wherever it stands."""

    def keep(kept: Release | None) -> Release | None:
        return None if kept is None or kept.sha256 == sha256 else kept

    return msgspec.structs.replace(
        state, active=keep(state.active), previous=keep(state.previous), candidate=keep(state.candidate)
    )


def bundle_changed(state: ModelState, bundled: int) -> ModelState:
    """Note the app's bundle; one that is newer than what came over the air wins until the gateway says otherwise."""
    if bundled == state.bundled:
        return state
    newer = state.active is None or bundled > state.active.release
    use: Use = "bundled" if newer and state.use != "none" else state.use
    return msgspec.structs.replace(state, bundled=bundled, use=use)


def kept_artifacts(state: ModelState) -> set[str]:
    """Name the artifacts that the state needs on disk."""
    return {kept.sha256 for kept in (state.active, state.previous, state.candidate) if kept is not None}


def have(state: ModelState, catalogue: Catalogue | None, running: Use) -> Have:
    """Say what this device has, for the next batch. A catalogue that it can no longer read must be sent again."""
    stored = [kept.release for kept in (state.active, state.previous) if kept is not None and kept.release != running]
    number = 0 if catalogue is None else state.number
    return Have(catalogue=number, use=running, previous=stored[0] if stored else None)
