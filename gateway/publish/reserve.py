"""How much the log's files may still grow on their disk, so that a reserve stays free whatever waits in them.

* The reserve is what draining needs where the log itself has filled the disk: a consumer's position, by which space is
  given back, the WAL of the trimming, and whatever writes beside it (ClickHouse stops at 128 MiB free).
* The WAL lives in the reserve: it is copied into the database every few megabytes, and starts over.
* Only the log keeps to it: what others write can still fill the disk.
"""

import os
from pathlib import Path
from typing import Final

_WAL_SUFFIX: Final = "-wal"


def growth_bytes(database: Path, size_bytes: int, reserve_bytes: int) -> int:
    """Return by how much the database may grow beyond `size_bytes`, to which the WAL is about to bring it.

    Negative where the reserve is broken into. Raises OSError.
    """
    disk = os.statvfs(database)
    wal_bytes = _file_bytes(database.with_name(database.name + _WAL_SUFFIX))
    not_yet_copied_bytes = max(0, size_bytes - _file_bytes(database))
    return disk.f_bavail * disk.f_frsize + wal_bytes - not_yet_copied_bytes - reserve_bytes


def fill(database: Path, held_bytes: int, max_bytes: int, reserve_bytes: int) -> float:
    """Return how full a log is that holds so much: 1 is its bound, or all that its disk leaves it. Raises OSError."""
    if not database.exists():
        return 0.0
    return min(1.0, held_bytes / max(min(max_bytes, most_bytes(database, reserve_bytes)), 1))


def most_bytes(database: Path, reserve_bytes: int) -> int:
    """Return how much the database may hold: not above 0 where its disk takes none. Raises OSError."""
    file_bytes = _file_bytes(database)
    return file_bytes + growth_bytes(database, file_bytes, reserve_bytes)


def _file_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
