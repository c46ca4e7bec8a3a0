"""The object store that holds apps, catalogues, rollouts and artifacts: the one file that knows obstore.

* A path is written once: `put_new` either makes it with all its bytes or leaves what was there.
* Object stores promise that with a conditional put. obstore's local store links a finished temporary file into
  place (exclusive, and never torn for a reader), but calls no fsync (traced, 0.12.1): after a power cut the name could
  stand without its bytes. So on `file://` the bytes are written aside and fsynced first, then linked, then the
  directories are fsynced.
* `put_new` answers only once the object is durable. A writer killed half-way leaves at most a file under `staging/`.
* obstore is called in threads of our own, never by its async functions: their Rust threads let go of Python objects a
  moment after the answer, and a process that ends in that moment is aborted (measured, 0.12.1: one command in four).
"""

import asyncio
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

STAGING: Final = "staging"
T = TypeVar("T")
# Enough to hide an object store's round trip when a snapshot reads many documents.
_THREADS: Final = 16
# A process that leaves waits for its calls, so one that hangs must end by itself: obstore gives a request 30 seconds,
# but tries again for three minutes. Its HTTP options are left alone: given any, it forgets those in AWS_* variables.
_REMOTE: Final[dict[str, Any]] = {"retry_config": {"max_retries": 5, "retry_timeout": timedelta(seconds=20)}}


class StoreError(Exception):
    """The store did not do what was asked. The only error, with its two children, that a `Store` raises."""


class NotFound(StoreError):
    """Nothing has that path."""


class AlreadyExists(StoreError):
    """Something has that path already; it was left as it is."""


class Store:
    """An object store at a URL: `file:///dir`, `memory://`, `s3://bucket/prefix`, `gs://`, `az://`."""

    def __init__(self, url: str, objects: ObjectStore) -> None:
        """Hold an opened store; callers use `open`."""
        self.url: Final = url
        self._objects: Final = objects
        self._root: Final = objects.prefix if isinstance(objects, LocalStore) else None
        self._threads: Final = ThreadPoolExecutor(_THREADS, "store")

    @classmethod
    def open(cls, url: str) -> "Store":
        """Open the store at a URL; a `file://` directory is made. Raises `StoreError`."""
        try:
            if url.startswith("file:"):
                objects = from_url(url, mkdir=True)
            else:
                objects = from_url(url, **({} if url.startswith("memory:") else _REMOTE))
        except (BaseError, OSError, ValueError) as error:
            raise StoreError(f"cannot open the store {url!r}: {_reason(error)}") from error
        return cls(url, objects)

    async def get(self, path: str) -> bytes:
        """Return the bytes at a path. Raises `NotFound` or `StoreError`."""
        return await self._call("read", path, lambda: bytes(obstore.get(self._objects, path).bytes()))

    async def get_range(self, path: str, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer where the object ends. Raises `NotFound` or `StoreError`."""
        return await self._call(
            "read", path, lambda: bytes(obstore.get_range(self._objects, path, start=start, length=length))
        )

    async def size(self, path: str) -> int:
        """Return how many bytes a path has. Raises `NotFound` or `StoreError`."""
        return await self._call("look up", path, lambda: int(obstore.head(self._objects, path)["size"]))

    async def put_new(self, path: str, data: bytes) -> None:
        """Write a path that does not exist yet. Raises `AlreadyExists` or `StoreError`."""
        await self._call("write", path, lambda: self._put_new(path, data))

    async def names(self, prefix: str) -> list[str]:
        """Return every path under a prefix (a whole directory), sorted. Raises `StoreError`."""
        return await self._call("list", prefix, lambda: sorted(self._names(prefix)))

    async def _call(self, verb: str, path: str, work: Callable[[], T]) -> T:
        with _own_errors(verb, path):
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _names(self, prefix: str) -> Iterator[str]:
        for page in obstore.list(self._objects, prefix):
            yield from (found["path"] for found in page)

    def _put_new(self, path: str, data: bytes) -> None:
        if self._root is None:
            obstore.put(self._objects, path, data, mode="create", use_multipart=False)
            return
        aside = f"{STAGING}/{uuid.uuid4()}"
        try:
            obstore.put(self._objects, aside, data, mode="create", use_multipart=False)
            sync(self._root / aside)
            obstore.rename(self._objects, aside, path, overwrite=False)
        except BaseException:
            with suppress(BaseError, OSError):
                obstore.delete(self._objects, aside)
            raise
        sync_directories(self._root, self._root / path)


@contextmanager
def _own_errors(verb: str, path: str) -> Iterator[None]:
    try:
        yield
    except AlreadyExistsError as error:
        raise AlreadyExists(f"{path} exists already") from error
    except (FileNotFoundError, NotFoundError) as error:
        raise NotFound(f"{path} does not exist") from error
    except (BaseError, OSError, ValueError) as error:
        raise StoreError(f"cannot {verb} {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    # obstore appends a Rust debug dump of many lines; the first says it all.
    return str(error).partition("\n")[0]


def sync(path: Path) -> None:
    """Wait until a file, or a directory's entries, are on disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_directories(root: Path, path: Path) -> None:
    """Wait until the names that lead from a root to a path are on disk. Raises OSError."""
    # Any of them may be new, and a directory's own entry stands in its parent.
    for directory in path.parents:
        sync(directory)
        if directory == root:
            return
