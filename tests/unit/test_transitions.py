"""What may follow what in a rollout, and what each step leaves as it was."""

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gateway.releases import transitions
from gateway.releases.errors import BadPlan, NotNow, ReleaseError
from gateway.releases.transitions import FOLLOWS, Change, Plan, Step
from schemas.releases import Arm, Held, Reached, Rollout, Target

CHANGE: Final = Change("ann", "because", 1_000)


def plan(**changes: Any) -> Plan:
    return Plan(**{"app": "shop", "model": "upsell", "challenger": 42, "champion": 41, **changes})


def taken(step: Step, last: Rollout | None) -> Rollout:
    match step:
        case "start":
            return transitions.start(last, plan(champion=None if last else 41, challenger=99), CHANGE)
        case "hold":
            return transitions.hold(last, "shop", "upsell", 41, CHANGE)
        case "advance":
            return transitions.advance(last, CHANGE)
        case "pause":
            return transitions.pause(last, CHANGE)
        case "resume":
            return transitions.resume(last, CHANGE)
        case "rollback":
            return transitions.roll_back(last, CHANGE)
        case "complete":
            return transitions.complete(last, CHANGE)


def in_state(state: str) -> Rollout | None:
    if state == "none":
        return None
    return replace(transitions.start(None, plan(), CHANGE), state=state, otherwise=42 if state == "complete" else 41)


@pytest.mark.parametrize("state", ["none", "running", "paused", "rolled_back", "complete"])
@pytest.mark.parametrize("step", list(FOLLOWS))
def test_a_step_follows_only_the_states_it_may_follow(step: Step, state: str) -> None:
    if state in FOLLOWS[step]:
        assert taken(step, in_state(state)).author == "ann"
    else:
        with pytest.raises(NotNow, match=f"cannot {step} now"):
            taken(step, in_state(state))


def test_a_rollout_starts_at_its_first_stage_with_three_arms() -> None:
    started = transitions.start(None, plan(baseline=0.1, stages=[0.01, 0.25], target=Target(sdk=">=2")), CHANGE)
    assert started == Rollout(
        rollout=1,
        revision=1,
        app="shop",
        model="upsell",
        state="running",
        salt="shop/upsell/1",
        arms=[Arm("champion", 41, 0.45), Arm("challenger", 42, 0.45), Arm("baseline", "none", 0.1)],
        exposure=0.01,
        stages=[0.01, 0.25],
        otherwise=41,
        target=Target(sdk=">=2"),
        held=Held("baseline", "shop/upsell/baseline", 0.01),
        author="ann",
        reason="because",
        at=1_000,
    )


def test_stages_are_gone_through_and_then_it_says_to_complete() -> None:
    rollout = transitions.start(None, plan(stages=[0.01, 0.05, 1.0]), CHANGE)
    seen = [rollout.exposure]
    for _ in range(2):
        rollout = transitions.advance(rollout, CHANGE)
        seen.append(rollout.exposure)
    assert seen == [0.01, 0.05, 1.0]
    assert rollout.revision == 3
    with pytest.raises(NotNow, match="'rollout complete' ends it"):
        transitions.advance(rollout, CHANGE)


def test_a_share_between_stages_can_be_named_and_the_stages_go_on_from_there() -> None:
    between = transitions.advance(transitions.start(None, plan(), CHANGE), CHANGE, to=0.1)
    assert transitions.advance(between, CHANGE).exposure == 0.25
    for back in (0.1, 0.05, 1.5):
        with pytest.raises(BadPlan, match="only rises"):
            transitions.advance(between, CHANGE, to=back)


def test_how_far_is_named_or_said_to_be_missing_with_what_stands_now() -> None:
    started = transitions.start(None, plan(), CHANGE)
    assert transitions.advance_to(started, CHANGE, 0.05).exposure == 0.05
    with pytest.raises(BadPlan, match=r"rollout 1 stands at 1 %, by ann: .*--to \(its next stage is 5\)"):
        transitions.advance_to(started, CHANGE, None)
    with pytest.raises(NotNow, match="there is no rollout"):
        transitions.advance_to(None, CHANGE, None)


def test_a_rollback_puts_back_what_ran_before_even_after_completion() -> None:
    done = transitions.complete(transitions.start(None, plan(), CHANGE), CHANGE)
    assert (done.state, done.otherwise) == ("complete", 42)
    back = transitions.roll_back(done, CHANGE)
    assert (back.state, back.otherwise) == ("rolled_back", 41)
    kept = transitions.complete(transitions.start(None, plan(), CHANGE), CHANGE, winner="champion")
    assert kept.otherwise == 41
    with pytest.raises(NotNow, match="nothing to roll back"):
        transitions.roll_back(kept, CHANGE)
    with pytest.raises(BadPlan, match="no arm 'nobody'"):
        transitions.complete(transitions.start(None, plan(), CHANGE), CHANGE, winner="nobody")


def test_the_next_rollout_takes_over_what_runs_and_who_is_held_out() -> None:
    first = transitions.start(None, plan(baseline=0.1, stages=[0.5]), CHANGE)
    done = transitions.complete(first, CHANGE)
    second = transitions.start(done, plan(champion=None, challenger=43, stages=[0.01]), CHANGE)
    assert (second.rollout, second.revision, second.otherwise) == (2, 1, 42)
    assert second.arms == [Arm("champion", 42, 0.45), Arm("challenger", 43, 0.45), Arm("baseline", "none", 0.1)]
    assert second.held == first.held == Held("baseline", "shop/upsell/baseline", 0.5)
    assert second.salt != first.salt


def test_a_baseline_survives_a_rollback_and_a_hold_and_ends_only_when_asked() -> None:
    back = transitions.roll_back(transitions.start(None, plan(baseline=0.2, stages=[0.3]), CHANGE), CHANGE)
    still = transitions.hold(back, "shop", "upsell", 41, CHANGE)
    assert still.held == Held("baseline", "shop/upsell/baseline", 0.3)
    assert still.arms == [Arm("champion", 41, 0.8), Arm("baseline", "none", 0.2)]
    more = transitions.start(still, plan(baseline=0.4), CHANGE)
    assert more.held == still.held
    none = transitions.start(still, plan(baseline=0.0), CHANGE)
    assert (none.held, len(none.arms)) == (None, 2)
    fresh = transitions.start(still, plan(new_baseline=True), CHANGE)
    assert fresh.held == Held("baseline", f"shop/upsell/baseline/{fresh.rollout}", 0.01)


def test_a_rollout_with_another_target_lets_nobody_out_of_the_baseline_and_in_only_by_its_exposure() -> None:
    new, old = Target(os="iOS >=17"), Target(os="iOS <17")
    first = transitions.complete(transitions.start(None, plan(baseline=0.1, stages=[0.5]), CHANGE), CHANGE)
    second = transitions.start(first, plan(stages=[0.01], target=new), CHANGE)
    assert second.held == Held("baseline", "shop/upsell/baseline", 0.01, [Reached(Target(), 0.5)])
    held = transitions.hold(transitions.roll_back(second, CHANGE), "shop", "upsell", 41, CHANGE)
    assert (held.held, held.target) == (second.held, new)
    third = transitions.start(held, plan(stages=[0.02], target=old), CHANGE)
    assert third.held is not None
    assert (third.held.exposure, third.held.earlier) == (0.02, [Reached(Target(), 0.5), Reached(new, 0.01)])
    again = transitions.start(transitions.roll_back(third, CHANGE), plan(stages=[0.01]), CHANGE)
    assert again.held is not None
    assert (again.held.exposure, again.held.earlier) == (0.5, [Reached(new, 0.01), Reached(old, 0.02)])


@given(st.lists(st.sampled_from(list(FOLLOWS)), max_size=12))
def test_whatever_operators_do_revisions_count_and_exposure_only_rises_within_a_rollout(steps: list[Step]) -> None:
    last: Rollout | None = None
    for step in steps:
        try:
            after = taken(step, last)
        except ReleaseError:
            continue
        if last is not None and after.rollout == last.rollout:
            assert after.revision == last.revision + 1
            assert after.exposure >= last.exposure
            assert after.salt == last.salt
        else:
            assert (after.rollout, after.revision) == ((last.rollout + 1) if last else 1, 1)
        last = after


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"challenger": 41}, "nothing to compare"),
        ({"champion": None}, "say what runs now"),
        ({"stages": []}, "not percentages that rise"),
        ({"stages": [0.0, 0.5]}, "not percentages that rise"),
        ({"stages": [0.5, 0.5]}, "not percentages that rise"),
        ({"stages": [0.5, 1.01]}, "'50,101' are not"),
        ({"stages": [float("nan")]}, "not percentages that rise"),
        ({"baseline": 1.0}, "less than 1"),
        ({"baseline": -0.1}, "no share"),
        ({"baseline": float("nan")}, "no share"),
    ],
)
def test_a_plan_that_makes_no_sense_says_why(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(BadPlan, match=why):
        transitions.start(None, plan(**changes), CHANGE)


def test_differences_name_the_fields_that_changed() -> None:
    first = transitions.start(None, plan(), CHANGE)
    second = transitions.pause(first, Change("bob", "late", 2_000))
    assert transitions.differences(first, second) == {
        "revision": (1, 2),
        "state": ("running", "paused"),
        "author": ("ann", "bob"),
        "reason": ("because", "late"),
        "at": (1_000, 2_000),
    }
    assert transitions.differences(None, first)["rollout"] == (None, 1)
