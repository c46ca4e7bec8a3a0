"""What the gateway is held to, beside what was measured: each aim with its bound, met or not.

* Pure. What a run did not measure has no line; what it missed stands there as missed.
* What is only tried for is harder than what is required, and says so: it can be reached or not, never met or missed.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

OURS: Final = "backhaul"
DECISION: Final = "decision and reply: ours to ours without catalogues"
UPDATE_CHECK: Final = "update check to aiohttp alone"
TWO_WORKERS: Final = "two workers to one"
_PERCENT: Final = 100.0
# Products that write a message for each event do it as rust-maps; rust-slices is as lean as that style can be.
_OTHERS: Final = (
    ("rust", 1.8, "", False),
    ("go", 1.0, "", False),
    ("go-goccy", 1.0, "", False),
    ("node", 1.0, "", False),
    ("nginx-lua", 1.0, "", False),
    ("rust-maps", 0.5, ", a message an event as products do it (each a map, written anew)", False),
    ("rust-slices", 0.5, ", a message an event at its leanest (its bytes passed on)", True),
)


class Aim(Struct, frozen=True):
    """Something to be at most, or at least, so much."""

    name: str
    bound: float
    found: float
    unit: str
    at_least: bool = False
    tried_for: bool = False

    @property
    def met(self) -> bool:
        return self.found >= self.bound if self.at_least else self.found <= self.bound

    @property
    def verdict(self) -> str:
        """Return in a word or two how it stands."""
        if self.tried_for:
            return "reached" if self.met else "not reached"
        return "met" if self.met else "missed"

    @property
    def aimed(self) -> str:
        """Return the bound in words."""
        return f"{'at least' if self.at_least else 'at most'} {self.bound:g} {self.unit}".strip()

    @property
    def measured(self) -> str:
        """Return what was found, with as many digits as the bound has and one more."""
        digits = 0 if self.bound >= _PERCENT else 1 if self.bound >= 10 else 2
        return f"{self.found:.{digits}f} {self.unit}".strip()


def aims(result: Mapping[str, Any]) -> Iterator[Aim]:
    """Yield every aim that the result says something about."""
    yield from _beside_others(result["programs"])
    yield from _quotients(result.get("quotients", {}))
    if (rate := result.get("two_workers_rate")) is not None:
        # What sends takes its share of the same two cores, so that twice cannot be had here.
        name = "two workers' batches a second by the clock, what sends being on the same cores"
        yield Aim(name, 1.8, rate, "x", at_least=True, tried_for=True)
    for signals, bound in (("2 signals", 32.0), ("12 signals", 50.0)):
        if (found := result["bytes_per_event"].get(signals)) is not None:
            yield Aim(f"an event with {signals} on the wire", bound, found, "bytes")
    if beside := result.get("beside"):
        yield Aim("a reply without news", 160.0, beside["reply_bytes"], "bytes")
        yield Aim("acknowledged at half load, 99th percentile", 50.0, beside["half_load"]["p99_ms"], "ms")
        yield Aim("the event loop stands still", 20.0, beside["loop_stall_ms"], "ms")
        yield from _memory(beside.get("memory"))
    if filled := result.get("filled"):
        yield Aim("consumer and ClickHouse, CPU an event", 9.0, filled["both_us"], "µs")
        yield from _kept_up(filled)
        yield from _beside_the_warehouse(filled["half_load"])


def _memory(memory: Mapping[str, Any] | None) -> Iterator[Aim]:
    """Judge "flat" and "bounded" by bounds of our own: a tenth more, and half as much again."""
    if memory is None:
        return
    after = memory["after_million_events"]
    first, *_, last = after
    yield Aim(f"memory after {last} million events, times that after {first}", 1.1, after[last] / after[first], "x")
    share = memory["peak_in_stall"] / memory["peak_before_stall"]
    yield Aim("memory while Kafka stands still, times that before", 1.5, share, "x")


def _kept_up(filled: Mapping[str, Any]) -> Iterator[Aim]:
    """Judge by what the fit can tell (0.98), and by what waits, by a bound of our own."""
    found = filled["kept_up"]
    when = f"full load, all on these cores, the gateway standing back (gateway_nice), last {found['seconds']:.0f} s"
    share = found["stored_per_second"] / found["taken_per_second"]
    yield Aim(f"stored of what is taken in: {when}", 0.98, share, "of it", at_least=True)
    yield Aim(f"not stored yet: {when}", 5.0, found["behind_seconds"], "s of intake")


def _beside_the_warehouse(half: Mapping[str, Any]) -> Iterator[Aim]:
    """Hold one machine with everything on it to what is required of a gateway with its log elsewhere."""
    where, stall_ms = "a whole serve at half load", half["loop_stall_ms"]
    yield Aim(f"{where}: acknowledged, 99th percentile", 50.0, half["p99_ms"], "ms", tried_for=True)
    yield Aim(f"{where}: the event loop stands still, full load included", 20.0, stall_ms, "ms", tried_for=True)


def _beside_others(programs: Mapping[str, Any]) -> Iterator[Aim]:
    ours = programs.get(OURS)
    if ours is None:
        return
    if (quotient := ours["quotient_to_floor"]) is not None:
        yield Aim("times the floor", 4.0, quotient, "x")
        yield Aim("times the floor", 3.0, quotient, "x", tried_for=True)
    for other, bound, what, tried_for in _OTHERS:
        if other in programs:
            times = ours["cpu_us"] / programs[other]["cpu_us"]
            yield Aim(f"times {other}{what}", bound, times, "x", tried_for=tried_for)


def _quotients(quotients: Mapping[str, float]) -> Iterator[Aim]:
    if (decision := quotients.get(DECISION)) is not None:
        yield Aim("decision and reply, on top of taking in", 10.0, _PERCENT * (decision - 1), "%")
    if (check := quotients.get(UPDATE_CHECK)) is not None:
        yield Aim("an update check, times aiohttp alone", 1.3, check, "x")
    if (two := quotients.get(TWO_WORKERS)) is not None:
        yield Aim("two workers' work where the cores are there, by CPU", 1.8, 2 / two, "x", at_least=True)
