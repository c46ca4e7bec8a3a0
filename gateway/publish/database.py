"""The log's SQLite file: connect, migrate, append, trim, checkpoint. No threads and no policy.

* WAL with synchronous=FULL: a commit returns after the fsync, and readers never wait for it or hold it up.
* Numbered SQL in `schemas/sql/log` is applied in order, each file in one transaction with its number in user_version.
* Rows go in many per statement: each statement gives up the interpreter's lock, and taking it back from a busy event
  loop costs more than the insert.
"""

import sqlite3
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from schemas.topics import TOPICS

FILE_NAME: Final = "log.db"
PAGE_BYTES: Final = 4096
# How long to wait for a reader that rebuilds the index of the WAL after a crash; writers take turns elsewhere.
_BUSY_SECONDS: Final = 5.0
# What the WAL is cut back to once all of it has been copied into the database.
_WAL_KEEP_BYTES: Final = 64 * 1024 * 1024
_ROWS_PER_STATEMENT: Final = 256

Row = tuple[bytes, bytes, bytes]  # key, headers, value


class UnknownVersion(Exception):
    """The file was made by a newer version of this software."""


def connect(path: Path) -> sqlite3.Connection:
    """Open the file, made where it is missing. Raises sqlite3.Error."""
    # The thread that opens it is not the thread that writes; they never overlap.
    database = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        database.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        if database.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise sqlite3.OperationalError("the file system does not support SQLite's WAL mode")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA fullfsync = ON")  # macOS: fsync alone leaves the data in the drive's cache
        database.execute("PRAGMA wal_autocheckpoint = 0")
        # Debian builds SQLite to overwrite what is deleted: trimming would write every record a second time.
        database.execute("PRAGMA secure_delete = OFF")
        database.execute(f"PRAGMA journal_size_limit = {_WAL_KEEP_BYTES}")
    except BaseException:
        database.close()
        raise
    return database


def migrations() -> list[tuple[int, str]]:
    """Return (number, SQL) of each migration, in order."""
    found = [file for file in files("schemas").joinpath("sql/log").iterdir() if file.name.endswith(".sql")]
    return sorted((int(file.name.split("_")[0]), file.read_text(encoding="utf-8")) for file in found)


def migrate(database: sqlite3.Connection, steps: Sequence[tuple[int, str]]) -> None:
    """Bring the schema up to date. Raises sqlite3.Error, or `UnknownVersion` where it is ahead of the steps."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version > max(number for number, _ in steps):
        raise UnknownVersion(f"the log's schema is version {version}; this software knows {steps[-1][0]}")
    for number, sql in steps:
        if number > version:
            try:
                database.executescript(f"BEGIN IMMEDIATE;\n{sql}\nPRAGMA user_version = {number};\nCOMMIT;")
            except sqlite3.Error:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise


def identity(database: sqlite3.Connection) -> str:
    (name,) = database.execute("SELECT identity FROM log").fetchone()
    return str(name)


@cache
def _insert(topic: str, rows: int) -> str:
    return f"INSERT INTO {topic} (key, headers, value) VALUES " + ",".join(["(?,?,?)"] * rows)  # noqa: S608 - from TOPICS


def append(database: sqlite3.Connection, topic: str, values: Sequence[bytes]) -> None:
    """Insert rows: key, headers, value, key, headers, value... in order."""
    at, left = 0, len(values) // 3
    while left:
        # Powers of two, so that a handful of prepared statements serves every size of group.
        rows = min(_ROWS_PER_STATEMENT, 1 << (left.bit_length() - 1))
        database.execute(_insert(topic, rows), values[at : at + 3 * rows])
        at += 3 * rows
        left -= rows


def live_bytes(database: sqlite3.Connection) -> int:
    """Return the bytes of all pages in use, whichever process filled them; the file keeps its free pages for reuse."""
    (free,) = database.execute("PRAGMA freelist_count").fetchone()
    return size_bytes(database) - int(free) * PAGE_BYTES


def size_bytes(database: sqlite3.Connection) -> int:
    """Return the bytes of all pages: what the file has, or will have once the WAL is copied into it."""
    (pages,) = database.execute("PRAGMA page_count").fetchone()
    return int(pages) * PAGE_BYTES


def next_offsets(database: sqlite3.Connection) -> dict[str, int]:
    """Return the next offset to be given out, by topic."""
    found: dict[str, int] = dict(database.execute("SELECT name, seq FROM sqlite_sequence"))
    return {topic: found.get(topic, 0) for topic in TOPICS}


def oldest_offsets(database: sqlite3.Connection, ends: Mapping[str, int]) -> dict[str, int]:
    """Return the oldest offset still there, by topic; the end where none is."""
    oldest = {topic: database.execute(f"SELECT min(number) FROM {topic}").fetchone()[0] for topic in TOPICS}  # noqa: S608
    return {topic: ends[topic] if number is None else number - 1 for topic, number in oldest.items()}


def trim(database: sqlite3.Connection, topic: str, floor: int, max_records: int, max_bytes: int) -> int:
    """Delete records below the offset `floor`, oldest first and only a step of them; return how many."""
    # length() of a blob reads the row's head only; deleting walks all of its pages, so a step is bounded by bytes too.
    query = f"SELECT number, length(value) FROM {topic} WHERE number <= ? ORDER BY number LIMIT ?"  # noqa: S608
    last, count, total = 0, 0, 0
    for number, size in database.execute(query, (floor, max_records)).fetchall():
        last, count, total = number, count + 1, total + size
        if total >= max_bytes:
            break
    if count:
        database.execute(f"DELETE FROM {topic} WHERE number <= ?", (last,))  # noqa: S608
    return count


def touch(database: sqlite3.Connection) -> None:
    """Dirty a page, so that the commit writes and syncs."""
    database.execute("UPDATE log SET created_at = created_at")


def empty_wal(database: sqlite3.Connection) -> None:
    """Copy all of the WAL into the database and cut it to nothing, waiting for readers. Raises sqlite3.Error."""
    busy, _, _ = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy:
        raise sqlite3.OperationalError(f"a reader has not let go of the WAL for {_BUSY_SECONDS:g} s")


def checkpoint(database: sqlite3.Connection, *, wait_ms: int = 0) -> int:
    """Copy the WAL into the database; return the bytes that the WAL had come to hold.

    Without `wait_ms` nobody waits, and the WAL starts over once no reader needs its old end. With it, writing pauses up
    to that long for readers to let go: what it takes where some reader is always at work.
    """
    mode = "RESTART" if wait_ms else "PASSIVE"
    database.execute(f"PRAGMA busy_timeout = {wait_ms}")
    try:
        _, frames, _ = database.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    finally:
        database.execute(f"PRAGMA busy_timeout = {int(_BUSY_SECONDS * 1000)}")
    return int(frames) * PAGE_BYTES
