"""What the app itself brings: the model in its bundle.

* The bundled model is the last thing to fall back on, so it is there before any network is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

from schemas.releases import Parameters
from schemas.wire import MAX_SIGNALS


@dataclass(frozen=True)
class Bundled:
    """The release that ships inside the app. `data` is the artifact, or where it lies; a file is read at once.

    * `inputs` are the names of the model's inputs, in its order.
    * `signals` are the names of everything the app can tell about a decision, in the order in which events carry them.
      They bound which releases can be offered to this app; left empty, they are the bundled inputs.
    """

    release: int
    data: bytes | Path | str
    parameters: Parameters
    inputs: Sequence[str]
    signals: Sequence[str] = ()

    def __post_init__(self) -> None:
        missing = set(self.inputs) - set(self.carried)
        if missing:
            raise ValueError(f"inputs that are not among the signals: {sorted(missing)}")
        if len(self.carried) > MAX_SIGNALS:
            raise ValueError(f"more than {MAX_SIGNALS} signals")
        _ = self.content  # so that a file that cannot be read is said here, before any client is open

    @cached_property
    def content(self) -> bytes:
        """The artifact's bytes."""
        return self.data if isinstance(self.data, bytes) else Path(self.data).read_bytes()

    @cached_property
    def sha256(self) -> str:
        return sha256(self.content).hexdigest()

    @cached_property
    def carried(self) -> tuple[str, ...]:
        """The names whose values every prediction's event carries."""
        return tuple(self.signals or self.inputs)
