"""The log's file as the writer uses it: reopened after an error, written in turn with other processes.

* Raises `StorageError` alone, and drops its connection then: what SQLite remembers of the file after a failed write is
  not to be trusted; a new connection reads it from the disk again.
* A new connection stores nothing before the WAL is empty. After an fsync that failed, Linux takes the pages for clean:
  a commit that SQLite finds again in the WAL may never reach the disk, and a power cut would end the WAL there, in
  front of everything that was acknowledged behind it. Copied into the database, the pages are written anew.
* Charges a request before it stores it, so the pages in use never pass `max_bytes`, whoever else writes, and the disk
  keeps its reserve. Beside them stands the WAL, some 64 MiB at most unless a reader stops in the middle of a read.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from gateway.publish import database
from gateway.publish.floors import floors
from gateway.publish.reserve import growth_bytes
from gateway.publish.turn import Turn

_TRIM_RECORDS: Final = 256
_TRIM_BYTES: Final = 4 * 1024 * 1024
# A WAL that grows beyond this, because some reader is always at work, is worth a pause of the writer.
_WAL_PATIENCE_BYTES: Final = 64 * 1024 * 1024
_WAL_PAUSE_MS: Final = 100

Rows = Sequence[tuple[str, bytes, bytes, bytes]]  # topic, key, headers, value


class StorageError(Exception):
    """The file cannot be opened, read or written."""


class Room(NamedTuple):
    """How many bytes of records still fit, and whether it is the disk that sets it, not `max_bytes`."""

    bytes: int
    set_by_disk: bool


class Stored(NamedTuple):
    """What became of each request, in which room, and how many old records were trimmed."""

    fits: list[bool]
    room: Room
    trimmed: int


class Extent(NamedTuple):
    """What the file holds: bytes in use, room, and by topic the oldest offset there and the next to be given out."""

    live_bytes: int
    room: "Room"
    oldest: Mapping[str, int]
    ends: Mapping[str, int]


class Storage:
    """One connection for one thread at a time. Every method but `close` raises `StorageError`."""

    def __init__(self, directory: Path, max_bytes: int, reserve_bytes: int) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._reserve_bytes = reserve_bytes
        self._turn: Turn | None = None
        self._connection: sqlite3.Connection | None = None
        self._identity = ""
        self._floors: Mapping[str, int] = {}
        self._wal_bytes = 0

    def store(self, requests: Sequence[Rows]) -> Stored:
        """Store the requests that fit, in one transaction with a step of trimming."""
        with self._writing() as connection:
            room = self._room(connection)
            fits, columns = _admit(requests, room.bytes)
            for topic, values in columns.items():
                database.append(connection, topic, values)
            steps = max(_TRIM_RECORDS, 2 * sum(map(len, requests)))  # so that trimming always outruns publishing
            trimmed = [database.trim(connection, t, floor, steps, _TRIM_BYTES) for t, floor in self._floors.items()]
            return Stored(fits, room, sum(trimmed))

    def probe(self) -> None:
        """Write and sync a page."""
        with self._writing() as connection:
            database.touch(connection)

    def survey(self) -> Extent:
        """Look at the file and at the consumers' positions, which set how far the next steps trim."""
        with self._failing() as connection:
            ends = database.next_offsets(connection)
            live, room = database.live_bytes(connection), self._room(connection)
            extent = Extent(live, room, database.oldest_offsets(connection, ends), ends)
            self._floors = floors(self._directory, self._identity, ends)
        return extent

    def to_trim(self, extent: Extent) -> bool:
        """Say whether records lie below what every consumer has read."""
        return any(floor > extent.oldest[topic] for topic, floor in self._floors.items())

    def checkpoint(self) -> None:
        """Copy the WAL into the database, so that it can start over."""
        wait_ms = _WAL_PAUSE_MS if self._wal_bytes > _WAL_PATIENCE_BYTES else 0
        with self._failing() as connection, self._turns().mine():
            self._wal_bytes = database.checkpoint(connection, wait_ms=wait_ms)

    def close(self) -> None:
        """Let go of the file; the last connection to it also empties the WAL."""
        self._drop()
        if self._turn is not None:
            self._turn.close()
            self._turn = None

    def _room(self, connection: sqlite3.Connection) -> Room:
        live, size = database.live_bytes(connection), database.size_bytes(connection)
        bound = self._max_bytes - live
        growth = growth_bytes(self._directory / database.FILE_NAME, size, self._reserve_bytes)
        on_disk = growth + size - live  # free pages are filled before the file grows
        return Room(min(bound, on_disk), on_disk < bound)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, synced when the block ends."""
        with self._failing() as connection, self._turns().mine():
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def _failing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection, made where there is none; drop it if the block fails."""
        try:
            yield self._connected()
        except BaseException as error:
            self._drop()
            if isinstance(error, (sqlite3.Error, OSError, database.UnknownVersion)):
                raise StorageError(str(error)) from error
            raise

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            with self._turns().mine():
                self._connection = database.connect(self._directory / database.FILE_NAME)
                database.empty_wal(self._connection)
                database.migrate(self._connection, database.migrations())
                self._identity = database.identity(self._connection)
        return self._connection

    def _turns(self) -> Turn:
        if self._turn is None:
            self._turn = Turn(self._directory)
        return self._turn

    def _drop(self) -> None:
        """Close the connection, which also rolls back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _admit(requests: Sequence[Rows], room: int) -> tuple[list[bool], dict[str, list[bytes]]]:
    """Decide whole requests, first come, first stored; gather the columns of those that fit by topic."""
    fits: list[bool] = []
    columns: dict[str, list[bytes]] = {}
    for rows in requests:
        charge = sum(map(charge_bytes, rows))
        fits.append(charge <= room)
        if charge <= room:
            room -= charge
            for topic, *row in rows:
                columns.setdefault(topic, []).extend(row)
    return fits, columns


def charge_bytes(row: tuple[str, bytes, bytes, bytes]) -> int:
    """Return no less than the pages that a row fills: it may leave most of its last page empty."""
    return len(row[1]) + len(row[2]) + len(row[3]) + database.PAGE_BYTES
