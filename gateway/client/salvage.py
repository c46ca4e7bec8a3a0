"""What a new device file takes from the one that was set aside: what keeps a revoked release from coming back.

* Taken over is what no reply would repeat: the models' states (catalogue, floor, releases) and the key list. Their
  signatures are checked again wherever they are read, as at every launch. The time agreed on is not: nothing signs it.
* The events of the old file belong to its identity, so they are not sent; they are counted as dropped, "storage_lost".
* Predictions are numbered on from where the old file was: an outcome that the app reports for one of those before must
  not become that of another one.
* Each table is read for itself, and only rows of the kind that we write: what is damaged takes nothing else with it.
"""

import logging
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, Final

logger = logging.getLogger(__name__)

_LOST: Final = "storage_lost"
# What may be over in a moment, and then the table can be read.
_PASSING: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_CANTOPEN}
# A damaged table may show its only row twice.
_COUNT: Final = "SELECT {0} FROM device WHERE typeof({0}) = 'integer' AND {0} BETWEEN 1 AND {1} LIMIT 1"
_MOST_NUMBERED: Final = 10**12  # more is damage; numbers go on from here, and JSON holds them up to 2**53


def salvage(aside: Path, tx: sqlite3.Connection) -> None:
    """Take over what can be read of a file, inside the transaction that makes the new one. Raises `sqlite3.Error`."""
    with closing(sqlite3.connect(aside)) as old:
        models = _rows(old, "SELECT model, state FROM models WHERE typeof(model) = 'text' AND typeof(state) = 'blob'")
        keys = _rows(old, "SELECT keys FROM trust WHERE typeof(keys) = 'blob'")
        # More than any queue holds is damage, and every batch would repeat it.
        events = _rows(old, _COUNT.format("queued_events", 1_000_000))
        numbered = _rows(old, _COUNT.format("predictions", _MOST_NUMBERED))
    tx.executemany("INSERT INTO models (model, state) VALUES (?, ?) ON CONFLICT DO NOTHING", models)
    tx.executemany("INSERT INTO trust (only, keys) VALUES (1, ?) ON CONFLICT DO NOTHING", keys)
    tx.executemany("UPDATE device SET predictions = ?", numbered)
    for (lost,) in events:
        tx.execute("UPDATE device SET produced = produced + ?", (lost,))
        tx.execute("INSERT INTO dropped (reason, events) VALUES (?, ?)", (_LOST, lost))
    logger.warning("of %s, %d models are taken over; events lost: %s", aside, len(models), events)


def _rows(old: sqlite3.Connection, query: str) -> list[tuple[Any, ...]]:
    try:
        return old.execute(query).fetchall()
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING:
            raise
        logger.warning("a table cannot be read any more", exc_info=True)
        return []
