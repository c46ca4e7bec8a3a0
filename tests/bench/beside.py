"""What the gateway promises beyond its one figure: latency, the event loop, memory, the size of a reply.

* Measured on the server that the rounds have run on, so it has seen all of their traffic before.
* A stalled Kafka is one that was stopped by a signal: connections stand, and nothing is answered.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import Final
from urllib.request import urlopen

from msgspec import Struct

from deploy.local_kafka import LocalKafka
from tests.bench.figures import Sample
from tests.bench.processes import peak_bytes, resident_bytes
from tests.bench.programs import Ground, Server
from tests.bench.rounds import Load, Wrong, measured

_MIB: Final = 2**20
_MILLION: Final = 1_000_000
_HALF_LOAD_SECONDS: Final = 6.0
_STALLED_SECONDS: Final = 12.0
_STALLED_SHARE: Final = 0.25
_DRAINED_SECONDS: Final = 90.0
_REPLIES: Final = 20


class Memory(Struct, frozen=True):
    """Resident MiB of the gateway: after so many million events, and at most while Kafka stood still."""

    after_million_events: dict[str, float]
    peak_before_stall: float
    peak_in_stall: float
    spooled_batches: int


class Beside(Struct, frozen=True):
    """Our gateway alone. `loop_stall_ms` is its own metric, over the last one to two minutes."""

    half_load: Sample
    loop_stall_ms: float
    reply_bytes: float
    memory: Memory | None = None


def beside(
    server: Server, load: Load, ground: Ground, rate: float, bodies: Sequence[bytes], say: Callable[[str], None]
) -> Beside:
    """Send half of what the server takes, at an even pace, and look at it."""
    say("  half load")
    half = measured(server, replace(load, rate=rate / 2, seconds=_HALF_LOAD_SECONDS), ground, 1)
    stall_ms = 1000 * gauge(server.port, "loop_stall_seconds")
    replies = [len(server.send_one(body)) for body in bodies[:_REPLIES]]
    return Beside(half, stall_ms, median(replies))


def remembered(
    server: Server, load: Load, kafka: LocalKafka, rate: float, millions: int, say: Callable[[str], None]
) -> Memory:
    """Send so many million events, then stop Kafka and send on. Raises `Wrong`."""
    after, sent = {}, 0
    burst = replace(load, seconds=max(0.2, _MILLION / load.events / rate))
    say(f"  {millions} million events")
    while sent < millions * _MILLION:
        sent += _good(server, burst) * load.events
        after[f"{sent / _MILLION:.1f}"] = resident_bytes(server.pid) / _MIB
    before = peak_bytes(server.pid) / _MIB
    say("  Kafka stands still")
    try:
        for broker in kafka.brokers:
            broker.pause()
        _good(server, replace(load, rate=_STALLED_SHARE * rate, seconds=_STALLED_SECONDS))
        spooled = int(gauge(server.port, "sink_spool_stored_records"))
    finally:
        for broker in kafka.brokers:
            broker.resume()
    _await_drained(server)
    return Memory(after, before, peak_bytes(server.pid) / _MIB, spooled)


def gauge(port: int, name: str) -> float:
    """Return one of the own metrics of the gateway that listens there. Raises `Wrong` where it has none of the name."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = re.search(rf"^backhaul_{name} (\S+)$", text, re.MULTILINE)
    if found is None:
        raise Wrong(f"the gateway has no metric {name}")
    return float(found[1])


def _good(server: Server, load: Load) -> int:
    return int(load.send(server.program, server.port, server.app_key)["good"])


def _await_drained(server: Server) -> None:
    deadline = time.monotonic() + _DRAINED_SECONDS
    while gauge(server.port, "sink_spool_direct") != 1:
        if time.monotonic() > deadline:
            raise Wrong("the spool does not drain")
        time.sleep(0.2)
