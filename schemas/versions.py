"""Compare dotted versions: which SDK and which system can run which release.

* A version is 1 to 4 dotted numbers ("2.3.0"); a suffix after "-" or "+" is ignored; missing numbers are 0.
* A specifier is comma-separated comparisons (">=2.3,<3"), all of which must hold; the empty one always holds.
* A system is a name and a version ("iOS 19.1"), a clause on systems a name and a specifier ("iOS >=17").
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
_OS: Final = re.compile(r"\s*([^<>=!]*?)\s*((?:[<>=!].*)?)", re.ASCII)
# iPads have said "iPadOS" since 13; its versions, and what Core ML can do in each, are those of iOS.
_SAME_RUNTIME: Final = {"ipados": "ios"}
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


@lru_cache(maxsize=1024)
def os_target(text: str) -> tuple[str, str]:
    """Split "iOS >=17" into the system's name, in lower case, and the specifier; both may be empty.

    Raises ValueError.
    """
    match = _OS.fullmatch(text)
    if match is None:
        raise ValueError(f"not a system and a comparison such as 'iOS >=17': {text!r}")
    return match.group(1).lower(), match.group(2)


def split_os(os: str) -> tuple[str, str]:
    """Split "iOS 19.1" into the system's name, in lower case, and its version, empty where it says none."""
    name, _, version = os.rpartition(" ")
    if not name or not version[:1].isdigit():
        name, version = os, ""
    return name.lower(), version


@lru_cache(maxsize=4096)
def os_is(os: str, wanted: str) -> bool:
    """Say whether a system is one that a clause means. Raises ValueError for an unreadable clause."""
    wanted_name, specifier = os_target(wanted)
    name, version = split_os(os)
    return wanted_name in ("", name) and satisfies(version, specifier)


@lru_cache(maxsize=4096)
def os_can_run(os: str, needed: str) -> bool:
    """Say whether a system is not one that a clause rules out: a clause on iOS says nothing about Android.

    Raises ValueError for an unreadable clause.
    """
    needed_name, specifier = os_target(needed)
    name, version = split_os(os)
    return needed_name not in ("", name, _SAME_RUNTIME.get(name)) or satisfies(version, specifier)
