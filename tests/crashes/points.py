"""What is done to a device: where in which update, and how often."""

from collections.abc import Iterator, Sequence
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
    """Where a device comes from and what it is offered; 0 stands for an app that was just installed.

    `way` is one of `ways`; `beside` lets a second process of the app live through it; the fresh starts have this SDK,
    and a clock that was set so many days ahead.
    """

    name: str
    before: int
    offered: int
    crashes: bool = False
    way: str = "whole"
    beside: bool = False
    sdk: str = "2.3.0"
    days_ahead: int = 0


INSTALL: Final = Update("first start and install", 0, 42)
UPDATE: Final = Update("update", 41, 42)
CRASHING: Final = Update("update to a release that crashes", 41, 43, crashes=True)
UPDATES: Final = (INSTALL, UPDATE, CRASHING)
# By other downloads than the whole file, which is the way out where these fail.
PACKED: Final = tuple(
    Update(f"by {way}", 41, 42, way=way) for way in ("patch", "patch of another base", "xz", "damaged xz")
)
# What else goes wrong once, beside the damage to the files.
TROUBLED: Final = (
    *(
        Update(way, 41, 42, way=way)
        for way in (
            "cut download",
            "portal's page",
            "404",
            "other bytes",
            "longer body",
            "lost reply",
            "forged catalogue",
        )
    ),
    Update("clock goes back a day", 41, 42, days_ahead=-1),
    Update("clock goes on 20 days", 41, 42, days_ahead=20),
    Update("SDK goes up", 41, 42, sdk="2.4.0"),
    Update("SDK goes down", 41, 42, sdk="2.2.0"),
)
SHARED: Final = Update("beside a second process", 41, 42, beside=True)


class Point(NamedTuple):
    """One thing to try: the launches that are spoiled one after the other; fresh starts follow."""

    update: Update
    faults: tuple[Fault, ...]

    @property
    def name(self) -> str:
        return f"{self.update.name}: " + ", then ".join(f"{fault.mode.name} {fault.at}" for fault in self.faults)


# In the recovery: killed twice, torn after a kill, and a start on a disk that is full from its first change on.
_AGAIN: Final = ((KILLED, KILLED), (KILLED, TORN), (TORN, KILLED), (KILLED, FULL), (FULL, KILLED))


def once(update: Update, operations: int, every: int = 1, modes: Sequence[Mode] = MODES) -> Iterator[Point]:
    """Yield every change in every way, or every so many-th."""
    for mode, at in product(modes, range(1, operations + 1, every)):
        yield Point(update, (Fault(mode, at),))


def again(update: Update, operations: int, every: int, then_every: int) -> Iterator[Point]:
    """Yield damage to the recovery from damage: a sample, shifted from one change to the next so that all come up."""
    for number, at in enumerate(range(1, operations + 1, every)):
        for first, second in _AGAIN:
            for then in range(1 + number % then_every, operations + 1, then_every):
                yield Point(update, (Fault(first, at), Fault(second, then)))
