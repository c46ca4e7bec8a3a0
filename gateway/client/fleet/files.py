"""Make room for a fleet's files: every device has a database, and keeps it open.

* Many systems allow 1,024 open files or fewer.
* Phones do not share a disk: thousands that sync to one wait for each other, for minutes by their fast clocks.
"""

import errno
import resource
import shutil
from pathlib import Path
from typing import Final

# A device's database, its write-ahead log and the index of that.
_FILES_PER_DEVICE: Final = 3
# Connections, and what the process has open besides.
_OTHER_FILES: Final = 256
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - Linux's files in memory; who writes there makes a directory of his own
_BYTES_PER_DEVICE: Final = 1024 * 1024


def allow_open_files(devices: int) -> None:
    """Raise this process's own limit as far as the fleet needs. Raises OSError where the system does not let it."""
    needed = devices * _FILES_PER_DEVICE + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise OSError(errno.EMFILE, f"{devices} devices need {needed} open files and the limit is {hard} (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def place_in_memory(devices: int) -> Path | None:
    """Return where files are in memory, if the system has such a place with room for so many devices."""
    has_room = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= devices * _BYTES_PER_DEVICE
    return _MEMORY if has_room else None
