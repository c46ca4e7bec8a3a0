"""What an operator chooses about the warehouse consumer, and what it says about itself."""

from typing import Annotated

from msgspec import Meta, Struct

KIB = 1024
MIB = 1024 * KIB


class WarehouseSettings(Struct, frozen=True, kw_only=True):
    """Bounds of a range and of the waiting; the defaults suit one machine."""

    range_records: Annotated[int, Meta(ge=1, le=100_000)] = 4000
    # Both as read from the log and inflated: a consumer holds about six times this, the range that it has read ahead
    # included. Half of it costs a tenth more processor time an event, in the server's inserts and merges; twice as much
    # saves another tenth.
    range_bytes: Annotated[int, Meta(ge=KIB)] = 32 * MIB
    # A range is one block in ClickHouse, and a block stands in its memory.
    range_events: Annotated[int, Meta(ge=1, le=1_000_000)] = 200_000
    poll_seconds: Annotated[float, Meta(gt=0)] = 0.2
    # Planning an insert costs the server about as much as 10,000 events, so small ranges wait for company: 20 batches
    # of 10 events a second take 7 % of a core with 2 s, 11 % with 1 s. None waits beside `range_records`.
    linger_seconds: Annotated[float, Meta(ge=0)] = 2.0
    # The name of a cluster that the server knows; empty: it stands alone.
    cluster: str = ""
    retention_days: Annotated[int, Meta(ge=1)] = 90
    timeout_seconds: Annotated[float, Meta(gt=0)] = 60.0
    backoff_seconds: Annotated[float, Meta(gt=0)] = 0.2
    backoff_max_seconds: Annotated[float, Meta(gt=0)] = 10.0
    stop_seconds: Annotated[float, Meta(ge=0)] = 10.0


class Progress(Struct, frozen=True):
    """How far a lane is: `lag` counts records not yet stored, the rest counts since this process started.

    `records` counts those done with, `events` what was written of them.
    `skipped` counts offsets that the log had no record for: deleted by its retention before this consumer read them.
    `broken` says where the trouble is, "log" or "warehouse"; both are empty while all is well.
    """

    topic: str
    partition: int
    next_offset: int
    lag: int
    records: int = 0
    events: int = 0
    resends: int = 0
    unreadable: int = 0
    skipped: int = 0
    ranges: int = 0
    retries: int = 0
    trouble: str = ""
    broken: str = ""
