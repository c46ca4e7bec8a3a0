"""What the campaign's devices hold: every batch they made, and what they were told about it, durable against kill -9.

* One SQLite file for all devices of a process. A batch is journaled before it is sent, and its answer before the next.
* What is acknowledged here and not in the warehouse is lost; this file is the measure.
"""

import sqlite3
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS batches (
  batch TEXT PRIMARY KEY, device TEXT NOT NULL, seq INTEGER NOT NULL, events INTEGER NOT NULL, ids TEXT NOT NULL,
  body BLOB NOT NULL, refused TEXT, first_try REAL NOT NULL, acknowledged REAL);
CREATE TABLE IF NOT EXISTS resends (batch TEXT NOT NULL, same INTEGER NOT NULL);
"""


class Sent(Struct, frozen=True):
    """A batch: its prediction ids in order; `refused` is None until it was acknowledged."""

    batch: str
    device: str
    seq: int
    ids: list[int]
    body: bytes
    refused: list[int] | None = None
    waited_seconds: float = 0.0


class Journal:
    """The file, opened by one process at a time."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _SCHEMA)

    def add(self, sent: Sent, now: float) -> None:
        self._database.execute(
            "INSERT INTO batches (batch, device, seq, events, ids, body, first_try) VALUES (?,?,?,?,?,?,?)",
            (sent.batch, sent.device, sent.seq, len(sent.ids), msgspec.json.encode(sent.ids), sent.body, now),
        )

    def acknowledge(self, batch: str, refused: list[int], now: float) -> None:
        self._database.execute(
            "UPDATE batches SET refused = ?, acknowledged = ? WHERE batch = ? AND refused IS NULL",
            (msgspec.json.encode(refused), now, batch),
        )

    def all(self) -> list[Sent]:
        """Return the batches, in the order of each device."""
        rows = self._database.execute(
            "SELECT batch, device, seq, ids, body, refused, coalesce(acknowledged - first_try, 0) FROM batches "
            "ORDER BY device, seq"
        )
        return [
            Sent(batch, device, seq, msgspec.json.decode(ids), body, refused and msgspec.json.decode(refused), waited)
            for batch, device, seq, ids, body, refused, waited in rows
        ]

    def unacknowledged(self) -> list[Sent]:
        return [sent for sent in self.all() if sent.refused is None]

    def resent(self, batch: str, *, same: bool) -> None:
        """Note that an acknowledged batch was acknowledged again, and whether the answer was the one it had."""
        self._database.execute("INSERT INTO resends VALUES (?, ?)", (batch, same))

    def resends(self) -> tuple[int, int]:
        """Return how many resends were answered, and how many of them otherwise than the first time."""
        answered, other = self._database.execute("SELECT count(*), coalesce(sum(NOT same), 0) FROM resends").fetchone()
        return int(answered), int(other)

    def next_seq(self, device: str) -> int:
        (seq,) = self._database.execute(
            "SELECT coalesce(max(seq), 0) + 1 FROM batches WHERE device = ?", (device,)
        ).fetchone()
        return int(seq)

    def close(self) -> None:
        self._database.close()
