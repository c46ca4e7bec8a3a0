"""What a row is, and what came of it."""

from collections.abc import Awaitable, Callable
from typing import Final, Generic, Literal, TypeVar

from msgspec import Struct

Outcome = Literal["passed", "failed", "skipped"]
# What a row about updates is skipped with where nothing was ever published.
NO_CATALOGUE: Final = "the app has no catalogue"
PHONE_ONLY: Final = "only a phone can show it"

World = TypeVar("World")
Check = Callable[[World], Awaitable[None]]


class Failed(Exception):
    """What was seen is not what is required; the text says both."""


class Skipped(Exception):
    """The row cannot be shown here; the text says why."""


class Result(Struct, frozen=True):
    """One row's outcome; `why` is empty for what passed."""

    row: str
    sentence: str
    outcome: Outcome
    why: str = ""


class Row(Struct, Generic[World], frozen=True):
    """A rule: its name, what happens and what is required then. Without a check, only a phone can show it."""

    name: str
    sentence: str
    check: Check[World] | None
    skipped_because: str = ""


class Rows(Generic[World]):
    """The rows of one table, in the order in which they were written down."""

    def __init__(self) -> None:
        self.rows: list[Row[World]] = []

    def row(self, name: str | int, sentence: str) -> Callable[[Check[World]], Check[World]]:
        """Add the function as a row."""

        def add(check: Check[World]) -> Check[World]:
            self.rows.append(Row(str(name), sentence, check))
            return check

        return add

    def skipped(self, name: str | int, sentence: str, because: str) -> None:
        """Add a row that cannot be shown from outside."""
        self.rows.append(Row(str(name), sentence, None, because))

    def phone_only(self, name: str | int, sentence: str, because: str) -> None:
        """Add a row that nothing outside a phone can show."""
        self.skipped(name, sentence, f"{PHONE_ONLY}: {because}")


def require(holds: object, otherwise: str) -> None:
    """Raises `Failed`."""
    if not holds:
        raise Failed(otherwise)
