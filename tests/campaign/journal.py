"""What the campaign's devices hold: every batch they made, and what they were told about it, durable against kill -9.

* One SQLite file for all devices of a process. A batch is journaled before it is sent, and its answer before the next.
* What is acknowledged here and not in the warehouse is lost; this file is the measure.
"""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS batches (
  batch TEXT PRIMARY KEY, device TEXT NOT NULL, seq INTEGER NOT NULL, body BLOB NOT NULL, malformed INTEGER NOT NULL,
  produced INTEGER NOT NULL, dropped TEXT NOT NULL, refused TEXT, first_try REAL NOT NULL, acknowledged REAL);
CREATE UNIQUE INDEX IF NOT EXISTS in_order ON batches (device, seq);
CREATE TABLE IF NOT EXISTS resends (batch TEXT NOT NULL, same INTEGER NOT NULL);
"""
_RESENDS: Final = 8
_COLUMNS: Final = "batch, device, seq, body, malformed, produced, dropped, refused"

Refused = dict[int, str]  # index: reason


class Sent(Struct, frozen=True, kw_only=True):
    """A batch; `refused` is None until it was acknowledged. `produced` and `dropped` are the ledger behind it.

    A malformed one is a body that is no batch: its acknowledgement is the 400 that tells its device to drop it.
    """

    batch: str
    device: str
    seq: int
    body: bytes
    malformed: bool = False
    produced: int = 0
    dropped: dict[str, int] = {}
    refused: Refused | None = None
    waited_seconds: float = 0.0


class Journal:
    """The file, opened by one process at a time."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;" + _SCHEMA)

    def add(self, sent: Sent, now: float) -> None:
        self._database.execute(
            f"INSERT INTO batches ({_COLUMNS}, first_try) VALUES (?,?,?,?,?,?,?,NULL,?)",  # noqa: S608 - constants
            (
                *(sent.batch, sent.device, sent.seq, sent.body, sent.malformed),
                *(sent.produced, msgspec.json.encode(sent.dropped), now),
            ),
        )

    def acknowledge(self, batch: str, refused: Refused, now: float) -> None:
        self._database.execute(
            "UPDATE batches SET refused = ?, acknowledged = ? WHERE batch = ? AND refused IS NULL",
            (msgspec.json.encode(refused), now, batch),
        )

    def all(self) -> list[Sent]:
        """Return the batches, in the order of each device."""
        return self._found("TRUE ORDER BY device, seq", {})

    def unacknowledged(self) -> list[Sent]:
        return self._found("refused IS NULL ORDER BY device, seq", {})

    def one(self, device: str, seq: int) -> Sent | None:
        """Return the device's batch of that number."""
        return next(iter(self._found("device = :device AND seq = :seq", {"device": device, "seq": seq})), None)

    def newest(self, device: str) -> Sent | None:
        """Return the device's last batch, whose ledger the next one continues."""
        return next(iter(self._found("device = :device ORDER BY seq DESC LIMIT 1", {"device": device})), None)

    def resent(self, batch: str, *, same: bool) -> None:
        """Note that an acknowledged batch was acknowledged again, and whether the answer was the one it had."""
        self._database.execute("INSERT INTO resends VALUES (?, ?)", (batch, same))

    def resends(self) -> tuple[int, int]:
        """Return how many resends were answered, and how many of them otherwise than the first time."""
        answered, other = self._database.execute("SELECT count(*), coalesce(sum(NOT same), 0) FROM resends").fetchone()
        return int(answered), int(other)

    def has_answers(self) -> bool:
        """Say whether a batch was acknowledged."""
        return bool(
            self._database.execute("SELECT EXISTS (SELECT 1 FROM batches WHERE refused IS NOT NULL)").fetchone()[0]
        )

    def has_all_kinds(self) -> bool:
        """Say whether events were accepted, events were refused and some batches were sent again.

        Less would prove little: a batch sent again at once may stand in one range with the first.
        """
        (found,) = self._database.execute(
            "SELECT EXISTS (SELECT 1 FROM batches WHERE CAST(refused AS TEXT) = '{}' AND NOT malformed)"
            " + EXISTS (SELECT 1 FROM batches WHERE CAST(refused AS TEXT) LIKE '{_%}')"
            " + ((SELECT count(*) FROM resends) >= ?)",
            (_RESENDS,),
        ).fetchone()
        return int(found) == 3

    def close(self) -> None:
        self._database.close()

    def _found(self, where: str, parameters: Mapping[str, object]) -> list[Sent]:
        waited = "coalesce(acknowledged - first_try, 0) AS waited_seconds"
        rows = self._database.execute(f"SELECT {_COLUMNS}, {waited} FROM batches WHERE {where}", parameters)  # noqa: S608
        names = [name for name, *_ in rows.description]
        return [_sent(dict(zip(names, row, strict=True))) for row in rows]


def _sent(row: dict[str, Any]) -> Sent:
    row["dropped"] = msgspec.json.decode(row["dropped"])
    row["refused"] = row["refused"] and msgspec.json.decode(row["refused"], type=Refused)
    return msgspec.convert(row, Sent, strict=False)
