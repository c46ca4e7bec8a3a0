"""The object store that holds apps, catalogues, rollouts and artifacts: the one file that knows obstore."""


class StoreError(Exception):
    """The store did not do what was asked. The only error, with its two children, that a `Store` raises."""


class NotFound(StoreError):
    """Nothing has that path."""


class AlreadyExists(StoreError):
    """Something has that path already; it was left as it is."""


class Store:
    """An object store at a URL: `file:///dir`, `memory://`, `s3://bucket/prefix`, `gs://`, `az://`."""

    @classmethod
    def open(cls, url: str) -> "Store":
        """Open the store at a URL; a `file://` directory is made. Raises `StoreError`."""
        raise NotImplementedError

    async def get(self, path: str) -> bytes:
        """Return the bytes at a path. Raises `NotFound` or `StoreError`."""
        raise NotImplementedError

    async def get_range(self, path: str, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`. Raises `NotFound` or `StoreError`."""
        raise NotImplementedError

    async def size(self, path: str) -> int:
        """Return how many bytes a path has. Raises `NotFound` or `StoreError`."""
        raise NotImplementedError

    async def put_new(self, path: str, data: bytes) -> None:
        """Write a path that does not exist yet. Raises `AlreadyExists` or `StoreError`."""
        raise NotImplementedError

    async def names(self, prefix: str) -> list[str]:
        """Return every path under a prefix (a whole directory), sorted. Raises `StoreError`."""
        raise NotImplementedError
