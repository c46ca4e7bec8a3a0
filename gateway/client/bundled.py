"""What the app itself brings: the model in its bundle, and the bounds within which the client may spend.

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
    """The release that ships inside the app.

    * `inputs` are the names of the model's inputs, in its order.
    * `signals` are the names of everything the app can tell about a decision, in the order in which events carry them.
      They bound which releases can be offered to this app; left empty, they are the bundled inputs.
    """

    release: int
    data: bytes | Path
    parameters: Parameters
    inputs: Sequence[str]
    signals: Sequence[str] = ()

    def __post_init__(self) -> None:
        missing = set(self.inputs) - set(self.carried)
        if missing:
            raise ValueError(f"inputs that are not among the signals: {sorted(missing)}")
        if len(self.carried) > MAX_SIGNALS:
            raise ValueError(f"more than {MAX_SIGNALS} signals")

    @cached_property
    def content(self) -> bytes:
        """The artifact's bytes."""
        return self.data.read_bytes() if isinstance(self.data, Path) else self.data

    @cached_property
    def sha256(self) -> str:
        return sha256(self.content).hexdigest()

    @cached_property
    def carried(self) -> tuple[str, ...]:
        """The names whose values every prediction's event carries."""
        return tuple(self.signals or self.inputs)


@dataclass(frozen=True)
class Limits:
    """Bounds on what the client keeps and sends.

    A frozen batch cannot make room (the gateway may have it already), so it holds at most half of the queue: the other
    half is always free for what is new.
    """

    queue_events: int = 1000
    queue_bytes: int = 1024 * 1024
    batch_events: int = 500
    batch_bytes: int = 512 * 1024
    # From its first try. Below the days for which the warehouse knows a batch again (its retention, 90 by default).
    batch_days: int = 30
    backoff_first_seconds: float = 30.0
    backoff_last_seconds: float = 3600.0
    retry_after_most_seconds: float = 86_400.0
    # The largest download that is made while power is low or the network expensive; inline bytes come all the same.
    expensive_download_bytes: int = 200_000
    # How long a prediction may wait for another process of the app that is committing.
    busy_seconds: float = 0.5
    # Spreads devices that were woken at the same moment, by a push or by the clock.
    jitter_seconds: float = 2.0
    request_seconds: float = 30.0
    # Four models of the most that a gateway sends inline, 1 MiB each, in base64, with their catalogues.
    reply_bytes: int = 8 * 1024 * 1024
