"""Keep what the store says in memory, so that a request never waits for the store."""

from collections.abc import Mapping

from msgspec import Struct

from gateway.releases.rules import ModelRules
from gateway.releases.store import Store


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

    @classmethod
    async def open(cls, store: Store, *, refresh_seconds: float, inline_bytes: int, base_url: str) -> "SnapshotKeeper":
        """Load a first snapshot and start refreshing. Raises `StoreError` when the store cannot be read at all."""
        raise NotImplementedError

    @property
    def current(self) -> Snapshot:
        """The newest good snapshot."""
        raise NotImplementedError

    @property
    def age_seconds(self) -> float:
        """Seconds since the store was last read through."""
        raise NotImplementedError

    def trouble(self) -> str | None:
        """Why the last refresh failed; None when it did not."""
        raise NotImplementedError

    async def refresh(self) -> None:
        """Read what is new. Never raises for the store's sake: the last good snapshot stays."""
        raise NotImplementedError

    async def close(self) -> None:
        """Stop refreshing."""
        raise NotImplementedError
