"""What tests do to a device's file: fill it as a client does, make it one that cannot be used, or damage it."""

import sqlite3
from pathlib import Path
from typing import Final

from gateway.client.limits import Limits
from gateway.client.queue import Queue
from gateway.client.storage import Storage, write_keys, write_state
from schemas.wire import Prediction

PREDICTION: Final = Prediction(0, 1_000, "upsell", 1, "bundled", 0.5, True, signals=[0.5])


def kept_by_a_client(directory: Path) -> str:
    """Leave a file with three events, a model and a key list. Return the device."""
    storage = Storage(directory)
    queue = Queue(storage, Limits())
    for _ in range(3):
        queue.predicted(PREDICTION, ["a"])
    with storage.transaction() as tx:
        write_state(tx, "upsell", b"a state with its floor")
        write_keys(tx, b"a key list")
    device = queue.standing().device
    storage.close()
    return device


def newer(directory: Path) -> None:
    """Make the file one of a newer client, which this one cannot use."""
    with sqlite3.connect(directory / "device.db", timeout=5) as file:
        file.execute("PRAGMA user_version = 99")
    file.close()


def damage_events(directory: Path) -> None:
    """Overwrite the page of the events."""
    with sqlite3.connect(directory / "device.db") as file:
        page = file.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'events'").fetchone()[0]
    file.close()
    data = bytearray((directory / "device.db").read_bytes())
    data[(page - 1) * 4096 : page * 4096] = b"\xa5" * 4096
    (directory / "device.db").write_bytes(data)
