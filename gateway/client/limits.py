"""The bounds within which the client may spend: each a setting with its default.

* Checked when it is made: a bound out of its own bounds is the app author's mistake, told at once.
* `python -m gateway.client` prints the table of LIMITS.md, which other SDKs go by.
* What the wire, the catalogue and the formats of models fix is no setting: two SDKs must agree on it.
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import FieldInfo, fields

from gateway.config_table import allowed
from schemas.wire import Flush

_KIB: Final = 1024
_MIB: Final = 1024 * _KIB
_DAY_SECONDS: Final = 86_400
_YEAR_DAYS: Final = 365


def _bytes(most: int, description: str) -> Meta:
    return Meta(ge=0, le=most, description=description)


def _seconds(description: str) -> Meta:
    return Meta(ge=0, le=_YEAR_DAYS * _DAY_SECONDS, description=description)


def _count(most: int, description: str) -> Meta:
    return Meta(ge=1, le=most, description=description)


class Limits(Struct, frozen=True, kw_only=True):
    """What the client keeps, sends, fetches and waits for.

    A frozen batch cannot make room (the gateway may have it already), so it holds at most half of the queue: the other
    half is always free for what is new.
    """

    queue_events: Annotated[int, _count(1_000_000, "the most events that wait; the oldest go first, counted")] = 1000
    queue_bytes: Annotated[int, _bytes(1024 * _MIB, "the most bytes of events that wait")] = _MIB
    batch_events: Annotated[
        int, _count(100_000, "the most events in a batch, and half of `queue_events`; a 413 halves it for a while")
    ] = 500
    batch_bytes: Annotated[
        int, _bytes(64 * _MIB, "the most bytes of events in a batch, and half of `queue_bytes`; one event always fits")
    ] = 512 * _KIB
    batch_days: Annotated[
        int,
        _count(
            10 * _YEAR_DAYS,
            "how long a batch is tried; keep it below the days for which the warehouse knows one again, its retention",
        ),
    ] = 30
    busy_seconds: Annotated[
        float,
        _seconds(
            "how long a prediction may wait for another process of the app that commits, or replaces a damaged file"
        ),
    ] = 0.5

    first_flush_events: Annotated[int, _count(100_000, "flush at so many events, until a reply says otherwise")] = 50
    first_flush_seconds: Annotated[
        int, _count(7 * _DAY_SECONDS, "flush when the oldest event is this old, until a reply says otherwise")
    ] = 300
    first_lease_seconds: Annotated[
        int, _count(90 * _DAY_SECONDS, "call at a launch after this long without contact, until a reply says otherwise")
    ] = 21_600
    jitter_seconds: Annotated[
        float,
        _seconds("added at random to a launch's and a timed flush, so that devices woken together spread"),
    ] = 2.0
    backoff_first_seconds: Annotated[
        float, _seconds("the longest wait after a first failure, and the one after a disk that refuses")
    ] = 30.0
    backoff_last_seconds: Annotated[float, _seconds("the longest wait after many; it doubles until then")] = 3600.0
    retry_after_most_seconds: Annotated[
        float, _seconds("the longest Retry-After that is obeyed: a proxy's mistake must not silence a device for ever")
    ] = 86_400.0
    request_seconds: Annotated[
        float, _seconds("how long a request may take; of a download, how long it may stand still")
    ] = 30.0
    reply_bytes: Annotated[
        int, _bytes(256 * _MIB, "the longest reply whose news are read: four models of 1 MiB, in base64, fit in")
    ] = 8 * _MIB
    problem_bytes: Annotated[int, _bytes(_MIB, "the longest refusal that is read")] = 16 * _KIB

    expensive_download_bytes: Annotated[
        int,
        _bytes(
            64 * _MIB,
            "the largest download while power is low or the network expensive; inline bytes come all the same",
        ),
    ] = 200_000
    disk_room_sizes: Annotated[
        int, _count(100, "how many times its size must be free for an update: its download, itself, what it replaces")
    ] = 3
    disk_spare_bytes: Annotated[int, _bytes(1024 * _MIB, "what must be free beside that, for the app itself")] = (
        8_000_000
    )
    download_least_bytes_per_second: Annotated[
        int, _count(64 * _MIB, "what a line must give on average; a slow one goes on at the next try where it stopped")
    ] = 4096
    xz_memory_bytes: Annotated[
        int, _bytes(1024 * _MIB, "what unpacking xz may take: an artifact of 16 MiB needs no larger dictionary")
    ] = 96 * _MIB
    patch_window_bytes: Annotated[
        int,
        Meta(
            ge=_KIB,
            le=1024 * _MIB,
            description="what applying a zstd patch may look back on, base and result; the next smaller power of two",
        ),
    ] = 32 * _MIB

    most_deaths: Annotated[
        int, _count(100, "a release that ended so many processes, in loads and predictions, is left alone for a while")
    ] = 2
    quarantine_first_days: Annotated[int, _count(_YEAR_DAYS, "how long it is left alone the first time")] = 1
    quarantine_last_days: Annotated[int, _count(10 * _YEAR_DAYS, "how long it is at most")] = 30
    refetch_first_seconds: Annotated[
        int, _count(_YEAR_DAYS * _DAY_SECONDS, "the pause after a fetch that failed, the first time")
    ] = 60
    refetch_last_seconds: Annotated[int, _count(_YEAR_DAYS * _DAY_SECONDS, "that pause at most")] = _DAY_SECONDS
    pause_growth: Annotated[
        int, _count(1000, "by how much these two grow each time: 1, 4, 16 minutes, and 1, 4, 16 days")
    ] = 4
    most_wrong_fetches: Annotated[
        int, _count(1000, "bytes that were wrong so often are not asked for again; a bad network always is")
    ] = 6

    clock_plausible_days: Annotated[
        int,
        _count(100 * _YEAR_DAYS, "how far past what is signed and built the device's clock is believed about expiry"),
    ] = 2 * _YEAR_DAYS
    clock_tolerance_days: Annotated[
        int,
        _count(_YEAR_DAYS, "how far a gateway's time may be behind that, and how far ahead of it the clock counts"),
    ] = 1
    clock_mark_seconds: Annotated[
        int, _count(_YEAR_DAYS * _DAY_SECONDS, "how often the time on which both agree is written: it is about right")
    ] = 3600

    def __post_init__(self) -> None:
        """Raises ValueError that names the bound."""
        for name, field in FIELDS.items():
            try:
                msgspec.convert(getattr(self, name), field.type)
            except msgspec.ValidationError:
                raise ValueError(f"{name} must be {allowed(field)}, not {getattr(self, name)!r}") from None

    @property
    def first_flush(self) -> Flush:
        """The policy until the first reply."""
        return Flush(self.first_flush_events, self.first_flush_seconds, self.first_lease_seconds)


FIELDS: Final[dict[str, FieldInfo]] = {field.name: field for field in fields(Limits)}
