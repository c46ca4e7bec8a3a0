"""The device's one SQLite file: its transactions, its two strengths of commit, and what happens when it breaks.

* An ordinary commit survives the process being killed; a durable one (`durable=True`) also survives losing power.
* A file that is damaged, or from a newer client, is set aside and a new one made: with a new identity, because sequence
  numbers start again and must not collide with those already sent. What else can be read of the old one is taken over
  with the first transaction of the new one (`salvage`).
* Of the app's processes one replaces it, alone (`turn`) and while it keeps the others from writing, as far as the old
  file still takes a lock. They notice at the beginning of their next transaction and go on with the new file.
* A file that cannot be opened at all (no space, no permission, not unlocked yet) is left alone: the session then keeps
  its rows in memory, sends nothing under a made-up identity, and moves into the file when it can be opened after all.
"""

import fcntl
import gzip
import logging
import sqlite3
import uuid
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from gateway.client.salvage import salvage
from gateway.client.turn import turn

logger = logging.getLogger(__name__)

VERSION: Final = 5
_DAMAGED: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_BESIDE: Final = ("-shm", "-wal")  # what SQLite keeps beside a file, and finds by its name
_OPENED_AT_MOST: Final = 2  # in one transaction; there are file systems that name a file otherwise each time
_ASIDE: Final = ".aside"  # until the new file has taken over what can be read
_SCHEMA: Final = """
CREATE TABLE device (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    device TEXT NOT NULL,
    produced INTEGER NOT NULL DEFAULT 0,
    predictions INTEGER NOT NULL DEFAULT 0,
    seq INTEGER NOT NULL DEFAULT 0,
    queued_events INTEGER NOT NULL DEFAULT 0,
    queued_bytes INTEGER NOT NULL DEFAULT 0,
    contact_ms INTEGER NOT NULL DEFAULT 0,
    wait_until_ms INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    flush BLOB
) STRICT;
CREATE TABLE dropped (reason TEXT PRIMARY KEY, events INTEGER NOT NULL) STRICT, WITHOUT ROWID;
-- The names of the values that predictions carry: an app update may change them while older events still wait.
CREATE TABLE carried (id INTEGER PRIMARY KEY, model TEXT NOT NULL, names TEXT NOT NULL, UNIQUE (model, names)) STRICT;
CREATE TABLE events (position INTEGER PRIMARY KEY, prediction INTEGER, carried INTEGER, body BLOB NOT NULL) STRICT;
CREATE TABLE frozen (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    batch TEXT NOT NULL, seq INTEGER NOT NULL, last INTEGER NOT NULL, events INTEGER NOT NULL, body BLOB NOT NULL
) STRICT;
CREATE TABLE models (model TEXT PRIMARY KEY, state BLOB NOT NULL) STRICT, WITHOUT ROWID;
"""
# What each version changes in the one before.
_ADDED: Final = {
    2: "CREATE TABLE trust (only INTEGER PRIMARY KEY CHECK (only = 1), keys BLOB NOT NULL) STRICT",
    3: "UPDATE frozen SET body = unpacked(body)",  # a batch was kept compressed, as it was sent
    4: "ALTER TABLE device ADD COLUMN mark_ms INTEGER NOT NULL DEFAULT 0",
    5: "ALTER TABLE device ADD COLUMN refused_key TEXT NOT NULL DEFAULT ''",
}


class StorageFailed(Exception):
    """What was asked could not be written or read; `reason` is the name under which a lost event is counted."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def write_state(tx: sqlite3.Connection, model: str, state: bytes) -> None:
    """Replace what is kept of a model."""
    tx.execute(
        "INSERT INTO models (model, state) VALUES (?, ?) ON CONFLICT (model) DO UPDATE SET state = excluded.state",
        (model, state),
    )


def read_state(tx: sqlite3.Connection, model: str) -> bytes | None:
    """Return what is kept of a model."""
    row = tx.execute("SELECT state FROM models WHERE model = ?", (model,)).fetchone()
    return None if row is None else bytes(row[0])


def write_keys(tx: sqlite3.Connection, signed: bytes) -> None:
    """Replace the key list."""
    tx.execute("INSERT INTO trust (only, keys) VALUES (1, ?) ON CONFLICT DO UPDATE SET keys = excluded.keys", (signed,))


def write_mark(tx: sqlite3.Connection, mark_ms: int) -> None:
    """Raise the highest time that was agreed on."""
    tx.execute("UPDATE device SET mark_ms = max(mark_ms, ?)", (mark_ms,))


class _Unusable(Exception):
    """A file that this client cannot use and must replace."""


class Storage:
    """The connection to `device.db`."""

    def __init__(self, directory: Path, busy_seconds: float = 0.5) -> None:
        """Open; to open, and in each transaction, it waits up to `busy_seconds` for another process of the app."""
        self._busy_seconds = busy_seconds
        self._path = directory / "device.db"
        self._lock = directory / "open.lock"
        self.kept = True
        self.generation = 0  # rises when the file is replaced: what was read from the old one no longer holds
        self._opened: tuple[int, int] | None = None
        self._connection = self._open()

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Everything inside is committed, or nothing. Raises `StorageFailed`."""
        try:
            connection = self._begin(durable)
            yield connection
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._give_up(self._connection)
            raise self._failed(error) from error
        except BaseException:
            self._give_up(self._connection)
            raise
        finally:
            if durable:
                with suppress(sqlite3.Error):
                    self._connection.execute("PRAGMA synchronous = NORMAL")

    @contextmanager
    def opened_at_last(self) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
        """Open the file that could not be opened before. Give the memory and, durable, the file's first transaction.

        When that is committed, the file is what is kept. Raises `StorageFailed`.
        """
        try:
            file = self._file(0)
        except (OSError, sqlite3.Error, _Unusable) as error:
            raise StorageFailed("storage") from error
        memory, self._connection = self._connection, file
        try:
            with self.transaction(durable=True) as tx:
                if self._has_another():  # since just now: what is written here is lost
                    raise StorageFailed("storage")
                yield memory, tx
        except BaseException:
            self.close()
            self._connection = memory
            raise
        memory.close()
        self.kept = True
        self.generation += 1

    def states(self) -> dict[str, bytes]:
        """Return what is kept of every model. Raises `StorageFailed`."""
        with self.transaction() as tx:
            return dict(tx.execute("SELECT model, state FROM models").fetchall())

    def keys(self) -> bytes | None:
        """Return the key list that was accepted. Raises `StorageFailed`."""
        with self.transaction() as tx:
            row = tx.execute("SELECT keys FROM trust").fetchone()
            return None if row is None else bytes(row[0])

    def mark_ms(self) -> int:
        """Return the highest time that was agreed on. Raises `StorageFailed`."""
        with self.transaction() as tx:
            return int(tx.execute("SELECT mark_ms FROM device").fetchone()[0])

    def changes_by_others(self) -> tuple[int, int]:
        """Return what changes when another process commits, or the file is replaced. Raises `StorageFailed`."""
        if self._replaced():
            self._open_again()
        try:
            version = int(self._connection.execute("PRAGMA data_version").fetchone()[0])
        except sqlite3.Error as error:
            raise self._failed(error) from error
        return self.generation, version

    def close(self) -> None:
        """Close; what is open is kept as it is."""
        try:
            with turn(self._lock, fcntl.LOCK_SH, self._busy_seconds):  # else a name that changes hands meanwhile
                self._connection.close()
        except BlockingIOError:
            self._connection.close()

    def _begin(self, durable: bool) -> sqlite3.Connection:
        """Begin a transaction in the file that has the name now."""
        opened = 0
        while True:
            connection = self._connection
            if durable:
                connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE")
            if opened == _OPENED_AT_MOST or not self._replaced():
                return connection
            opened += 1
            self._open_again()

    def _replaced(self) -> bool:
        """Say whether another process has replaced the file that is kept."""
        return self.kept and self._has_another()

    def _has_another(self) -> bool:
        try:
            return _identity(self._path) != self._opened
        except OSError:  # what is open goes on working
            return False

    def _open_again(self) -> None:
        logger.warning("%s is opened again", self._path)
        self.close()
        self._connection = self._open()
        self.generation += 1

    def _give_up(self, connection: sqlite3.Connection) -> None:
        if connection.in_transaction:
            try:
                connection.execute("ROLLBACK")
            except sqlite3.Error:  # the next BEGIN tells whether the file still works
                logger.warning("could not roll back", exc_info=True)

    def _failed(self, error: sqlite3.Error) -> StorageFailed:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
        if code in _DAMAGED or self._replaced():
            logger.error("%s cannot be used any more", self._path, exc_info=error)
            self._open_again()
        return StorageFailed("disk_full" if code == sqlite3.SQLITE_FULL else "storage")

    def _open(self) -> sqlite3.Connection:
        try:
            return self._file(self._busy_seconds)
        except (OSError, sqlite3.Error, _Unusable):
            logger.exception("%s cannot be opened; until it can be, all is in memory", self._path)
        self.kept = False
        return _connect(Path(":memory:"), self._busy_seconds)

    def _file(self, wait_seconds: float) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(_Unusable), turn(self._lock, fcntl.LOCK_SH, wait_seconds):
            return self._usable()
        with turn(self._lock, fcntl.LOCK_EX, wait_seconds):
            try:
                return self._usable()  # another process may have replaced it by now
            except _Unusable as error:
                logger.warning("%s is set aside: %s", self._path, error)
            with _unwritten(self._path, self._busy_seconds):
                self._set_aside()
                connection = self._made()
                with suppress(OSError):  # nobody takes anything from it again
                    _move(_aside(self._path), _named(self._path, ".damaged"))
                return connection

    def _usable(self) -> sqlite3.Connection:
        if not self._path.exists() and any(_named(self._path, suffix).exists() for suffix in (*_BESIDE, _ASIDE)):
            raise _Unusable("it is gone, and what belongs to it is not: a process was killed while it replaced it")
        return self._made()

    def _made(self) -> sqlite3.Connection:
        """Return a connection to the file, made where there is none, with what was set aside if that is so."""
        connection = _connect(self._path, self._busy_seconds)
        try:
            self._opened = _identity(self._path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self) -> None:
        aside = _aside(self._path)
        if self._path.exists():
            _move(self._path, aside)
        elif aside.exists():  # a process was killed in between
            _move_beside(self._path, aside)
        else:  # somebody has deleted the file that it belonged to
            _unlink_beside(self._path)


def _move(path: Path, to: Path) -> None:
    """Rename a file in place of another, and last what is beside it: a kill in between is seen by that."""
    _unlink_beside(to)  # SQLite would read it with this file
    if path.exists():
        path.replace(to)
    _move_beside(path, to)


def _move_beside(path: Path, to: Path) -> None:
    for suffix in _BESIDE:
        if _named(path, suffix).exists():
            _named(path, suffix).replace(_named(to, suffix))


def _unlink_beside(path: Path) -> None:
    for suffix in _BESIDE:
        _named(path, suffix).unlink(missing_ok=True)


@contextmanager
def _unwritten(path: Path, busy_seconds: float) -> Iterator[None]:
    """Keep others from writing to a file, as far as it still takes a lock. Raises `sqlite3.Error` if one is busy."""
    if not path.exists():
        yield
        return
    file = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None)
    try:
        try:
            file.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY:
                raise
        yield
    finally:
        file.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from any other that has its name later; None where there is none. Raises OSError."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _connect(path: Path, busy_seconds: float) -> sqlite3.Connection:
    # Opening and settling run in a worker thread before anything else uses the connection.
    connection = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise _Unusable("quick_check found damage")
        _prepare(connection, path)
    except sqlite3.Error as error:
        connection.close()
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
            raise _Unusable(str(error)) from error
        raise
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    connection.create_function("unpacked", 1, _unpacked, deterministic=True)
    connection.execute("BEGIN IMMEDIATE")  # two processes may come first at once
    version = found = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        connection.execute("ROLLBACK")
        raise _Unusable(f"written by a newer client: version {version}")
    if version == 0:
        for statement in _SCHEMA.split(";\n"):
            connection.execute(statement)
        connection.execute("INSERT INTO device (only, device) VALUES (1, ?)", (str(uuid.uuid4()),))
        version = 1
    if version < VERSION:
        for added in range(version + 1, VERSION + 1):
            connection.execute(_ADDED[added])
        connection.execute(f"PRAGMA user_version = {VERSION}")
    if found == 0 and (aside := _aside(path)).exists():
        salvage(aside, connection)
    connection.execute("COMMIT")


def _aside(path: Path) -> Path:
    return _named(path, _ASIDE)


def _named(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _unpacked(body: bytes) -> bytes:
    try:
        return gzip.decompress(body)
    except (OSError, EOFError, zlib.error):  # raised, it would keep the file from ever being opened
        return b""
