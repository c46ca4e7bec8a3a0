"""Whether a try of a model ended its process, told from every other death: a kill in our own file work, a full disk.

* A try is a load, or a prediction on trial. It is marked by a write before it, which a disk may refuse, and unmarked in
  mapped memory after it, which nothing can refuse or delay: inside of it there is no work on files.
* A mark's file is one process's at a time, by a lock that ends with the process: a mark that nobody holds is a death.
* Files are used again: where there was one, a full disk keeps no try from being marked.
* The death of the whole machine may take the mark with it: one that had only begun then counts, after another boot.
"""

import fcntl
import mmap
import os
from collections.abc import Iterator, Set
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from struct import Struct
from typing import Final, Literal, NamedTuple

from gateway.client.artifacts import sync_directory

Kind = Literal["load", "prediction"]

_IDLE, _BEGUN, _INSIDE = range(3)
_KINDS: Final[tuple[Kind, ...]] = ("load", "prediction")
_RECORD: Final = Struct("<BB16s16s")
_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
# Of one artifact: the processes that are trying it, and those that died of it.
_MOST_FILES: Final = 16
# That are kept of artifacts which nothing names.
_MOST_DEATHS: Final = 64


class _Mark(NamedTuple):
    """What a file says: how far a try came, of which kind, in which context, since which boot."""

    stage: int
    kind: int
    context: bytes
    boot: bytes


class Try:
    """A try that goes on, and whether it is marked."""

    def __init__(self, memory: mmap.mmap | None) -> None:
        self._memory = memory
        self.marked = memory is not None

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Work on files in the middle of it: a death in that is not the model's."""
        if self._memory is None:
            yield
            return
        self._memory[0] = _BEGUN
        try:
            yield
        finally:
            self._memory[0] = _INSIDE


class Tries:
    """The marks below one device's directory, in files named after the artifact that is tried."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "tries"
        self._boot = _boot()

    def deaths(self, artifact: str, context: str) -> int:
        """Return how many processes have died of trying it; those that are at it now are not dead."""
        found = 0
        for path in self._paths(artifact):
            with suppress(OSError), _locked(path, os.O_RDONLY, fcntl.LOCK_SH) as file:
                found += self._is_death(_read(file), context)
        return found

    @contextmanager
    def marked(self, artifact: str, context: str, kind: Kind, *, durable: bool = False) -> Iterator[Try]:
        """Mark what is tried inside, `durable` also against power; where a disk refuses that, it goes unmarked."""
        file = self._begun(artifact, context, kind, durable=durable)
        if file is None:
            yield Try(None)
            return
        try:
            with mmap.mmap(file, _RECORD.size) as memory:
                memory[0] = _INSIDE
                try:
                    yield Try(memory)
                finally:
                    memory[0] = _IDLE
            if durable:
                with suppress(OSError):
                    os.fsync(file)
        finally:
            os.close(file)

    def forgive(self, artifact: str, context: str, kind: Kind) -> None:
        """Forget the deaths of one kind."""
        for path in self._paths(artifact):
            with suppress(OSError), _locked(path, os.O_RDWR, fcntl.LOCK_EX) as file:
                mark = _read(file)
                if self._is_death(mark, context) and _KINDS[mark.kind] == kind:
                    with mmap.mmap(file, _RECORD.size) as memory:
                        memory[0] = _IDLE

    def sweep(self, artifacts: Set[str]) -> None:
        """Delete what is left of every other artifact, but for deaths: one that no state could name may come again."""
        with suppress(OSError):  # nothing there yet, or it goes next time
            paths = [path for path in self._directory.iterdir() if path.stem not in artifacts]
            for path in paths:
                if len(paths) > _MOST_DEATHS or not self._says_death(path):
                    path.unlink()

    def _paths(self, artifact: str) -> Iterator[Path]:
        """Name an artifact's files: as far as there are any, without a gap."""
        paths = (self._directory / f"{artifact}.{number}" for number in range(_MOST_FILES))
        for path in paths:
            try:
                path.stat()
            except OSError:  # none, or not unlocked yet
                return
            yield path

    def _begun(self, artifact: str, context: str, kind: Kind, *, durable: bool) -> int | None:
        """Return a locked file with the mark, or None."""
        record = _RECORD.pack(_BEGUN, _KINDS.index(kind), _digest(context), self._boot)
        try:
            file = self._free(artifact, context)
        except OSError:
            return None
        try:
            if os.pwrite(file, record, 0) == len(record):
                if durable:
                    os.fsync(file)
                    sync_directory(self._directory)
                return file
        except OSError:  # a disk that is full, or worse
            pass
        os.close(file)
        return None

    def _free(self, artifact: str, context: str) -> int:
        """Return a file that is nobody's mark, locked. Raises OSError."""
        for number in range(_MOST_FILES):
            file = _opened(self._directory / f"{artifact}.{number}")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not self._is_death(_read(file), context):
                    return file
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    os.close(file)
                    raise
            os.close(file)
        raise OSError("too many processes are at it or have died of it")

    def _is_death(self, mark: _Mark, context: str) -> bool:
        """Judge a mark that nobody holds. A kill between the mark's write and the try is none, in the same boot."""
        return mark.context == _digest(context) and self._ended(mark)

    def _ended(self, mark: _Mark) -> bool:
        return mark.stage == _INSIDE or (mark.stage == _BEGUN and mark.boot != self._boot)

    def _says_death(self, path: Path) -> bool:
        """Say so of any context, and of whoever is at it."""
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return self._ended(_read(file))
        finally:
            os.close(file)


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
    return _Mark(*_RECORD.unpack(text)) if len(text) == _RECORD.size else _Mark(_IDLE, 0, b"", b"")


def _digest(context: str) -> bytes:
    return sha256(context.encode()).digest()[:16]


def _boot() -> bytes:
    """Return what differs from one boot of this system to the next, where it says so."""
    try:
        return bytes.fromhex(_BOOT.read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return bytes(16)
