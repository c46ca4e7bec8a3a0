"""A device file that cannot be used is set aside: its models and keys are taken over, and its events counted."""

import sqlite3
from pathlib import Path

import pytest

from gateway.client.limits import Limits
from gateway.client.queue import Queue
from gateway.client.storage import Storage
from schemas.wire import Ledger
from tests.device_files import PREDICTION, damage_events, kept_by_a_client, newer


@pytest.mark.parametrize("damage", [b"not a database at all" * 200, b"", b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_damaged_file_is_set_aside_and_a_new_identity_begins(tmp_path: Path, damage: bytes) -> None:
    storage = Storage(tmp_path)
    device = Queue(storage, Limits()).standing().device
    storage.close()
    (tmp_path / "device.db").write_bytes(damage)
    storage = Storage(tmp_path)
    queue = Queue(storage, Limits())
    assert storage.kept
    assert queue.standing().device != device
    assert queue.predicted(PREDICTION, ["a"]) == (1, 1)
    assert (tmp_path / "device.db.damaged").exists() == bool(damage)
    storage.close()


def test_a_file_of_a_newer_client_is_set_aside_its_events_counted_its_models_and_keys_kept(tmp_path: Path) -> None:
    device = kept_by_a_client(tmp_path)
    newer(tmp_path)
    for _ in range(2):  # a second launch counts nothing again
        storage = Storage(tmp_path)
        queue = Queue(storage, Limits())
        assert storage.kept
        assert (tmp_path / "device.db.damaged").exists()
        assert queue.standing().device != device
        assert queue.ledger() == Ledger(3, {"storage_lost": 3})
        assert (storage.states(), storage.keys()) == ({"upsell": b"a state with its floor"}, b"a key list")
        storage.close()


def test_a_table_that_cannot_be_read_takes_nothing_else_with_it(tmp_path: Path) -> None:
    kept_by_a_client(tmp_path)
    damage_events(tmp_path)
    storage = Storage(tmp_path)
    assert (tmp_path / "device.db.damaged").exists()
    assert Queue(storage, Limits()).ledger() == Ledger(3, {"storage_lost": 3})
    assert (storage.states(), storage.keys()) == ({"upsell": b"a state with its floor"}, b"a key list")
    storage.close()


def test_a_process_killed_while_its_file_is_replaced_loses_nothing_more(tmp_path: Path) -> None:
    kept_by_a_client(tmp_path)
    (tmp_path / "device.db").rename(tmp_path / "device.db.aside")
    (tmp_path / "device.db").touch()  # made, and then the process was killed
    storage = Storage(tmp_path)
    assert storage.states() == {"upsell": b"a state with its floor"}
    assert Queue(storage, Limits()).ledger() == Ledger(3, {"storage_lost": 3})
    storage.close()


def test_a_row_that_damage_shows_twice_is_taken_once(tmp_path: Path) -> None:
    kept_by_a_client(tmp_path)
    with sqlite3.connect(tmp_path / "device.db") as file:
        file.execute("ALTER TABLE device RENAME TO was")
        file.execute("CREATE TABLE device AS SELECT * FROM was UNION ALL SELECT * FROM was")
        file.execute("PRAGMA user_version = 99")
    file.close()
    storage = Storage(tmp_path)
    assert storage.kept
    assert Queue(storage, Limits()).ledger() == Ledger(3, {"storage_lost": 3})
    storage.close()
