"""Make room for a fleet's open files: every device holds a database, and many systems allow 1,024 files or fewer."""

import errno
import resource
from typing import Final

# A device's database, its write-ahead log and the index of that.
_FILES_PER_DEVICE: Final = 3
# Connections, and what the process has open besides.
_OTHER_FILES: Final = 256


def allow_open_files(devices: int) -> None:
    """Raise this process's own limit as far as the fleet needs. Raises OSError where the system does not let it."""
    needed = devices * _FILES_PER_DEVICE + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise OSError(errno.EMFILE, f"{devices} devices need {needed} open files and the limit is {hard} (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
