"""How much disk a run fills: said before it starts, and not by a broker that dies in the middle of it."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from tests.bench.build import Missing
from tests.bench.programs import Keeps, Program

_GB: Final = 1e9
_MB: Final = 1e6
# What the fastest program of each kind writes: 14,000 batches of 2 kB a second, 7,000 of 50 messages.
_WRITTEN_A_SECOND: Final[Mapping[Keeps, float]] = {
    "nothing": 0.0,
    "embedded": 30 * _MB,
    "one record a batch": 30 * _MB,
    "one record an event": 150 * _MB,
}
_ALWAYS: Final = 0.3 * _GB  # brokers begin with files of a size, bodies are written out
_BESIDE: Final = 4 * _GB  # ten million events, what is spooled, and a whole system with its warehouse


def most_written_bytes(programs: Iterable[Program], seconds: float, *, beside: bool) -> float:
    """Return what a run can write at most, when each program is measured for so long."""
    written = sum(_WRITTEN_A_SECOND[program.keeps] for program in programs) * seconds
    return _ALWAYS + written + (_BESIDE if beside else 0.0)


def need_room(directory: Path, programs: Iterable[Program], seconds: float, *, beside: bool) -> None:
    """Raise `Missing` where a run does not fit."""
    free, needed = shutil.disk_usage(directory).free, most_written_bytes(programs, seconds, beside=beside)
    if free < needed:
        raise Missing(
            f"{directory.parent} has {free / _GB:,.1f} GB free, and this may write {needed / _GB:,.1f} GB: "
            "make room, or name a larger directory with TMPDIR"
        )
