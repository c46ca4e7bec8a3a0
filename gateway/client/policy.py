"""When to flush, what an answer means for a batch, and how long to wait: the rules that every SDK repeats.

* Pure: time, dice and the answer are parameters.
* The gateway sets the policy in every reply; the client adds the jitter.
"""

from enum import Enum
from typing import Final

from schemas.wire import Flush


class Fate(Enum):
    """What becomes of a batch after an answer."""

    DELIVERED = "delivered"
    DROPPED = "dropped"
    SPLIT = "split"
    LEASE = "lease"
    WAIT = "wait"


# By status and the code of the problem document: a status alone may be anybody's, a proxy's or a captive portal's.
_FATES: Final = {
    (400, "malformed"): Fate.DROPPED,
    (401, "unknown_key"): Fate.LEASE,
    (403, "key_revoked"): Fate.LEASE,
    (413, "too_large"): Fate.SPLIT,
    (415, "unsupported_media"): Fate.DROPPED,
}
TOO_OLD: Final = "too_old"
_DAY_MS: Final = 86_400_000


def fate_of(status: int, code: str) -> Fate:
    """Say what a refusal means for the batch; what the contract does not name waits."""
    return _FATES.get((status, code), Fate.WAIT)


def too_old(frozen_ms: int, now_ms: int, most_days: int) -> bool:
    """Say whether a batch may not be sent any more.

    The warehouse knows a batch again for as long as it keeps it: one that was stored then, and resent later than that,
    would be stored twice. A clock that jumped that far has spoilt the times of the events anyway.
    """
    return now_ms - frozen_ms > most_days * _DAY_MS


def read_retry_after(header: str | None, most_seconds: float) -> float:
    """Return the wait asked for: delta seconds only (the contract's form), 0 when unreadable, at most a bound.

    The bound is there because a proxy's mistake must not silence a device for ever.
    """
    text = (header or "").strip()
    if not (text.isascii() and text.isdigit()):
        return 0.0
    return min(float(text[:12]), most_seconds)


def backoff(failures: int, first_seconds: float, last_seconds: float, roll: float) -> float:
    """Return a wait by full jitter: uniform up to a bound that doubles with each failure, `roll` being in [0, 1).

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    doublings = min(max(failures - 1, 0), 32)  # beyond, the bound is `last_seconds` anyway
    return float(roll * min(last_seconds, first_seconds * 2**doublings))


def wait_after(fate: Fate, backoff_seconds: float, retry_after_seconds: float, lease_seconds: float) -> float:
    """Return how long to keep silent after an answer."""
    if fate is Fate.WAIT:
        return max(backoff_seconds, retry_after_seconds)
    return lease_seconds if fate is Fate.LEASE else 0.0


def due_in(flush: Flush, *, queued: int, age_seconds: float) -> float | None:
    """Return the seconds until the queue should be flushed, 0 for now, None while nothing waits."""
    if queued <= 0:
        return None
    if queued >= flush.events:
        return 0.0
    return max(0.0, flush.seconds - age_seconds)


def should_call(flush: Flush, *, queued: int, now_ms: int, contact_ms: int) -> bool:
    """Say whether a launch should flush: something waits, or the last contact is older than the lease.

    A contact in the future means that the clock went back: then it tells nothing, and calling is cheap.
    """
    return queued > 0 or not 0 <= now_ms - contact_ms < flush.lease_seconds * 1000
