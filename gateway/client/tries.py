"""Whether a try of a model ended its process, told from every other death: a kill in our own file work, a full disk.

* A try is a load, or a prediction. It is marked by a write before it, which a disk may refuse, and unmarked in mapped
  memory after it, which nothing can refuse or delay: inside of it there is no work on files. One file, written once, is
  held for all of a process's predictions, each of which is marked in memory alone: less than a microsecond.
* A mark's file is one process's at a time, by a lock that ends with the process: a mark that nobody holds is a death.
  Who only looks locks nothing that is idle, and shares the lock of a death: nobody is kept from counting by another.
* What counts a death, and for how long, is told in `state`. A damaged mark says nothing.
* Files are used again: where there was one, a full disk keeps no try from being marked.
* The death of the whole machine may take the mark with it: one that had only begun then counts, after another boot.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import Final, Literal, NamedTuple
from weakref import WeakSet

from gateway.client.artifacts import sync_directory

Kind = Literal["load", "prediction"]

_IDLE, _BEGUN, _INSIDE = range(3)
_KINDS: Final[tuple[Kind, ...]] = ("load", "prediction")
_RECORD: Final = Struct("<BB16s16s")
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
# Of one artifact: the processes that run it, and those that died of it. Beyond, a try goes unmarked.
_MOST_FILES: Final = 1000
# That are kept of artifacts which nothing names.
_MOST_DEATHS: Final = 64


class _Mark(NamedTuple):
    """What a file says: how far a try came, of which kind, in which context, since which boot."""

    stage: int
    kind: int
    context: bytes
    boot: bytes


class Try:
    """A try that goes on, and whether it is marked. `others` have died of the same, or began it before and go on."""

    def __init__(self, memory: mmap.mmap | None, others: int = 0) -> None:
        self._memory = memory
        self.others = others

    @property
    def marked(self) -> bool:
        return self._memory is not None and not self._memory.closed

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Try: once, or once of many times where the mark is `held`."""
        self._say(_INSIDE)
        try:
            yield
        finally:
            self._say(_IDLE)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Work on files in the middle of it: a death in that is not the model's."""
        self._say(_BEGUN)
        try:
            yield
        finally:
            self._say(_INSIDE)

    def _say(self, stage: int) -> None:
        if self._memory is not None and not self._memory.closed:
            self._memory[0] = stage


class Tries:
    """The marks below one device's directory, in files named after the artifact that is tried."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "tries"
        self._boot = _boot()
        _watch_forks()

    def deaths(self, artifact: str, context: str) -> int:
        """Return how many processes have died of trying it; those that are at it now are not dead."""
        return sum(self._standing(path, context) == "dead" for path in self._paths(artifact))

    @contextmanager
    def marked(self, artifact: str, context: str, kind: Kind, *, durable: bool = False) -> Iterator[Try]:
        """Mark what is tried inside, `durable` also against power; where a disk refuses that, it goes unmarked."""
        begun = self._begun(artifact, context, kind, durable=durable)
        if begun is None:
            yield Try(None)
            return
        memory, number = begun
        with memory:
            tried = Try(memory, self._others(artifact, context, number))
            with tried.inside():
                yield tried
            if durable and tried.marked:
                with suppress(OSError):
                    memory.flush()

    def held(self, artifact: str, context: str, kind: Kind) -> Try:
        """Hold a mark for many tries in this process, one after another; it is let go with what is returned."""
        begun = self._begun(artifact, context, kind, stage=_IDLE)
        return Try(None if begun is None else begun[0])

    def forgive(self, artifact: str, context: str, kind: Kind) -> None:
        """Forget the deaths of one kind."""
        for path in self._paths(artifact):
            with suppress(OSError), _locked(path, os.O_RDWR, fcntl.LOCK_SH) as file:
                mark = _read(file)
                if self._is_death(mark, context) and _KINDS[mark.kind] == kind:
                    with mmap.mmap(file, _RECORD.size) as memory:
                        memory[0] = _IDLE

    def sweep(self, artifacts: Set[str]) -> None:
        """Delete what is left of every other artifact, but for deaths: one that no state could name may come again."""
        paths = [path for path in self._paths() if path.stem not in artifacts]
        for path in paths:
            # What cannot be deleted, or is held, goes next time.
            with suppress(OSError), _locked(path, os.O_RDWR, fcntl.LOCK_EX) as file:
                if len(paths) > _MOST_DEATHS or not self._ended(_read(file)):
                    path.unlink()

    def _paths(self, artifact: str | None = None) -> list[Path]:
        """Name an artifact's files, or all."""
        try:
            names = os.listdir(self._directory)  # noqa: PTH208 - asked before each prediction, and twice as fast
        except OSError:  # none, or not unlocked yet
            return []
        return [self._directory / name for name in names if artifact is None or name.startswith(f"{artifact}.")]

    def _standing(self, path: Path, context: str) -> Literal["dead", "alive"] | None:
        """Say how it stands with who left a mark, if it counts in this context."""
        try:
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            mark = _read(file)
            if mark.stage == _IDLE or mark.context != _digest(context):
                return None
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return "dead" if self._is_death(_read(file), context) else None
        except OSError as error:
            return "alive" if isinstance(error, BlockingIOError) else None
        finally:
            os.close(file)

    def _others(self, artifact: str, context: str, number: int) -> int:
        """Count the dead, and who is at it in the files before: of some that begin together, the first sees nobody."""
        before = (self._directory / f"{artifact}.{each}" for each in range(number))
        return self.deaths(artifact, context) + sum(self._standing(path, context) == "alive" for path in before)

    def _begun(
        self, artifact: str, context: str, kind: Kind, *, durable: bool = False, stage: int = _BEGUN
    ) -> tuple[mmap.mmap, int] | None:
        """Return a locked file with the mark, in memory, and its number, or None."""
        record = _RECORD.pack(stage, _KINDS.index(kind), _digest(context), self._boot)
        try:
            file, number = self._free(artifact, context)
        except OSError:
            return None
        try:
            if os.pwrite(file, record, 0) == len(record):
                if durable:
                    os.fsync(file)
                    sync_directory(self._directory)
                memory = mmap.mmap(file, _RECORD.size)  # with a descriptor of its own, and by that the lock
                _memories.add(memory)
                return memory, number
        except OSError:  # a disk that is full, or worse
            pass
        finally:
            os.close(file)
        return None

    def _free(self, artifact: str, context: str) -> tuple[int, int]:
        """Return the first file that is nobody's mark, locked, and its number. Raises OSError."""
        for number in range(_MOST_FILES):
            file = _opened(self._directory / f"{artifact}.{number}")
            try:
                if self._taken(file, context):
                    return file, number
            except OSError:
                os.close(file)
                raise
            os.close(file)
        raise OSError("too many processes are at it or have died of it")

    def _taken(self, file: int, context: str) -> bool:
        """Lock a file, unless it is a mark; say whether it is ours now. Raises OSError."""
        if self._is_death(_read(file), context):
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return not self._is_death(_read(file), context)

    def _is_death(self, mark: _Mark, context: str) -> bool:
        """Judge a mark that nobody holds. A kill between the mark's write and the try is none, in the same boot."""
        return mark.context == _digest(context) and self._ended(mark)

    def _ended(self, mark: _Mark) -> bool:
        return mark.stage == _INSIDE or (mark.stage == _BEGUN and mark.boot != self._boot)


# What the marks of this process are in.
_memories: Final[WeakSet[mmap.mmap]] = WeakSet()


@cache
def _watch_forks() -> None:
    """Leave the marks to the process that made them: while a child has them open, its parent's death is none."""
    os.register_at_fork(after_in_child=_let_go)


def _let_go() -> None:
    for memory in list(_memories):
        memory.close()


def _opened(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o600)


@contextmanager
def _locked(path: Path, flags: int, lock: int) -> Iterator[int]:
    """Raises OSError: BlockingIOError where another process holds it."""
    file = os.open(path, flags | os.O_CLOEXEC)
    try:
        fcntl.flock(file, lock | fcntl.LOCK_NB)
        yield file
    finally:
        os.close(file)


def _read(file: int) -> _Mark:
    text = os.pread(file, _RECORD.size, 0)
    if len(text) == _RECORD.size:
        mark = _Mark(*_RECORD.unpack(text))
        if mark.stage <= _INSIDE and mark.kind < len(_KINDS):
            return mark
    return _Mark(_IDLE, 0, b"", b"")


def _digest(context: str) -> bytes:
    return sha256(context.encode()).digest()[:16]


def _boot() -> bytes:
    """Return what differs from one boot of this system to the next, where it says so."""
    try:
        return bytes.fromhex(_BOOT.read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)
