"""Keep what the store says in memory, so that a request never waits for the store.

* A snapshot is immutable and replaced whole; a request keeps the one it began with.
* Every refresh lists the store and reads only what is new. Documents never change, so a number read once is done.
* What is written is in force within `refresh_seconds`: what a refresh takes is taken off the pause before it.
* A document that cannot be read is logged, and the last good one of its series stays: one bad app never blocks another.
* When the store fails, the last good snapshot stays, with its age and the trouble in words.
* A series that a listing leaves out stays as it was: documents are only ever added.
* What an unread document may hold is not denied: whether a key is unknown can be said only of an app whose newest
  document was read (`unread`), and only by a look at the store that began after the question (`refreshed`).
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from gateway.releases.apps import read_app
from gateway.releases.documents import APPS, CATALOGUES, KEYS, ROLLOUTS, Series, parse_path
from gateway.releases.errors import BadDocument
from gateway.releases.rules import (
    ModelRules,
    model_rules,
    read_catalogue,
    read_keys,
    read_rollout,
    with_keys,
    worth_riding,
)
from gateway.releases.store import NotFound, Store, StoreError
from schemas.releases import App, Catalogue, KeyList, Rollout
from schemas.wire import SignedKeys

_log = logging.getLogger(__name__)
# A store that hangs is as good as down, and has to be said so; object stores answer within seconds.
_LONGEST_REFRESH_SECONDS: Final = 60.0
# Enough to hide an object store's round trip at the first read, few enough not to be throttled.
_READS_AT_ONCE: Final = 16
# Questions about keys that nobody made must not become as many listings of the store.
_BETWEEN_ASKED_SECONDS: Final = 1.0

Document = App | ModelRules | Rollout | tuple[SignedKeys, KeyList]


class KeyHolder(Struct, frozen=True):
    """Whose app key it is."""

    app: str
    revoked: bool


class Snapshot(Struct, frozen=True):
    """All that a request needs, immutable. `keys` is by the SHA-256 digest (32 bytes) of the app key's text."""

    keys: Mapping[bytes, KeyHolder]
    apps: Mapping[str, Mapping[str, ModelRules]]
    loaded_at_ms: int


class SnapshotKeeper:
    """Holds the current snapshot and refreshes it in the background."""

    def __init__(
        self,
        store: Store,
        *,
        inline_bytes: int = 8192,
        base_url: str = "/",
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start with an empty snapshot: `open` reads the first one, as `refresh` does the next."""
        self._store: Final = store
        self._inline_bytes: Final = inline_bytes
        self._base_url: Final = base_url
        self._now_ms: Final = now_ms
        self._monotonic: Final = monotonic
        self._good: Final[dict[Series, tuple[int, Document]]] = {}
        self._damaged: dict[str, str] = {}
        self._unread: frozenset[str] = frozenset()
        self._turn: Final = asyncio.Lock()
        self._asked: asyncio.Task[None] | None = None
        self._asked_at = -math.inf
        self._trouble: str | None = None
        self._current = Snapshot({}, {}, 0)
        self._outdated = True
        self._read_at = monotonic()
        self._tasks: Final[set[asyncio.Task[None]]] = set()

    @classmethod
    async def open(
        cls, store: Store, *, refresh_seconds: float, inline_bytes: int = 8192, base_url: str = "/"
    ) -> "SnapshotKeeper":
        """Read a first snapshot and keep refreshing it. Raises `StoreError` when the store cannot be listed."""
        keeper = cls(store, inline_bytes=inline_bytes, base_url=base_url)
        await keeper._read_store()
        keeper._begin(keeper._keep_refreshing(refresh_seconds))
        return keeper

    @property
    def current(self) -> Snapshot:
        """The newest good snapshot."""
        return self._current

    @property
    def age_seconds(self) -> float:
        """Seconds since the store was last read without trouble."""
        return self._monotonic() - self._read_at

    @property
    def damaged(self) -> Mapping[str, str]:
        """Documents that stand in the store but cannot be used, by path, each with the reason."""
        return self._damaged

    @property
    def unread(self) -> frozenset[str]:
        """The apps whose newest document could not be read: they may have keys that are not in the snapshot."""
        return self._unread

    def trouble(self) -> str | None:
        """Why the last refresh could not read the store; None when it could. Damaged documents are no trouble here."""
        return self._trouble

    async def refresh(self) -> None:
        """Read what is new. Never raises for the store's sake: the last good snapshot stays."""
        try:
            # In turn: of two at once, the one that listed first could put back what the other has replaced.
            async with self._turn, asyncio.timeout(_LONGEST_REFRESH_SECONDS):
                await self._read_store()
        except StoreError as error:
            self._note_trouble(str(error))
        except TimeoutError:
            self._note_trouble(f"the store did not answer within {_LONGEST_REFRESH_SECONDS:.0f} seconds")

    async def refreshed(self) -> None:
        """Return after a refresh that began after this call; one serves all who wait, and one a second is begun."""
        if self._asked is None:
            self._asked = self._begin(self._refresh_for_all())
        await asyncio.shield(self._asked)

    async def close(self) -> None:
        """Stop refreshing."""
        for task in list(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    def _begin(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="snapshot-refresh")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _refresh_for_all(self) -> None:
        await asyncio.sleep(max(0.0, self._asked_at + _BETWEEN_ASKED_SECONDS - self._monotonic()))
        async with self._turn:  # a refresh that is under way may have listed the store already
            self._asked_at, self._asked = self._monotonic(), None
        await self.refresh()

    async def _keep_refreshing(self, refresh_seconds: float) -> None:
        took_seconds = 0.0
        while True:
            await asyncio.sleep(pause_seconds(refresh_seconds, took_seconds))
            began = self._monotonic()
            try:
                await self.refresh()
            except Exception:  # the loop's boundary: a defect here must not freeze the snapshot for ever
                _log.exception("snapshot refresh failed")
                self._trouble = "the snapshot refresh failed in an unforeseen way: see the log"
            took_seconds = self._monotonic() - began

    async def _read_store(self) -> None:
        damaged: dict[str, str] = {}
        failures: list[str] = []
        turn = asyncio.Semaphore(_READS_AT_ONCE)

        async def read(series: Series, numbers: list[int]) -> None:
            async with turn:
                try:
                    await self._read_series(series, numbers, damaged)
                except StoreError as error:
                    failures.append(str(error))

        news = await self._list_news()
        try:
            async with asyncio.TaskGroup() as reading:
                for series, numbers in news.items():
                    reading.create_task(read(series, numbers))
        finally:  # what was read before a time-out or a defect counts
            self._publish()
            self._unread = frozenset(series.app for series in news if self._is_unread(series, max(news[series])))
        self._note_damaged(damaged)
        if failures:
            self._note_trouble(failures[0])
        else:
            self._read_at, self._trouble = self._monotonic(), None

    def _is_unread(self, series: Series, number: int) -> bool:
        return series.kind == APPS and (series not in self._good or self._good[series][0] < number)

    async def _list_news(self) -> dict[Series, list[int]]:
        """Return the numbers above the one held, by series. Raises `StoreError`."""
        news: dict[Series, list[int]] = {}
        for kind in (APPS, KEYS, CATALOGUES, ROLLOUTS):
            for found in map(parse_path, await self._store.names(kind)):
                if found is not None:
                    series, number = found
                    if series not in self._good or number > self._good[series][0]:
                        news.setdefault(series, []).append(number)
        return news

    async def _read_series(self, series: Series, numbers: list[int], damaged: dict[str, str]) -> None:
        """Hold the newest good document of these numbers, if any is good. Raises `StoreError`."""
        for number in sorted(numbers, reverse=True):
            path = series.path(number)
            try:
                document = await self._read(series, number, await self._store.get(path))
            except BadDocument as error:
                damaged[path] = str(error)
            else:
                self._good[series] = number, document
                self._outdated = True
                return

    def _publish(self) -> None:
        if self._outdated:
            self._current = _snapshot(self._good, self._now_ms())
            self._outdated = False

    async def _read(self, series: Series, number: int, stored: bytes) -> Document:
        if series.kind == APPS:
            return read_app(stored, series.app, number)
        if series.kind == KEYS:
            return read_keys(stored, series.app, number)
        if series.kind == ROLLOUTS:
            return read_rollout(stored, series.app, series.model)
        signed, catalogue = read_catalogue(stored, series.app, series.model, number)
        inline = await self._small_artifacts(series, catalogue)
        return model_rules(signed, catalogue, self._base_url, inline)

    async def _small_artifacts(self, series: Series, catalogue: Catalogue) -> Mapping[str, bytes]:
        """Return the bytes of the downloads that may ride in a reply, by their SHA-256."""
        earlier = self._good.get(series)
        held = earlier[1].inline if earlier and isinstance(earlier[1], ModelRules) else {}
        inline: dict[str, bytes] = {}
        for download in (each for release in catalogue.releases for each in worth_riding(release)):
            if download.size > self._inline_bytes:
                continue
            hashed = download.path.rpartition("/")[2]
            data = held.get(hashed) or await self._artifact(download.path, hashed)
            if data is not None:
                inline[hashed] = data
        return inline

    async def _artifact(self, path: str, hashed: str) -> bytes | None:
        # Without the bytes the device still gets the catalogue, and may find them at another base URL.
        try:
            data = await self._store.get(path)
        except NotFound:
            _log.warning("%s is listed in a catalogue but not in the store", path)
            return None
        if sha256(data).hexdigest() != hashed:
            _log.warning("%s does not have the hash that it is named for", path)
            return None
        return data

    def _note_damaged(self, damaged: dict[str, str]) -> None:
        for path, reason in damaged.items():
            if self._damaged.get(path) != reason:
                _log.error("%s %s; what was there before stays in force", path, reason)
        self._damaged = damaged

    def _note_trouble(self, trouble: str) -> None:
        if self._trouble is None:
            _log.error("the store cannot be read, the last good snapshot stays: %s", trouble)
        self._trouble = trouble


def pause_seconds(refresh_seconds: float, took_seconds: float) -> float:
    """Return how long to wait after a refresh that took so long.

    What is written right after its listing waits for its end, the pause and the next one, which has more to read: twice
    as long is allowed for that. A store that is slower than that is not asked without a pause.
    """
    return max(refresh_seconds / 2, refresh_seconds - 3 * took_seconds)


def _snapshot(good: Mapping[Series, tuple[int, Document]], now_ms: int) -> Snapshot:
    keys: dict[bytes, KeyHolder] = {}
    apps: dict[str, dict[str, ModelRules]] = {}
    for series, (_, document) in good.items():
        if isinstance(document, App):
            for key in document.keys:
                keys[bytes.fromhex(key.sha256)] = KeyHolder(document.app, revoked=key.revoked_at is not None)
        elif isinstance(document, ModelRules):
            rollout, listed = good.get(series._replace(kind=ROLLOUTS)), good.get(Series(KEYS, series.app))
            if rollout is not None and isinstance(rollout[1], Rollout):
                document = replace(document, rollout=rollout[1])
            if listed is not None and isinstance(listed[1], tuple):
                document = with_keys(document, series.model, *listed[1])
            apps.setdefault(series.app, {})[series.model] = document
    return Snapshot(keys, apps, now_ms)
