"""What a runtime has made of an artifact for this system, kept so that the next launch need not make it again.

* Only ever a shortcut: the artifact stays, and whatever is in doubt is made from it anew. That is what was made by
  another SDK, on another system or by another compiler; what is damaged; and what is asked for anew, because it did not
  load, did not prove itself or did not come back.
* What cannot be written costs time at the next launch, and nothing else. So nothing is synced either.
* A runtime that does not compile has nothing here.
"""

import logging
from collections.abc import Set
from hashlib import sha256
from pathlib import Path
from typing import Final

from gateway.client.artifacts import delete_others
from gateway.client.runtimes import Compiling, Model, Runtime
from gateway.client.tries import Try

logger = logging.getLogger(__name__)

_SEAL_BYTES: Final = sha256().digest_size


class Compiled:
    """The compiled forms of one device, under their artifacts' SHA-256."""

    def __init__(self, runtime: Runtime, directory: Path, context: str) -> None:
        """Keep forms below a directory, for this SDK and system."""
        self._runtime = runtime
        self._forms = directory / "compiled"
        self._context = context
        # Of which artifacts the form that was here did not serve any more, so that it was made again.
        self.remade: set[str] = set()

    def load(self, digest: str, data: bytes, tried: Try, *, anew: bool = False) -> Model:
        """Load an artifact by its form, which is made if it is not here. Raises what the runtime raises."""
        if not isinstance(self._runtime, Compiling):
            return self._runtime.load(data)
        with tried.aside():
            form = None if anew else self._read(digest, self._runtime.compiler)
        if form is None:
            form = self._runtime.compile(data)
            with tried.aside():
                self._write(digest, self._runtime.compiler, form)
        return self._runtime.load(form)

    def sweep(self, artifacts: Set[str]) -> None:
        """Delete every form of another artifact."""
        delete_others(self._forms, artifacts)

    def _read(self, digest: str, compiler: str) -> bytes | None:
        try:
            kept = (self._forms / digest).read_bytes()
        except OSError:
            return None
        form = kept[_SEAL_BYTES:]
        return form if kept[:_SEAL_BYTES] == self._seal(digest, compiler, form) else None

    def _write(self, digest: str, compiler: str, form: bytes) -> None:
        try:
            if (self._forms / digest).exists():
                self.remade.add(digest)
            self._forms.mkdir(parents=True, exist_ok=True)
            (self._forms / digest).write_bytes(self._seal(digest, compiler, form) + form)
        except OSError:
            logger.info("the compiled form of %s is not kept", digest, exc_info=True)

    def _seal(self, digest: str, compiler: str, form: bytes) -> bytes:
        """Return what tells this form from one that is torn, damaged or made elsewhere."""
        return sha256("\0".join((digest, compiler, self._context, "")).encode() + form).digest()
