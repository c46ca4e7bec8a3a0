"""A consumer's positions on the embedded log, kept so that a crash leaves either the old ones or the new ones."""

import os
from pathlib import Path

import msgspec

from schemas.positions import DIRECTORY, SUFFIX, ConsumerName, Positions


def positions_path(directory: Path, consumer: str) -> Path:
    """Return where they are kept. Raises ValueError for a name that is not a plain file name."""
    return directory / DIRECTORY / f"{msgspec.convert(consumer, ConsumerName)}{SUFFIX}"


def load(path: Path) -> Positions | None:
    """Return what was kept; None for a new consumer. Raises OSError, or ValueError for a damaged file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Positions)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise ValueError(f"{path} is damaged; without it all records still there are read again: {error}") from error


def keep(path: Path, positions: Positions) -> None:
    """Write them beside the old ones, sync, then rename over them. Raises OSError."""
    path.parent.mkdir(exist_ok=True)
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        file.write(msgspec.json.encode(positions))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
