"""What may follow what in a rollout: pure steps from one numbered document to the next.

* The exposure only rises. Who must leave leaves by a rollback, which is for everyone and at once.
* `roll_back` follows everything that hands out an arm's release, a completed rollout included: trouble shows late.
* Between rollouts the last one's `otherwise` stays in force, so a release that is published reaches nobody until a
  rollout names it.
* A held-out baseline is handed on from one rollout to the next: its salt, its share and how far it has got, target by
  target.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from gateway.releases.errors import BadPlan, NotNow
from schemas.releases import Arm, Held, Reached, Rollout, Target
from schemas.wire import Use

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
BASELINE: Final = "baseline"
STAGES: Final = (0.01, 0.05, 0.25, 1.0)

Step = Literal["start", "hold", "advance", "pause", "resume", "rollback", "complete"]
# Which states a step may follow; "none" is a model that has had no rollout yet.
FOLLOWS: Final[dict[Step, tuple[str, ...]]] = {
    "start": ("none", "rolled_back", "complete"),
    "hold": ("none", "rolled_back", "complete"),
    "advance": ("running",),
    "pause": ("running",),
    "resume": ("paused",),
    "rollback": ("running", "paused", "complete"),
    "complete": ("running",),
}
_ADVICE: Final = {
    "none": "start one with 'rollout start'",
    "running": "'rollout complete' or 'rollout rollback' ends it",
    "paused": "'rollout resume' or 'rollout rollback' comes first",
    "rolled_back": "start a new one with 'rollout start'",
    "complete": "start a new one with 'rollout start'",
}


class Change(Struct, frozen=True):
    """Who changes something, why and when."""

    author: str
    reason: str
    at_ms: int


class Plan(Struct, frozen=True, kw_only=True):
    """What an operator wants to roll out. `baseline` None keeps the share that is held out already."""

    app: str
    model: str
    challenger: Use
    champion: Use | None = None
    baseline: float | None = None
    new_baseline: bool = False
    stages: Sequence[float] = STAGES
    target: Target = Target()


def start(last: Rollout | None, plan: Plan, change: Change) -> Rollout:
    """Begin a new rollout at its first stage. Raises `NotNow` or `BadPlan`."""
    _check_follows("start", last)
    champion = _champion(last, plan)
    if champion == plan.challenger:
        raise BadPlan(f"champion and challenger are both {champion}: there is nothing to compare")
    _check_stages(plan.stages)
    number = last.rollout + 1 if last is not None else 1
    share, held = _held_out(last, plan, number)
    arms = [Arm(CHAMPION, champion, (1.0 - share) / 2), Arm(CHALLENGER, plan.challenger, (1.0 - share) / 2)]
    return Rollout(
        rollout=number,
        revision=1,
        app=plan.app,
        model=plan.model,
        state="running",
        salt=f"{plan.app}/{plan.model}/{number}",
        arms=[*arms, Arm(BASELINE, "none", share)] if share else arms,
        exposure=plan.stages[0],
        stages=list(plan.stages),
        otherwise=champion,
        target=plan.target,
        held=_reaching(held, plan.stages[0]),
        author=change.author,
        reason=change.reason,
        at=change.at_ms,
    )


def hold(last: Rollout | None, app: str, model: str, use: Use, change: Change) -> Rollout:
    """Keep everyone on one release, so that what is published next waits for a rollout. Raises `NotNow`."""
    _check_follows("hold", last)
    target = last.target if last is not None and last.held is not None else Target()
    share, held = _held_out(last, Plan(app=app, model=model, challenger=use, target=target), 0)
    arms = [Arm(CHAMPION, use, 1.0 - share)]
    return Rollout(
        rollout=last.rollout + 1 if last is not None else 1,
        revision=1,
        app=app,
        model=model,
        state="complete",
        salt="",
        arms=[*arms, Arm(BASELINE, "none", share)] if share else arms,
        exposure=1.0,
        otherwise=use,
        target=target if held is not None else Target(),
        held=held,
        author=change.author,
        reason=change.reason,
        at=change.at_ms,
    )


def advance(last: Rollout | None, change: Change, to: float | None = None) -> Rollout:
    """Raise the exposure to the next stage, or to a share beyond the present one. Raises `NotNow` or `BadPlan`."""
    rollout = _check_follows("advance", last)
    exposure = to if to is not None else next((stage for stage in rollout.stages if stage > rollout.exposure), None)
    if exposure is None:
        raise NotNow(
            f"rollout {rollout.rollout} is at its last stage, {_percent(rollout.exposure)} %: "
            "'rollout complete' ends it"
        )
    if not rollout.exposure < exposure <= 1.0:
        raise BadPlan(
            f"rollout {rollout.rollout} stands at {_percent(rollout.exposure)} %, by {rollout.author}, and only rises, "
            f"to 100 at most, so not to {_percent(exposure)}: to take the release back, use 'rollout rollback'"
        )
    return _next(rollout, change, exposure=exposure, held=_reaching(rollout.held, exposure))


def advance_to(last: Rollout | None, change: Change, to: float | None) -> Rollout:
    """Raise the exposure to a share that must be named, and say which stage is next where it is not.

    Two operators who both want the next stage would else go two stages up. Raises `NotNow` or `BadPlan`.
    """
    after = advance(last, change, to)
    if to is None and last is not None:
        raise BadPlan(
            f"rollout {last.rollout} stands at {_percent(last.exposure)} %, by {last.author}: say how far with --to "
            f"(its next stage is {_percent(after.exposure)}), or with --seen which document you looked at"
        )
    return after


def pause(last: Rollout | None, change: Change) -> Rollout:
    """Let no further device in; those that are in stay. Raises `NotNow`."""
    return _next(_check_follows("pause", last), change, state="paused")


def resume(last: Rollout | None, change: Change) -> Rollout:
    """Let devices in again, up to the exposure that was reached. Raises `NotNow`."""
    return _next(_check_follows("resume", last), change, state="running")


def roll_back(last: Rollout | None, change: Change) -> Rollout:
    """Put everyone on what ran before, at once. Raises `NotNow`."""
    rollout = _check_follows("rollback", last)
    before = next((arm.use for arm in rollout.arms if arm.name == CHAMPION), rollout.otherwise)
    if rollout.state == "complete" and before == rollout.otherwise:
        raise NotNow(f"everyone is on {before} already, what ran before: there is nothing to roll back")
    return _next(rollout, change, state="rolled_back", otherwise=before)


def complete(last: Rollout | None, change: Change, winner: str = CHALLENGER) -> Rollout:
    """Put everyone but the held-out baseline on the winner's release. Raises `NotNow` or `BadPlan`."""
    rollout = _check_follows("complete", last)
    use = next((arm.use for arm in rollout.arms if arm.name == winner), None)
    if use is None:
        raise BadPlan(f"there is no arm {winner!r}: the arms are {', '.join(arm.name for arm in rollout.arms)}")
    return _next(rollout, change, state="complete", otherwise=use)


def differences(before: Rollout | None, after: Rollout) -> dict[str, tuple[object, object]]:
    """Return what changed, by field: (before, after)."""
    fields = ((name, getattr(before, name, None), getattr(after, name)) for name in Rollout.__struct_fields__)
    return {name: (old, new) for name, old, new in fields if old != new}


def _next(rollout: Rollout, change: Change, **changes: object) -> Rollout:
    signed = {"author": change.author, "reason": change.reason, "at": change.at_ms, "approved_by": ""}
    return replace(rollout, revision=rollout.revision + 1, **signed, **changes)


def _check_follows(step: Step, last: Rollout | None) -> Rollout:
    """Return the rollout that the step follows. Raises `NotNow`."""
    state = "none" if last is None else last.state
    if state not in FOLLOWS[step]:
        what = "there is no rollout" if last is None else f"rollout {last.rollout} is {state.replace('_', ' ')}"
        raise NotNow(f"cannot {step} now: {what}; {_ADVICE[state]}")
    return last  # type: ignore[return-value]  # None only where "none" may be followed, and then nobody uses it


def _champion(last: Rollout | None, plan: Plan) -> Use:
    if plan.champion is not None:
        return plan.champion
    if last is None:
        raise BadPlan("say what runs now with --champion: a release, 'bundled' or 'none'")
    return last.otherwise


def _percent(share: float) -> str:
    return f"{share * 100:.6g}"


def _check_stages(stages: Sequence[float]) -> None:
    rising = all(low < high for low, high in pairwise(stages))
    if not stages or not rising or not (stages[0] > 0.0 and stages[-1] <= 1.0):
        shown = ",".join(f"{stage:.6%}".rstrip("0%").rstrip(".") or "0" for stage in stages)
        raise BadPlan(f"the stages {shown!r} are not percentages that rise from above 0 to 100, such as 1,5,25,100")


def _held_out(last: Rollout | None, plan: Plan, number: int) -> tuple[float, Held | None]:
    """Return the share that is held out, and by which salt."""
    before = _aimed(last, plan.target) if last is not None else None
    shares = {arm.name: arm.weight for arm in last.arms} if last is not None else {}
    share = plan.baseline if plan.baseline is not None else (shares[before.arm] if before is not None else 0.0)
    if not (math.isfinite(share) and 0.0 <= share < 1.0):
        raise BadPlan(f"a baseline of {share:g} is no share: hold out at least 0 and less than 1")
    if share == 0.0:
        return 0.0, None
    if before is not None and not plan.new_baseline:
        return share, before
    salt = f"{plan.app}/{plan.model}/baseline" + (f"/{number}" if plan.new_baseline else "")
    return share, Held(BASELINE, salt, 0.0)


def _aimed(last: Rollout, target: Target) -> Held | None:
    """Return the baseline as it stands for a target: beyond whom it holds out already, it begins with the exposure."""
    held = last.held
    if held is None or target == last.target:
        return held
    exposure = next((each.exposure for each in held.earlier if each.target == target), 0.0)
    others = [each for each in held.earlier if each.target != target]
    return replace(held, exposure=exposure, earlier=[*others, Reached(last.target, held.exposure)])


def _reaching(held: Held | None, exposure: float) -> Held | None:
    return None if held is None else replace(held, exposure=max(held.exposure, exposure))
