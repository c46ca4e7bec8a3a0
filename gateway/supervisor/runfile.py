"""`run.json` in the data directory: who serves it and where, for commands that are given the same directory.

* Replaced whole on every change, readable by its owner only; removed at an orderly stop.
* A file left by a crash names processes that are gone: `read` gives nothing then.
"""

import os
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from gateway.supervisor.lock import is_alive

_FILE: Final = "run.json"


class Run(Struct, frozen=True):
    """A running `backhaul serve`: its process, its addresses, its children's processes by name.

    `embedded` says whether ClickHouse is one of the children; elsewhere others know the user and the password.
    `consumer_url` is where the warehouse consumer shows its numbers; empty where it does not. `kafka`: some brokers;
    empty where the log is a file.
    """

    pid: int
    gateway_url: str
    clickhouse_url: str
    children: dict[str, int] = {}
    embedded: bool = True
    consumer_url: str = ""
    kafka: str = ""


def write(directory: Path, run: Run) -> None:
    """Replace the file."""
    temporary = directory / f"{_FILE}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(run) + b"\n")
    temporary.replace(directory / _FILE)


def read(directory: Path) -> Run | None:
    """Return what runs in the directory; None where nothing does."""
    try:
        run = msgspec.json.decode((directory / _FILE).read_bytes(), type=Run)
    except (OSError, ValueError):  # msgspec's errors are ValueErrors
        return None
    return run if is_alive(run.pid) else None


def remove(directory: Path) -> None:
    """Remove the file, if it is there."""
    (directory / _FILE).unlink(missing_ok=True)
