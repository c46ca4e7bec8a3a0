"""The rules of a model's state, as laws."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.client import state as rules
from gateway.client.decision import decide
from gateway.client.limits import Limits
from gateway.client.state import Attempt, ModelState
from schemas.releases import Catalogue, Parameters, Release
from schemas.wire import CatalogueNews

LIMITS = Limits()
DAY_MS = 86_400_000
NEWS = CatalogueNews(b"{}", [])


def release(number: int, artifact: str = "") -> Release:
    return Release(
        release=number, format="opaque", sha256=(artifact or str(number)).rjust(64, "0"), size=1, downloads=[]
    )


def catalogue(number: int, floor: int, *releases: int) -> Catalogue:
    return Catalogue(
        app="shop",
        model="upsell",
        number=number,
        issued_at=0,
        expires_at=1,
        floor=floor,
        releases=[release(one) for one in releases],
    )


states = st.builds(
    ModelState,
    number=st.integers(0, 20),
    floor=st.integers(0, 10),
    active=st.none() | st.integers(1, 10).map(release),
    previous=st.none() | st.integers(1, 10).map(release),
    candidate=st.none() | st.integers(1, 10).map(release),
)


@given(states, st.integers(0, 10), st.sets(st.integers(1, 10), max_size=4))
def test_what_is_not_listed_or_below_the_floor_is_gone(state: ModelState, floor: int, numbers: set[int]) -> None:
    after = rules.accepted(state, catalogue(21, floor, *numbers), NEWS, "b")
    assert after.floor >= max(state.floor, floor)
    for kept in (after.active, after.previous, after.candidate):
        assert kept is None or (kept.release in numbers and kept.release >= after.floor)


@given(states, st.integers(1, 10))
def test_an_activated_release_keeps_another_one_to_fall_back_on(state: ModelState, number: int) -> None:
    after = rules.activated(state, release(number))
    assert after.active == release(number)
    assert after.use == number
    others = [kept for kept in (state.active, state.previous) if kept is not None and kept.release != number]
    assert after.previous == (others[0] if others else None)


def test_the_same_number_with_another_artifact_is_another_release() -> None:
    state = ModelState(active=release(5, "aaaa"))
    assert rules.accepted(state, catalogue(1, 0, 5), NEWS, "b").active is None


def test_a_quarantine_grows_from_a_day_to_a_month_and_ends() -> None:
    attempt, days = Attempt("c"), []
    for _ in range(6):
        attempt = rules.quarantined(attempt, 0, LIMITS)
        days.append(attempt.until_ms // DAY_MS)
        assert rules.blocked(attempt, attempt.until_ms - 1, LIMITS)
        assert not rules.blocked(attempt, attempt.until_ms, LIMITS)
    assert days == [1, 4, 16, 30, 30, 30]


def test_an_app_may_set_how_soon_and_how_long_a_release_is_left_alone() -> None:
    limits = Limits(most_deaths=1, quarantine_first_days=2, quarantine_last_days=5, pause_growth=2)
    attempt, days = Attempt("c"), []
    for _ in range(3):
        attempt = rules.quarantined(attempt, 0, limits)
        days.append(attempt.until_ms // DAY_MS)
    assert days == [2, 4, 5]
    assert rules.crashed_too_often(1, limits)


def test_an_app_may_set_how_often_and_when_bytes_are_asked_for_again() -> None:
    limits = Limits(refetch_first_seconds=10, refetch_last_seconds=15, most_wrong_fetches=2, pause_growth=3)
    once = rules.fetch_failed(Attempt("c"), 0, limits, wrong_bytes=True)
    assert (once.until_ms, once.hopeless) == (10_000, False)
    twice = rules.fetch_failed(once, 0, limits, wrong_bytes=True)
    assert (twice.until_ms, twice.hopeless) == (15_000, True)


def test_a_clock_that_went_back_does_not_make_a_quarantine_endless() -> None:
    attempt = rules.quarantined(Attempt("c"), 400 * DAY_MS, LIMITS)
    assert not rules.blocked(attempt, 0, LIMITS)


def test_a_bad_network_is_always_asked_again_and_wrong_bytes_six_times() -> None:
    network = wrong = Attempt("c")
    for n in range(1, 20):
        network = rules.fetch_failed(network, 0, LIMITS, wrong_bytes=False)
        wrong = rules.fetch_failed(wrong, 0, LIMITS, wrong_bytes=True)
        assert not network.hopeless
        assert wrong.hopeless == (n >= 6)
    assert network.until_ms == DAY_MS


def test_two_deaths_are_enough_and_one_is_not() -> None:
    assert [rules.crashed_too_often(deaths, LIMITS) for deaths in range(4)] == [False, False, True, True]


def test_a_load_that_came_back_ends_every_pause_but_no_verdict() -> None:
    paused = rules.fetch_failed(Attempt("c", quarantines=2), 0, LIMITS, wrong_bytes=False)
    assert rules.came_back(paused) == Attempt("c", quarantines=2)
    assert rules.came_back(rules.load_failed(Attempt("c"))).hopeless


def test_an_attempt_elsewhere_counts_for_nothing_here() -> None:
    state = rules.with_attempt(ModelState(), "a", rules.load_failed(Attempt("2.3.0|iOS 19")))
    assert rules.attempt_of(state, "a", "2.3.0|iOS 19").hopeless
    assert not rules.attempt_of(state, "a", "2.3.1|iOS 19").hopeless


def test_a_state_survives_being_written() -> None:
    state = ModelState(document=b"\x00", number=3, use=5, active=release(5), attempts={"a": Attempt("c", fetches=1)})
    assert msgspec.json.decode(msgspec.json.encode(state), type=ModelState) == state


# Below a chance of one in a million nothing is ever explored, and half of the least float is 0.
chances = st.just(0.0) | st.floats(1e-6, 1)


@given(st.floats(0, 1), st.floats(0, 1), chances, st.lists(st.floats(0, 1, exclude_max=True), min_size=2))
def test_the_chances_of_yes_and_no_add_up(score: float, threshold: float, explore: float, rolls: list[float]) -> None:
    parameters = Parameters(threshold, explore)
    chosen = decide(score, parameters, iter([*rolls, 0.0, 0.0]).__next__)
    assert chosen.propensity == pytest.approx(1 - explore / 2 if chosen.yes == (score >= threshold) else explore / 2)
    assert chosen.explored or chosen.yes == (score >= threshold)
    assert chosen.propensity > 0
