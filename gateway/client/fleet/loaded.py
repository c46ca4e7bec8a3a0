"""Load a model once for all devices of a process: thousands of clients run the same few files.

* A loaded model holds nothing that a prediction changes, so sharing it is not visible.
"""

from collections import OrderedDict
from hashlib import sha256
from typing import Final

from gateway.client.runtimes import Model, Runtime

_KEPT: Final = 16


class LoadedOnce:
    """A runtime that remembers the models it has loaded last."""

    def __init__(self, runtime: Runtime) -> None:
        self.format = runtime.format
        self._runtime = runtime
        self._models: OrderedDict[bytes, Model] = OrderedDict()

    def load(self, data: bytes) -> Model:
        """Return the model of these bytes. Raises `BadModel`, every time anew."""
        key = sha256(data).digest()
        if key not in self._models:
            self._models[key] = self._runtime.load(data)
        self._models.move_to_end(key)
        if len(self._models) > _KEPT:
            self._models.popitem(last=False)
        return self._models[key]
