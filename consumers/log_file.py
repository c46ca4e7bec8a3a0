"""The embedded log's SQLite file, read: short queries on a read-only connection. No threads and no policy.

* Read-only: a consumer cannot hold SQLite's write lock, and so cannot delay an acknowledgement.
* Every query ends its read transaction before it returns, so the writer's checkpoints are not held up.
"""

import sqlite3
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import msgspec

from schemas.records import Headers, StoredRecord

# How long to wait while another process rebuilds the index of the WAL after a crash.
_BUSY_SECONDS: Final = 5.0
_headers = msgspec.msgpack.Decoder(Headers)


def known_version() -> int:
    """Return the schema version that this software reads: the number of the newest SQL file."""
    steps = files("schemas").joinpath("sql/log").iterdir()
    return max(int(step.name.split("_")[0]) for step in steps if step.name.endswith(".sql"))


class LogFile:
    """Connected when needed. Every method raises sqlite3.Error; after one, `drop` and go on."""

    def __init__(self, directory: Path) -> None:
        self.path = directory.resolve() / "log.db"
        self._connection: sqlite3.Connection | None = None

    def version(self) -> int:
        """Return the schema version; 0 while the log is being made."""
        (version,) = self._one("PRAGMA user_version")
        return int(version)

    def identity(self) -> str:
        """Return the name of this very log."""
        (identity,) = self._one("SELECT identity FROM log")
        return str(identity)

    def end(self, topic: str) -> int:
        """Return the next offset that will be given out."""
        row = self._one("SELECT seq FROM sqlite_sequence WHERE name = ?", topic)
        return int(row[0]) if row else 0

    def held_bytes(self) -> int:
        """Return what the records take: the file less what is free in it, which never shrinks."""
        (held,) = self._one(
            "SELECT (page_count - freelist_count) * page_size"
            " FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
        )
        return int(held)

    def select(self, topic: str, first: int, max_records: int, max_bytes: int) -> list[StoredRecord]:
        """Return records from `first` on, in order, at least one if there is any; the topic must be a known one."""
        query = f"SELECT number - 1, key, headers, value FROM {topic} WHERE number > ? ORDER BY number LIMIT ?"  # noqa: S608
        found: list[StoredRecord] = []
        size = 0
        with closing(self._connected().execute(query, (first, max_records))) as rows:
            for offset, key, headers, value in rows:
                size += len(key) + len(headers) + len(value)
                if found and size > max_bytes:
                    break
                found.append(StoredRecord(topic, 0, offset, key, value, _headers.decode(headers)))
        return found

    def drop(self) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _one(self, sql: str, *parameters: Any) -> Any:
        with closing(self._connected().execute(sql, parameters)) as cursor:
            return cursor.fetchone()

    def _connected(self) -> sqlite3.Connection:
        if self._connection is None:
            uri = f"{self.path.as_uri()}?mode=ro"
            # One thread reads, another may close: they never overlap.
            self._connection = sqlite3.connect(
                uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        return self._connection
