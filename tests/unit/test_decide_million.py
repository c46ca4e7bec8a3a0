"""Sticky and monotone over a million devices: through every stage, with a held-out baseline, into the next rollout."""

from collections import Counter
from hashlib import sha256
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
CHANGE: Final = Change("ann", "because", 1)


def rollouts() -> list[Rollout]:
    """Return a rollout at every stage, and the next one at its first."""
    plan = Plan(app="shop", model="upsell", challenger=42, champion=41, baseline=0.1, stages=STAGES)
    found = [start(None, plan, CHANGE)]
    for _ in STAGES[1:]:
        found.append(advance(found[-1], CHANGE))
    done = complete(found[-1], CHANGE)
    return [*found, start(done, replace(plan, challenger=43, champion=None, baseline=None), CHANGE)]


def name_of(number: int) -> str:
    digits = sha256(b"%d" % number).hexdigest()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:32]}"


def is_held(arm: Arm | None) -> bool:
    return arm is not None and arm.name == "baseline"


def test_no_device_that_is_in_ever_moves_and_every_stage_is_filled_by_weight() -> None:
    *stages, following = rollouts()
    counts: list[Counter[str]] = [Counter() for _ in stages]
    for number in range(DEVICES):
        said = Envelope(device=name_of(number), batch="", seq=1, sent_at=0, sdk="2.3.0")
        last, after = arm_for(stages[-1], said), arm_for(following, said)
        assert is_held(last) == is_held(after), "the next rollout holds out the same devices"
        # From the last stage down: who is not in at a stage is not in at an earlier one.
        for stage, counted in zip(reversed(stages), reversed(counts), strict=True):
            arm = arm_for(stage, said)
            if arm is None:
                assert arm_for(stages[0], said) is None
                break
            assert arm == last
            counted[arm.name] += 1
    for exposure, counted in zip(STAGES, counts, strict=True):
        weights = {"champion": 0.45, "challenger": 0.45, "baseline": 0.1}
        expected = {name: weight * exposure * DEVICES for name, weight in weights.items()}
        assert sum((counted[name] - share) ** 2 / share for name, share in expected.items()) < CHI_SQUARE_3
