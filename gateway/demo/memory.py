"""How much memory the processes hold, where the system has /proc; elsewhere nothing is said."""

import os
from collections.abc import Mapping
from pathlib import Path


def resident_bytes(processes: Mapping[str, int]) -> dict[str, int]:
    """Return the resident set of each process that can be read."""
    found = {name: _resident(pid) for name, pid in processes.items()}
    return {name: size for name, size in found.items() if size}


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
