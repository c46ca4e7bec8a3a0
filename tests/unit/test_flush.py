"""The flush control: what replies say and how much is refused, by what came."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.flush import FlushControl
from schemas.wire import Flush

BASE = Flush(events=50, seconds=600, lease_seconds=21_600)
TRIAL_LEASE = 3600


def control(budget: float = 0.0) -> FlushControl:
    return FlushControl(BASE, TRIAL_LEASE, budget)


def serve(flush: FlushControl, per_second: float, seconds: int, *, refusing: bool = True) -> None:
    for _ in range(seconds):
        flush.arrived += round(per_second)
        if refusing:
            flush.refused += round(per_second * flush.refused_share)
        flush.tick(1.0)


def test_without_a_budget_nothing_is_refused_and_the_policy_is_the_configured_one() -> None:
    flush = control()
    serve(flush, 10_000, 600)
    assert (flush.everyone, flush.refused_share) == (BASE, 0.0)
    assert flush.rate_per_second == pytest.approx(10_000)


def test_a_device_on_trial_keeps_the_shorter_lease() -> None:
    assert control().on_trial == Flush(events=50, seconds=600, lease_seconds=3600)
    assert FlushControl(BASE, 90_000).on_trial == BASE


def test_pressure_stretches_the_policy_and_its_end_restores_it() -> None:
    flush = control()
    flush.tick(1.0, 0.5)
    assert flush.everyone == Flush(events=125, seconds=1500, lease_seconds=54_000)
    flush.tick(1.0, 1.0)
    assert flush.everyone == Flush(events=200, seconds=2400, lease_seconds=86_400)
    assert flush.on_trial.lease_seconds == 4 * TRIAL_LEASE
    flush.tick(1.0, 0.0)
    assert flush.everyone == BASE


def test_a_fleet_within_its_budget_is_left_alone() -> None:
    flush = control(budget=100)
    serve(flush, 85, 3600)
    assert (flush.everyone, flush.refused_share) == (BASE, 0.0)


def test_a_fleet_above_its_budget_is_refused_at_once_and_told_to_flush_less_often_by_and_by() -> None:
    flush = control(budget=100)
    serve(flush, 150, 5)
    assert flush.refused_share > 0.3
    assert flush.everyone.seconds < 610
    serve(flush, 150, 1800)
    assert flush.everyone.seconds > 2 * BASE.seconds
    assert flush.everyone.lease_seconds > 2 * BASE.lease_seconds


def test_when_the_surge_is_over_so_is_all_that_was_done_about_it() -> None:
    flush = control(budget=100)
    serve(flush, 150, 1800)
    serve(flush, 50, 7200)
    assert (flush.everyone, flush.refused_share) == (BASE, 0.0)
    assert flush.wait_seconds == 900


def test_the_first_seconds_after_a_start_count_in_full() -> None:
    flush = control(budget=100)
    serve(flush, 200, 1)
    assert flush.rate_per_second == pytest.approx(200)
    assert flush.refused_share > 0.5


def test_a_small_gateway_does_not_refuse_by_chance() -> None:
    flush = control(budget=4)
    for second in range(600):
        flush.arrived += 8 if second % 2 else 0
        flush.tick(1.0)
        assert second == 1 or flush.refused_share == 0.0 or flush.rate_per_second > 4.3


def test_the_more_are_refused_the_longer_they_are_asked_to_wait() -> None:
    flush = control(budget=100)
    assert flush.wait_seconds == 900
    flush.arrived = flush.refused = 1_000_000
    flush.tick(1.0)
    assert flush.wait_seconds == 6 * 3600


def test_no_time_between_two_ticks_changes_nothing() -> None:
    flush = control(budget=1)
    flush.arrived = 1000
    flush.tick(0.0)
    assert (flush.rate_per_second, flush.refused_share) == (0.0, 0.0)


def test_what_is_configured_past_the_bounds_is_left_alone() -> None:
    base = Flush(events=5000, seconds=86_400, lease_seconds=864_000)
    flush = FlushControl(base, 864_000)
    flush.tick(1.0, 1.0)
    assert flush.everyone == base


@given(
    budget=st.floats(0, 1e5),
    ticks=st.lists(st.tuples(st.integers(0, 100_000), st.floats(0, 3600), st.floats(-1, 2)), max_size=30),
)
def test_whatever_comes_the_policy_stays_within_its_bounds(
    budget: float, ticks: list[tuple[int, float, float]]
) -> None:
    flush = control(budget)
    for came, elapsed, pressure in ticks:
        flush.arrived += came
        flush.refused += came // 2
        flush.tick(elapsed, pressure)
        told = flush.everyone
        assert 50 <= told.events <= 500
        assert 600 <= told.seconds <= 3600
        assert 21_600 <= told.lease_seconds <= 86_400
        assert TRIAL_LEASE <= flush.on_trial.lease_seconds <= told.lease_seconds
        assert 0.0 <= flush.refused_share <= 0.9
        assert 900 <= flush.wait_seconds <= 6 * 3600
