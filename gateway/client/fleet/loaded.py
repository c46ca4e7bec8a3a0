"""Load a model once for all devices of a process: thousands of clients run the same few files.

* A loaded model holds nothing that a prediction changes, so sharing it is not visible.
"""

from functools import lru_cache
from typing import Final

from gateway.client.runtimes import Model, Runtime

_KEPT: Final = 16


class LoadedOnce:
    """A runtime that remembers the models it has loaded last; safe to call from several threads."""

    def __init__(self, runtime: Runtime) -> None:
        self.format = runtime.format
        self._load = lru_cache(_KEPT)(runtime.load)

    def load(self, data: bytes) -> Model:
        """Return the model of these bytes. Raises `BadModel`, every time anew."""
        return self._load(data)
