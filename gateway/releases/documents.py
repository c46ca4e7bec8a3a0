"""Numbered documents of the store: where they stand, which is the newest, and how the next one is written.

* `<kind>/<owner>/<number>.json`, the number in ten digits so that a listing is in order.
* A series only grows: number n + 1 is written by whoever is first, and the other is told so.
"""

import re
from typing import Final, Literal, NamedTuple

from gateway.releases.errors import SomeoneWroteInBetween
from gateway.releases.store import AlreadyExists, Store

APPS: Final = "apps"
CATALOGUES: Final = "catalogues"
ROLLOUTS: Final = "rollouts"
PROPOSALS: Final = "proposals"
KEYS: Final = "keys"

Kind = Literal["apps", "keys", "catalogues", "rollouts", "proposals"]
_SLUG: Final = r"[a-z0-9][a-z0-9_-]{0,63}"
_PATH: Final = re.compile(
    rf"(?:(apps|keys)/({_SLUG})|(catalogues|rollouts|proposals)/({_SLUG})/({_SLUG}))/(\d{{10}})\.json", re.ASCII
)


class Series(NamedTuple):
    """One growing row of documents. `model` is empty for an app's and its keys'."""

    kind: str
    app: str
    model: str = ""

    @property
    def prefix(self) -> str:
        """The directory of the series."""
        return "/".join(filter(None, self))

    def path(self, number: int) -> str:
        """Where document `number` stands."""
        return f"{self.prefix}/{number:010d}.json"


def parse_path(path: str) -> tuple[Series, int] | None:
    """Return the series and the number of a path; None where it is not a document's."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    app_kind, app, kind, owner, model, number = match.groups()
    series = Series(app_kind, app) if app_kind else Series(kind, owner, model)
    return series, int(number)


def artifact_path(sha256: str) -> str:
    """Where the bytes with that hash stand."""
    return f"artifacts/{sha256}"


async def newest(store: Store, series: Series) -> tuple[int, bytes] | None:
    """Return the newest document of a series and its number; None when there is none yet. Raises `StoreError`."""
    numbers = [found[1] for found in map(parse_path, await store.names(series.prefix)) if found and found[0] == series]
    if not numbers:
        return None
    return max(numbers), await store.get(series.path(max(numbers)))


async def append(store: Store, series: Series, number: int, document: bytes) -> None:
    """Write document `number`, which must be new. Raises `SomeoneWroteInBetween` or `StoreError`."""
    path = series.path(number)
    try:
        await store.put_new(path, document)
    except AlreadyExists as error:
        # A write whose answer was lost is tried again, and then finds itself: it says who wrote it, and when.
        if await store.get(path) != document:
            raise someone_wrote(series, number) from error


def someone_wrote(series: Series, number: int) -> SomeoneWroteInBetween:
    """Say that the number is taken."""
    return SomeoneWroteInBetween(
        f"someone else wrote {series.path(number)} in the meantime: look at what changed, then run this again"
    )
