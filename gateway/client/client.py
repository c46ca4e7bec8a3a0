"""The face of the reference device client: predict, say what came of it, flush.

* A prediction never touches the network and never raises because of the queue or the disk.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import aiohttp
from msgspec import Struct

from gateway.client.bundled import Bundled, Limits
from gateway.client.clock import Clock
from gateway.client.runtimes import Runtime
from schemas.wire import Ledger, Source, Use


class Predicted(Struct, frozen=True, gc=False):
    """A decision: `id` names it to `outcome` (0 when it could not be recorded), `score` is the positive label's."""

    id: int
    score: float
    decision: bool
    release: int
    source: Source
    explored: bool


class ModelStatus(Struct, frozen=True):
    """What runs of one model now, and what the last accepted catalogue and reply said."""

    release: int
    source: Source
    use: Use
    catalogue: int


class Status(Struct, frozen=True):
    """A device at a glance."""

    device: str
    queued_events: int
    queued_bytes: int
    frozen_batch: str | None
    contact_ms: int
    wait_seconds: float
    ledger: Ledger
    models: dict[str, ModelStatus]


class Client:
    """One install of an app."""

    def __init__(
        self,
        app_key: str,
        url: str,
        root_keys: Sequence[bytes],
        *,
        directory: Path,
        bundled: Mapping[str, Bundled],
        runtime: Runtime,
        sdk: str = "2.3.0",
        app_version: str = "",
        os: str = "",
        hardware: str = "",
        locale: str = "",
        positive: Mapping[str, str] | None = None,
        clock: Clock | None = None,
        dice: random.Random | None = None,
        session: aiohttp.ClientSession | None = None,
        limits: Limits | None = None,
    ) -> None:
        raise NotImplementedError

    async def open(self) -> Self:
        """Read the device's state, load its models and start the flush timer."""
        raise NotImplementedError

    async def close(self) -> None:
        """Stop; everything kept is on disk already."""
        raise NotImplementedError

    async def foreground(self) -> None:
        """The app came to the front: flush when something waits or the last contact is older than the lease."""
        raise NotImplementedError

    async def background(self) -> None:
        """The app leaves the front: flush what waits."""
        raise NotImplementedError

    def predict(self, model: str, signals: Mapping[str, float | None]) -> Predicted:
        """Decide. A signal that is missing or None is recorded as null, and the model is given 0.0 for it."""
        raise NotImplementedError

    def outcome(self, prediction: int, model: str, label: str, value: float = 0.0) -> None:
        """Record what came of a prediction."""
        raise NotImplementedError

    async def flush(self) -> str:
        """Send what waits, in one request or more; an empty queue sends an empty batch: the update check."""
        raise NotImplementedError

    def status(self) -> Status:
        raise NotImplementedError

    @property
    def ledger(self) -> Ledger:
        """Counts since install."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()
