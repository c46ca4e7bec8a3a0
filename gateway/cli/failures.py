"""How a command fails: one line on stderr that says what to do, and an exit code that scripts can use.

* 0 done, 1 failed or refused, 2 usage or configuration, 3 something could not be reached.
"""

from typing import Final

DONE: Final = 0
FAILED: Final = 1
MISUSED: Final = 2
UNREACHABLE: Final = 3


class CommandError(Exception):
    """A command that did not do what was asked; the text is one line for the user."""

    code = FAILED


class Misused(CommandError):
    """What was asked cannot be asked so."""

    code = MISUSED


class Unreachable(CommandError):
    """Something the command needs does not answer."""

    code = UNREACHABLE


def one_line(text: object) -> str:
    """Fold a message into one line."""
    return " ".join(str(text).split())
