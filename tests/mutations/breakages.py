"""Read the list of deliberate breakages, `client.toml`."""

import tomllib
from pathlib import Path
from typing import Final, NamedTuple

LIST: Final = Path(__file__).with_name("client.toml")


class Breakage(NamedTuple):
    """One change of one file below gateway/client, and the tests that have to notice it."""

    name: str
    file: str
    text: str
    instead: str
    tests: tuple[str, ...]


def breakages() -> list[Breakage]:
    """Return the list in its order."""
    found = tomllib.loads(LIST.read_text(encoding="utf-8"))["breakage"]
    return [Breakage(**{**each, "tests": tuple(each["tests"])}) for each in found]
