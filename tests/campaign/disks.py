"""Small disks of their own for what keeps data, and how one becomes full."""

import asyncio
import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

_CHUNK_BYTES: Final = 256 * 1024
_TOP_UP_SECONDS: Final = 0.1
# What was begun before the warning is written by then.
_WARNED_SECONDS: Final = 1.5


class Disk:
    """A file system in memory, mounted over a directory by `mount`."""

    def __init__(self, directory: Path, warning_bytes: int) -> None:
        self._directory = directory
        self._warning_bytes = warning_bytes
        self._ballast = directory / "ballast"

    @classmethod
    def mount(cls, directory: Path, megabytes: int, warning_megabytes: int = 0) -> "Disk | None":
        """Make the disk; None where file systems may not be mounted.

        With a warning it becomes full in two steps: so much is left for a while, as on a disk that fills up slowly.
        """
        directory.mkdir(parents=True, exist_ok=True)
        program = shutil.which("mount")
        if program is None:
            return None
        made = subprocess.run(
            [program, "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", directory], capture_output=True, check=False
        )
        return cls(directory, warning_megabytes * 1024 * 1024) if made.returncode == 0 else None

    async def be_full(self, seconds: float) -> None:
        """Leave no byte free for so long, whatever is deleted meanwhile; then all of it is free again."""
        until = time.monotonic() + seconds
        try:
            with self._ballast.open("wb", buffering=0) as file:
                if self._warning_bytes:
                    await asyncio.to_thread(_fill_up_to, file.fileno(), self._warning_bytes)
                    await asyncio.sleep(_WARNED_SECONDS)
                while time.monotonic() < until:
                    await asyncio.to_thread(_fill, file.fileno())
                    await asyncio.sleep(_TOP_UP_SECONDS)
        finally:
            self._ballast.unlink(missing_ok=True)

    def unmount(self, *, keep: bool) -> None:
        """Let go of it, even where a file is still open; `keep` copies what is on it beside it first."""
        if keep:
            shutil.copytree(self._directory, self._directory.with_name(f"{self._directory.name}.kept"), symlinks=True)
        subprocess.run([shutil.which("umount") or "umount", "-l", self._directory], check=False)


def _fill_up_to(file: int, left_bytes: int) -> None:
    disk = os.fstatvfs(file)
    with suppress(OSError):
        os.posix_fallocate(file, 0, max(1, disk.f_bavail * disk.f_frsize - left_bytes))


def _fill(file: int) -> None:
    left = os.fstatvfs(file)
    size, free = os.fstat(file).st_size, left.f_bavail * left.f_frsize
    with suppress(OSError):
        os.posix_fallocate(file, size, max(1, free))  # at once, where nobody else writes meanwhile
    os.lseek(file, 0, os.SEEK_END)
    with suppress(OSError):
        while True:
            os.write(file, bytes(_CHUNK_BYTES))
