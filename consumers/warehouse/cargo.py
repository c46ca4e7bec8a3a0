"""What the lanes ask of a topic's own part: how its records become rows, and which of them are stored already."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from consumers.warehouse.plans import Lane
from consumers.warehouse.tables import Tables
from schemas.records import StoredRecord


class Item(Protocol):
    """A record made ready."""

    @property
    def expected(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def unreadable(self) -> bool: ...


class Missing(NamedTuple):
    """Rows to write, in pieces; how many records were sent again; how many events the others hold, written or not."""

    rows: list[bytes]
    resends: int
    events: int


class Cargo(Protocol):
    """What is particular to a topic: how its records become rows, and which of them are stored already."""

    @property
    def table(self) -> str: ...
    @property
    def structure(self) -> str: ...
    def read(self, lane: Lane, record: StoredRecord, safe: bool, now_ms: int) -> Any: ...
    async def missing(self, tables: Tables, items: Sequence[Any], again: bool) -> Missing: ...
