"""Sticky and monotone over a million devices: through every stage, with a held-out baseline, into the next rollout."""

from collections import Counter
from typing import Final

from msgspec.structs import replace

from gateway.releases.decide import arm_for
from gateway.releases.transitions import Change, Plan, advance, complete, start
from schemas.releases import Arm, Rollout
from schemas.wire import Envelope

DEVICES: Final = 1_000_000
STAGES: Final = (0.01, 0.05, 0.25, 1.0)
# The 99.9th percentile of chi-square with 3 degrees of freedom (how many are in is free too); hashes do not flicker.
CHI_SQUARE_3: Final = 16.27
# Like a UUID to whatever hashes it; to make a real one costs as much as the decision.
NAME: Final = "6f1c2f60-3f6e-4b6e-9d0e-%012x"
CHANGE: Final = Change("ann", "because", 1)


def rollouts() -> list[Rollout]:
    """Return a rollout at every stage, and the next one at its first."""
    plan = Plan(app="shop", model="upsell", challenger=42, champion=41, baseline=0.1, stages=STAGES)
    found = [start(None, plan, CHANGE)]
    for _ in STAGES[1:]:
        found.append(advance(found[-1], CHANGE))
    done = complete(found[-1], CHANGE)
    return [*found, start(done, replace(plan, challenger=43, champion=None, baseline=None), CHANGE)]


def is_held(arm: Arm | None) -> bool:
    return arm is not None and arm.name == "baseline"


def test_no_device_that_is_in_ever_moves_and_every_stage_is_filled_by_weight() -> None:
    *stages, following = rollouts()
    counts: list[Counter[str]] = [Counter() for _ in stages]
    for number in range(DEVICES):
        said = Envelope(device=NAME % number, batch="", seq=1, sent_at=0, sdk="2.3.0")
        last, after = arm_for(stages[-1], said), arm_for(following, said)
        assert is_held(last) == is_held(after), "the next rollout holds out the same devices"
        # From the last stage down: who is not in at a stage is not in at an earlier one.
        arm, at = last, len(stages) - 1
        while arm is not None:
            assert arm is last or arm == last
            counts[at][arm.name] += 1
            at -= 1
            arm = arm_for(stages[at], said) if at >= 0 else None
        assert at <= 0 or arm_for(stages[0], said) is None
    for exposure, counted in zip(STAGES, counts, strict=True):
        weights = {"champion": 0.45, "challenger": 0.45, "baseline": 0.1}
        expected = {name: weight * exposure * DEVICES for name, weight in weights.items()}
        assert sum((counted[name] - share) ** 2 / share for name, share in expected.items()) < CHI_SQUARE_3
