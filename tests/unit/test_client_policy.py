"""The rules every SDK repeats: when to flush, what an answer means, how long to wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.policy import (
    FIRST_FLUSH,
    Fate,
    backoff,
    due_in,
    fate_of,
    read_retry_after,
    should_call,
    wait_after,
)

DAY = 86_400.0


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        (200, Fate.DELIVERED),
        (400, Fate.DROPPED),
        (401, Fate.LEASE),
        (403, Fate.LEASE),
        (413, Fate.SPLIT),
        (415, Fate.DROPPED),
        (429, Fate.WAIT),
        (503, Fate.WAIT),
        (0, Fate.WAIT),
        (204, Fate.WAIT),
        (301, Fate.WAIT),
        (404, Fate.WAIT),
        (422, Fate.WAIT),
        (500, Fate.WAIT),
    ],
)
def test_a_status_means_what_the_contract_says_and_otherwise_to_wait(status: int, fate: Fate) -> None:
    assert fate_of(status) is fate


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
