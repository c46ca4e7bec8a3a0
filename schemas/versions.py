"""Compare dotted versions: which SDK can run which release.

* A version is 1 to 4 dotted numbers ("2.3.0"); a suffix after "-" or "+" is ignored; missing numbers are 0.
* A specifier is comma-separated comparisons (">=2.3,<3"), all of which must hold; the empty one always holds.
* Pure tuples, no library: the same dozen lines stand in every SDK, and the golden vectors hold them together.
"""

import operator
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

Version = tuple[int, int, int, int]

_VERSION: Final = re.compile(r"(\d{1,9})(?:\.(\d{1,9}))?(?:\.(\d{1,9}))?(?:\.(\d{1,9}))?(?:[-+].*)?", re.ASCII)
_CLAUSE: Final = re.compile(r"\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*", re.ASCII)
_OPERATORS: Final[dict[str, Callable[[Version, Version], bool]]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


def parse_version(text: str) -> Version:
    """Return four numbers. Raises ValueError."""
    match = _VERSION.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"not a version of 1 to 4 dotted numbers: {text!r}")
    major, minor, patch, build = (int(part or 0) for part in match.groups())
    return (major, minor, patch, build)


@lru_cache(maxsize=1024)
def parse_specifier(text: str) -> tuple[tuple[str, Version], ...]:
    """Return (operator, version) pairs. Raises ValueError."""
    clauses = []
    for part in filter(str.strip, text.split(",")):
        match = _CLAUSE.fullmatch(part)
        if match is None:
            raise ValueError(f"not a comparison such as '>=2.3': {part.strip()!r}")
        clauses.append((match.group(1), parse_version(match.group(2))))
    return tuple(clauses)


@lru_cache(maxsize=4096)
def satisfies(version: str, specifier: str) -> bool:
    """Say whether the version meets every comparison; an unreadable version meets only the empty specifier.

    Raises ValueError for an unreadable specifier: that is the publisher's mistake, not the device's.
    """
    clauses = parse_specifier(specifier)
    if not clauses:
        return True
    try:
        parsed = parse_version(version)
    except ValueError:
        return False
    return all(_OPERATORS[symbol](parsed, bound) for symbol, bound in clauses)
