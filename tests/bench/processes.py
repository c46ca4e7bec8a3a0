"""What a server's process tree has used so far: processor time of every thread, and its largest resident set."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")
_TICKS: Final = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Used:
    """Processor seconds: `cpu` to the nanosecond, `user` and `system` in the kernel's ticks."""

    cpu_seconds: float
    user_seconds: float
    system_seconds: float

    def since(self, before: "Used") -> "Used":
        """Return what was used in between."""
        return Used(
            self.cpu_seconds - before.cpu_seconds,
            self.user_seconds - before.user_seconds,
            self.system_seconds - before.system_seconds,
        )


def used(root: int) -> Used:
    """Return what a process and all below it have used."""
    cpu = user = system = 0.0
    for pid in tree(root):
        cpu += sum(_nanoseconds(task) for task in (_PROC / str(pid) / "task").iterdir()) / 1e9
        fields = _stat(pid)
        user += int(fields[11]) / _TICKS
        system += int(fields[12]) / _TICKS
    return Used(cpu, user, system)


def peak_bytes(root: int) -> int:
    """Return the sum of the largest resident sets of a process and all below it."""
    return sum(_status_bytes(pid, "VmHWM:") for pid in tree(root))


def resident_bytes(root: int) -> int:
    """Return what a process and all below it have in memory now."""
    return sum(_status_bytes(pid, "VmRSS:") for pid in tree(root))


def tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
            except OSError:  # it ended meanwhile
                continue
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    """Return the fields after the program's name, which may hold spaces."""
    return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()


def _nanoseconds(task: Path) -> int:
    return int((task / "schedstat").read_text().split()[0])


def _status_bytes(pid: int, name: str) -> int:
    for line in (_PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    return 0
