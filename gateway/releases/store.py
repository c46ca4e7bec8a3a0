"""The object store that holds apps, catalogues, rollouts and artifacts: the one file that knows obstore.

* A path is written once: `put_new` either makes it with all its bytes or leaves what was there.
* Object stores promise that with a conditional put. obstore's local store links a finished temporary file into
  place (exclusive, and never torn for a reader), but calls no fsync (traced, 0.12.1): after a power cut the name could
  stand without its bytes. So on `file://` the bytes are written aside and fsynced first, then linked, then the
  directories are fsynced.
* `put_new` answers only once the object is durable. A writer killed half-way leaves at most a file under `staging/`.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore, from_url

STAGING: Final = "staging"


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

    @classmethod
    def open(cls, url: str) -> "Store":
        """Open the store at a URL; a `file://` directory is made. Raises `StoreError`."""
        try:
            objects = from_url(url, mkdir=True) if url.startswith("file:") else from_url(url)
        except (BaseError, OSError, ValueError) as error:
            raise StoreError(f"cannot open the store {url!r}: {_reason(error)}") from error
        return cls(url, objects)

    async def get(self, path: str) -> bytes:
        """Return the bytes at a path. Raises `NotFound` or `StoreError`."""
        async with _own_errors("read", path):
            found = await obstore.get_async(self._objects, path)
            return bytes(await found.bytes_async())

    async def get_range(self, path: str, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer where the object ends. Raises `NotFound` or `StoreError`."""
        async with _own_errors("read", path):
            return bytes(await obstore.get_range_async(self._objects, path, start=start, length=length))

    async def size(self, path: str) -> int:
        """Return how many bytes a path has. Raises `NotFound` or `StoreError`."""
        async with _own_errors("look up", path):
            return (await obstore.head_async(self._objects, path))["size"]

    async def put_new(self, path: str, data: bytes) -> None:
        """Write a path that does not exist yet. Raises `AlreadyExists` or `StoreError`."""
        async with _own_errors("write", path):
            if self._root is None:
                await obstore.put_async(self._objects, path, data, mode="create", use_multipart=False)
            else:
                await self._put_new_file(self._root, path, data)

    async def names(self, prefix: str) -> list[str]:
        """Return every path under a prefix (a whole directory), sorted. Raises `StoreError`."""
        async with _own_errors("list", prefix):
            return sorted([found["path"] async for page in obstore.list(self._objects, prefix) for found in page])

    async def _put_new_file(self, root: Path, path: str, data: bytes) -> None:
        aside = f"{STAGING}/{uuid.uuid4()}"
        try:
            await obstore.put_async(self._objects, aside, data, mode="create", use_multipart=False)
            await asyncio.to_thread(_sync, root / aside)
            await obstore.rename_async(self._objects, aside, path, overwrite=False)
        except BaseException:
            with suppress(BaseError, OSError):
                await obstore.delete_async(self._objects, aside)
            raise
        await asyncio.to_thread(_sync_directories, root, root / path)


@asynccontextmanager
async def _own_errors(verb: str, path: str) -> AsyncIterator[None]:
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


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_directories(root: Path, path: Path) -> None:
    # Any of them may be new, and a directory's own entry stands in its parent.
    for directory in path.parents:
        _sync(directory)
        if directory == root:
            return
