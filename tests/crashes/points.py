"""What is done to a device: where in which update, and how often."""

from collections.abc import Iterator
from itertools import product
from typing import Final, NamedTuple


class Mode(NamedTuple):
    """A way to spoil a change: its number in operations.c, and whether the launch goes on when it is over."""

    name: str
    number: int
    ends: bool = False
    freed: bool = False


MODES: Final = (
    Mode("killed before", 1, ends=True),
    Mode("torn and killed", 2, ends=True),
    Mode("full from there on", 3),
    Mode("full, then space again", 3, freed=True),
    Mode("fails once", 4, freed=True),
)
KILLED, TORN, FULL = MODES[:3]


class Fault(NamedTuple):
    """At which change of a launch what happens."""

    mode: Mode
    at: int


class Update(NamedTuple):
    """Where a device comes from and what it is offered; 0 stands for an app that was just installed."""

    name: str
    before: int
    offered: int
    crashes: bool = False


INSTALL: Final = Update("first start and install", 0, 42)
UPDATE: Final = Update("update", 41, 42)
CRASHING: Final = Update("update to a release that crashes", 41, 43, crashes=True)
UPDATES: Final = (INSTALL, UPDATE, CRASHING)


class Point(NamedTuple):
    """One thing to try: the launches that are spoiled one after the other; fresh starts follow."""

    update: Update
    faults: tuple[Fault, ...]

    @property
    def name(self) -> str:
        return f"{self.update.name}: " + ", then ".join(f"{fault.mode.name} {fault.at}" for fault in self.faults)


# In the recovery: killed twice, torn after a kill, and a start on a disk that is full from its first change on.
_AGAIN: Final = ((KILLED, KILLED), (KILLED, TORN), (TORN, KILLED), (KILLED, FULL), (FULL, KILLED))


def once(update: Update, operations: int, every: int = 1) -> Iterator[Point]:
    """Yield every change in every way, or every so many-th."""
    for mode, at in product(MODES, range(1, operations + 1, every)):
        yield Point(update, (Fault(mode, at),))


def again(update: Update, operations: int, every: int, then_every: int) -> Iterator[Point]:
    """Yield damage to the recovery from damage: a sample, shifted from one change to the next so that all come up."""
    for number, at in enumerate(range(1, operations + 1, every)):
        for first, second in _AGAIN:
            for then in range(1 + number % then_every, operations + 1, then_every):
                yield Point(update, (Fault(first, at), Fault(second, then)))
