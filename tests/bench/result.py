"""All of one run as it is written down: what the tables, the README and the capacity page are made from."""

from msgspec import Struct

from tests.bench.beside import Beside
from tests.bench.figures import Row
from tests.bench.warehouse import Filled


class Result(Struct, frozen=True, kw_only=True):
    """`other_sizes` has rows by events a batch; 0 events is the update check. `quotients` are of processor time.

    `two_workers_rate` is their batches a second as a multiple of one's, by the clock and without a log. `kept_bytes` is
    what a batch takes in one copy on Kafka's disk, by events a batch.
    """

    date: str
    commit: str
    machine: dict[str, str]
    versions: dict[str, str]
    events: int
    signals: int
    seconds: float
    connections: int
    bytes_per_event: dict[str, float]
    programs: dict[str, Row]
    left_out: dict[str, str]
    other_sizes: dict[str, dict[str, Row]] = {}
    kept_bytes: dict[str, float] = {}
    quotients: dict[str, float] = {}
    two_workers_rate: float | None = None
    beside: Beside | None = None
    filled: Filled | None = None
