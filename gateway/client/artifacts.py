"""The device's artifact files: whole ones under their SHA-256, unfinished downloads beside them.

* A file under `models/` was checked before it got its name, and gets it by a rename: it is whole or not there.
* What the state does not name is swept; names are relative to the directory, since an app's container may move.
"""

import os
import shutil
from collections.abc import Callable, Set
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

FreeBytes = Callable[[Path], int]


class Artifacts:
    """The files below the client's directory."""

    def __init__(self, directory: Path, room: FreeBytes | None = None) -> None:
        """Take the directory, and what says how much of the disk it may fill: by default, what is free."""
        self._directory = directory
        self._room = room or free_bytes
        self._models = directory / "models"
        self._parts = directory / "parts"

    def read(self, digest: str) -> bytes | None:
        """Return an artifact, or None when it is missing or no longer what its name says."""
        try:
            data = (self._models / digest).read_bytes()
        except OSError:
            return None
        return data if sha256(data).hexdigest() == digest else None

    def store(self, digest: str, data: bytes) -> None:
        """Keep a checked artifact. Raises OSError."""
        self._models.mkdir(parents=True, exist_ok=True)
        temporary = self._models / f"{digest}.new"
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._models / digest)
        sync_directory(self._models)

    def part(self, digest: str) -> "Part":
        """Return the unfinished download of these wire bytes. Raises OSError."""
        self._parts.mkdir(parents=True, exist_ok=True)
        return Part(self._parts / digest)

    def free_bytes(self) -> int:
        """Return the space left. Raises OSError."""
        return self._room(self._directory)

    def sweep(self, artifacts: Set[str], parts: Set[str]) -> None:
        """Delete every file that is not named."""
        delete_others(self._models, artifacts)
        delete_others(self._parts, parts | {f"{name}.etag" for name in parts})


class Part:
    """A download that may be interrupted at any byte, and the entity tag under which it can go on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._tag_path = path.with_name(f"{path.name}.etag")

    def standing(self) -> tuple[int, str]:
        """Return (bytes there, entity tag); (0, "") where there is nothing to go on from. Raises OSError."""
        try:
            tag = self._tag_path.read_text()
            return (self._path.stat().st_size, tag) if tag else (0, "")
        except FileNotFoundError:
            return 0, ""

    def restart(self, tag: str) -> None:
        """Begin again at byte 0. Raises OSError."""
        self._path.write_bytes(b"")
        self._tag_path.write_text(tag)

    def append(self, data: bytes) -> None:
        """Raises OSError."""
        with self._path.open("ab") as file:
            file.write(data)

    def content(self) -> bytes:
        """Raises OSError."""
        return self._path.read_bytes()

    def discard(self) -> None:
        """Forget it; what cannot be deleted now is swept later."""
        with suppress(OSError):
            self._tag_path.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)


def delete_others(directory: Path, keep: Set[str]) -> None:
    """Delete the files that are not named; what cannot be deleted goes next time."""
    try:
        others = [file for file in directory.iterdir() if file.name not in keep]
    except OSError:  # nothing there yet
        return
    for file in others:
        with suppress(OSError):
            file.unlink()


def free_bytes(directory: Path) -> int:
    """Return how much is free where a directory lies. Raises OSError."""
    return shutil.disk_usage(directory).free


def sync_directory(directory: Path) -> None:
    """Make the names in it outlive power. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
