"""The rules every SDK repeats: when to flush, what an answer means, how long to wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.limits import Limits
from gateway.client.policy import (
    Fate,
    backoff,
    due_in,
    fate_of,
    read_retry_after,
    should_call,
    too_old,
    wait_after,
)

DAY = 86_400.0
FIRST_FLUSH = Limits().first_flush


@pytest.mark.parametrize(
    ("status", "code", "fate"),
    [
        (400, "malformed", Fate.DROPPED),
        (401, "unknown_key", Fate.LEASE),
        (403, "key_revoked", Fate.LEASE),
        (413, "too_large", Fate.SPLIT),
        (415, "unsupported_media", Fate.DROPPED),
        (429, "slow_down", Fate.WAIT),
        (503, "unavailable", Fate.WAIT),
        (0, "", Fate.WAIT),
        (200, "", Fate.WAIT),
        (400, "", Fate.WAIT),
        (400, "too_large", Fate.WAIT),
        (401, "", Fate.WAIT),
        (413, "", Fate.WAIT),
        (422, "malformed", Fate.WAIT),
        (500, "internal", Fate.WAIT),
    ],
)
def test_a_refusal_means_what_the_contract_says_and_otherwise_to_wait(status: int, code: str, fate: Fate) -> None:
    assert fate_of(status, code) is fate


def test_a_batch_is_too_old_only_past_its_days() -> None:
    assert not too_old(1000, 1000 + 30 * 86_400_000, 30)
    assert too_old(1000, 1001 + 30 * 86_400_000, 30)
    assert not too_old(10**12, 0, 30), "a clock that went back makes nothing old"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("120", 120),
        (" 7 ", 7),
        ("-1", 0),
        ("1e9", 0),
        ("\N{SUPERSCRIPT TWO}", 0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 0),
        ("9" * 400, DAY),
    ],
)
def test_a_retry_after_is_read_in_seconds_and_bounded(header: str | None, seconds: float) -> None:
    assert read_retry_after(header, DAY) == seconds


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_backoff_stays_within_its_bounds(failures: int, roll: float) -> None:
    assert 0 <= backoff(failures, 30, 3600, roll) <= 3600
    assert backoff(1, 30, 3600, roll) <= 30


def test_the_longer_of_two_waits_counts() -> None:
    assert wait_after(Fate.WAIT, 10, 20, 100) == 20
    assert wait_after(Fate.WAIT, 30, 20, 100) == 30
    assert wait_after(Fate.LEASE, 30, 20, 100) == 100
    assert wait_after(Fate.DELIVERED, 30, 20, 100) == 0


def test_a_flush_is_due_by_count_or_by_age() -> None:
    assert due_in(FIRST_FLUSH, queued=0, age_seconds=1e9) is None
    assert due_in(FIRST_FLUSH, queued=50, age_seconds=0) == 0
    assert due_in(FIRST_FLUSH, queued=1, age_seconds=100) == 200
    assert due_in(FIRST_FLUSH, queued=1, age_seconds=301) == 0


def test_a_launch_calls_when_something_waits_the_lease_is_over_or_the_clock_went_back() -> None:
    lease_ms = FIRST_FLUSH.lease_seconds * 1000
    assert should_call(FIRST_FLUSH, queued=1, now_ms=1, contact_ms=1)
    assert not should_call(FIRST_FLUSH, queued=0, now_ms=lease_ms, contact_ms=1)
    assert should_call(FIRST_FLUSH, queued=0, now_ms=lease_ms + 1, contact_ms=1)
    assert should_call(FIRST_FLUSH, queued=0, now_ms=1, contact_ms=2)
