"""Draw the faults of a campaign from its seed: pure, so that a seed names one campaign for ever."""

import random
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct

Kind = Literal["kill", "stop", "refuse", "blackhole", "lose_replies", "disk_full"]

# A consumer stopped for longer than its session is a zombie when it comes back; the rest must just be survived.
_SECONDS: Final[Mapping[Kind, tuple[float, float]]] = {
    "kill": (0.0, 1.5),
    "stop": (0.3, 3.0),
    "refuse": (0.2, 3.0),
    "blackhole": (0.2, 3.0),
    "lose_replies": (0.2, 3.0),
    "disk_full": (0.5, 3.0),
}
_ZOMBIE_SECONDS: Final = 8.0
_ZOMBIE_CHANCE: Final = 0.25
_TOGETHER_CHANCE: Final = 0.2


class Target(Struct, frozen=True):
    """Something that can be hit, and how. `weight` is how often, beside the others."""

    name: str
    kinds: Sequence[Kind]
    weight: float = 1.0
    zombie: bool = False


class Fault(Struct, frozen=True):
    """One fault: after a pause since the last one began, hit the target for so long."""

    pause_seconds: float
    target: str
    kind: Kind
    seconds: float


def schedule(targets: Sequence[Target], faults: int, seed: int) -> list[Fault]:
    """Return the faults in order; every target is hit at least once where there are enough."""
    dice = random.Random(seed)  # noqa: S311 - a campaign must be repeatable
    drawn = [*targets, *dice.choices(targets, [t.weight for t in targets], k=max(0, faults - len(targets)))][:faults]
    dice.shuffle(drawn)
    return [_fault(target, dice) for target in drawn]


def _fault(target: Target, dice: random.Random) -> Fault:
    kind = dice.choice(target.kinds)
    least, most = _SECONDS[kind]
    seconds = dice.uniform(least, most)
    if kind == "stop" and target.zombie and dice.random() < _ZOMBIE_CHANCE:
        seconds = _ZOMBIE_SECONDS
    pause_seconds = 0.0 if dice.random() < _TOGETHER_CHANCE else dice.uniform(0.5, 2.5)
    return Fault(pause_seconds, target.name, kind, seconds)
