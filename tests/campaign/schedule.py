"""Draw the faults of a campaign from its seed: pure, so that a seed names one campaign for ever."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from msgspec import Struct

Kind = Literal["kill", "stop", "refuse", "blackhole", "lose_replies", "disk_full", "clock_step", "from_zero"]

# A consumer stopped for longer than its session is a zombie when it comes back; the rest must just be survived.
_SECONDS: Final[Mapping[Kind, tuple[float, float]]] = {
    "kill": (0.0, 1.5),
    "stop": (0.3, 3.0),
    "refuse": (0.2, 3.0),
    "blackhole": (0.2, 3.0),
    "lose_replies": (0.2, 3.0),
    "disk_full": (0.5, 3.0),
    "clock_step": (0.5, 4.0),
    "from_zero": (0.0, 1.0),
}
ZOMBIE_SECONDS: Final = 8.0
_ZOMBIE_CHANCE: Final = 0.25
_ALONE_CHANCE: Final = 0.4
_AT_ONCE_CHANCE: Final = 0.25
# What a clock is wrong by after a bad second, a bad time zone and a bad battery; the last is the target's own.
_SLIP_SECONDS: Final = 5.0
_ZONE_SECONDS: Final = 3600.0
_DAY_SECONDS: Final = 86_400.0


class Target(Struct, frozen=True):
    """Something that can be hit, and how. `weight` is how often, beside the others."""

    name: str
    kinds: Sequence[Kind]
    weight: float = 1.0
    zombie: bool = False
    clock_days: tuple[float, float] = (0.0, 0.0)  # how far its clock may be set back and forward


class Fault(Struct, frozen=True):
    """One fault: after a pause, hit the target for so long; where it is alone, nothing else is hit meanwhile."""

    pause_seconds: float
    target: str
    kind: Kind
    seconds: float
    alone: bool
    clock_seconds: float = 0.0


def schedule(targets: Sequence[Target], faults: int, seed: int) -> list[Fault]:
    """Return the faults in order; every target is hit in each of its ways once where there are enough."""
    dice = random.Random(seed)  # noqa: S311 - a campaign must be repeatable
    each = [(target, kind) for target in targets for kind in target.kinds]
    dice.shuffle(each)
    more = dice.choices(targets, [t.weight for t in targets], k=max(0, faults - len(each)))
    drawn = [*each, *((target, dice.choice(target.kinds)) for target in more)][:faults]
    dice.shuffle(drawn)
    nth: Counter[tuple[str, Kind]] = Counter()
    planned = []
    for target, kind in drawn:
        planned.append(_fault(target, kind, nth[target.name, kind], dice))
        nth[target.name, kind] += 1
    return planned


def _fault(target: Target, kind: Kind, nth: int, dice: random.Random) -> Fault:
    seconds = dice.uniform(*_SECONDS[kind])
    if kind == "stop" and target.zombie and dice.random() < _ZOMBIE_CHANCE:
        seconds = ZOMBIE_SECONDS
    alone = dice.random() < _ALONE_CHANCE
    at_once = not alone and dice.random() < _AT_ONCE_CHANCE
    pause_seconds = 0.0 if at_once else dice.uniform(0.3, 2.0)
    clock_seconds = _clock_seconds(target, nth, dice) if kind == "clock_step" else 0.0
    return Fault(pause_seconds, target.name, kind, seconds, alone, clock_seconds)


def _clock_seconds(target: Target, nth: int, dice: random.Random) -> float:
    """Return how far the clock is stepped: at the first time as far back as it goes, then as far forward, then any."""
    back_days, forward_days = target.clock_days
    forward = nth == 1 or (nth > 1 and dice.random() < 0.5)
    most = _DAY_SECONDS * (forward_days if forward else back_days)
    size = most if nth < 2 else dice.choice((_SLIP_SECONDS * dice.random(), _ZONE_SECONDS, most))
    return size if forward else -size
