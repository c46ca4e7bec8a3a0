"""How the embedded log's schema is brought up to date."""

import sqlite3
from pathlib import Path

import pytest

from gateway.publish import database
from schemas.topics import BATCHES


def test_migrations_run_once_each_and_a_failed_one_leaves_nothing(tmp_path: Path) -> None:
    log = database.connect(tmp_path / "log.db")
    first = database.migrations()
    database.migrate(log, first)
    database.append(log, BATCHES, [b"key", b"\x90", b"value"])
    name = database.identity(log)
    good = [*first, (2, "ALTER TABLE log ADD COLUMN note TEXT;")]
    bad = [*good, (3, "CREATE TABLE half (a); CREATE TABLE half (a);")]
    with pytest.raises(sqlite3.OperationalError):
        database.migrate(log, bad)
    assert log.execute("PRAGMA user_version").fetchone() == (2,)
    assert log.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (0,)
    database.migrate(log, good)
    assert database.identity(log) == name
    assert log.execute("SELECT value FROM batches").fetchall() == [(b"value",)]
    with pytest.raises(database.UnknownVersion):
        database.migrate(log, first)
    log.close()
