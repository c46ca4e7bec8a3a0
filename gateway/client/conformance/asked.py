"""A gateway that is asked as a device asks it, and the golden vectors that it is asked with."""

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
from msgspec import Struct

import schemas
from gateway.client.conformance.results import Skipped, require
from schemas.wire import Reply

_VECTORS: Final = Path(schemas.__file__).parent / "vectors"
JSON: Final = {"Content-Type": "application/json"}


class Answer(Struct, frozen=True):
    """A response, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    def reply(self) -> Reply:
        """Read it as a reply. Raises `Failed`."""
        require(self.status == 200, f"answered {self.status}, not 200: {self.body[:200]!r}")
        return msgspec.json.decode(self.body, type=Reply)


class Asked(Protocol):
    """A gateway, and as whom it is asked."""

    app: str
    model: str
    trusted: Mapping[str, bytes]
    keys: Mapping[str, str]
    read_only: bool = False
    url: str = ""
    key_list: int = 0  # the version of the app's key list that it is told of

    def __init__(self, app: str, model: str, trusted: Mapping[str, bytes], keys: Mapping[str, str]) -> None:
        self.app, self.model, self.trusted, self.keys = app, model, trusted, keys

    async def get(self, path: str, **headers: str) -> Answer:
        """Get a path of the gateway, or a URL."""
        ...

    async def send(self, body: bytes, headers: Mapping[str, str], key: str | None) -> Answer:
        """Post a body as a batch under one of the keys."""
        ...

    async def post(self, body: bytes, headers: Mapping[str, str] = JSON, key: str | None = "known") -> Answer:
        """Post what the gateway keeps. Raises `Skipped` where it may not."""
        if self.read_only:
            raise Skipped("read only: the gateway would keep what is sent")
        return await self.send(body, headers, key)

    def batch(self, *events: bytes, **changes: Any) -> bytes:
        """Return a new device's batch."""
        told = {"device": str(uuid.uuid4()), "batch": str(uuid.uuid4()), "seq": 1, "sent_at": now_ms(), "sdk": "2.3.0"}
        whole = {**told, **changes, "events": [msgspec.Raw(event) for event in events]}
        return msgspec.json.encode(whole)

    async def update(self, **have: Any) -> tuple[Answer, Reply]:
        """Send the update check of a device that has this; of a new one, unless it is named."""
        signals, device = have.pop("signals", []), have.pop("device", str(uuid.uuid4()))
        told = {"have": {self.model: have}, "signals": {self.model: signals}, "keys": self.key_list}
        answer = await self.post(self.batch(**told, device=device))
        return answer, answer.reply()


def text_of(vector: dict[str, Any]) -> bytes:
    """Return the event's JSON text as the vector has it."""
    return vector["json"].encode() if "json" in vector else msgspec.json.encode(vector["event"])


def vectors(name: str) -> Any:
    """Return a file of golden vectors."""
    return msgspec.json.decode((_VECTORS / f"{name}.json").read_bytes())


def now_ms() -> int:
    """Return this machine's clock."""
    return time.time_ns() // 1_000_000
