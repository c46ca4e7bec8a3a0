"""Measure the way from the log to the warehouse: what an event costs there, and whether it keeps up with a gateway.

* `backhaul serve` as it stands: a gateway at full load, its embedded log, the consumer and a real ClickHouse, all on
  this machine's cores together with the load generator.
* Processor time is counted until the last event is stored and the server's merges have had some seconds, so work that
  is put off is not left out.
* Keeping up is judged while the load lasts, after a warm-up: by what is stored beside what is taken in, and by the most
  that waits. A range that is under way always does, however long the load is.
* At half of that load it is asked how long devices wait for an answer beside all this.
"""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import linear_regression
from typing import Any, Final, NamedTuple

from msgspec import Struct

from consumers.log_file import LogFile
from consumers.positions import load, positions_path
from gateway.clickhouse_server import READER, connect, password_of
from gateway.config import Config, to_environment
from gateway.supervisor import runfile
from schemas.topics import BATCHES
from tests.bench.beside import gauge
from tests.bench.build import Missing
from tests.bench.processes import peak_bytes, used
from tests.bench.programs import PROGRAMS, Ground, port_for_program
from tests.bench.rounds import Load, Wrong

_SETTLE_SECONDS: Final = 5.0
_CATCH_UP_SECONDS: Final = 120.0
_WARM_UP_SHARE: Final = 1 / 3
_LOOK_EVERY_SECONDS: Final = 0.1
_STORED_BYTES_PER_EVENT: Final = """
SELECT (SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'backhaul')
    / (SELECT count() FROM backhaul.events)
"""
_PARTS: Final = ("gateway", "warehouse", "clickhouse")


class Look(NamedTuple):
    """How many batches were taken in and stored, so many seconds after the load began."""

    seconds: float
    taken: int
    stored: int


class KeptUp(Struct, frozen=True, kw_only=True):
    """The last `seconds` of a load. Rates are of events.

    `behind_seconds` is the most that was not stored yet, in seconds of what was taken in.
    """

    seconds: float
    taken_per_second: float
    stored_per_second: float
    behind_seconds: float


class HalfLoad(Struct, frozen=True, kw_only=True):
    """How devices were answered at half the load; `loop_stall_ms` is the gateway's own metric, full load included."""

    events_per_second: float
    p50_ms: float
    p99_ms: float
    loop_stall_ms: float


class Filled(Struct, frozen=True, kw_only=True):
    """What was stored, and what it took. Times are of the processor, per event, but for `behind_seconds`.

    `stored_bytes_per_event` is of the warm-up's batches, which all differ: the others repeat their events.
    """

    events: int
    seconds: float
    events_per_second: float
    consumer_us: float
    clickhouse_us: float
    both_us: float
    gateway_us: float
    kept_up: KeptUp
    behind_seconds: float
    half_load: HalfLoad
    stored_bytes_per_event: float
    consumer_peak_mib: float
    clickhouse_peak_mib: float


def fill(ground: Ground, warm_up: Load, load_: Load, other: Load, say: Callable[[str], None]) -> Filled:
    """Send a load of distinct batches to a whole system, then half as many of others; return what its parts used.

    Raises `Missing` or `Wrong`.
    """
    directory = ground.directory / "whole"
    with _Served(directory, ground) as served:
        served.send(warm_up)
        served.await_caught_up()
        stored_bytes = served.stored_bytes_per_event()
        say("  filling the warehouse")
        before, first = served.used(), served.events()
        began = time.monotonic()
        with served.looking() as looks:
            good = int(served.send(load_)["good"])
        took = time.monotonic() - began
        waited = served.await_caught_up()
        time.sleep(_SETTLE_SECONDS)
        after, events = served.used(), good * load_.events
        if served.events() - first != events:
            raise Wrong(f"{events} events were acknowledged and {served.events() - first} are stored")
        spent = {name: (after[name] - before[name]) / events * 1e6 for name in _PARTS}
        say("  half of that")
        counted = served.send(replace(other, rate=good / took / 2))
        return Filled(
            events=events,
            seconds=took,
            events_per_second=events / took,
            consumer_us=spent["warehouse"],
            clickhouse_us=spent["clickhouse"],
            both_us=spent["warehouse"] + spent["clickhouse"],
            gateway_us=spent["gateway"],
            kept_up=kept_up(looks, load_),
            behind_seconds=waited,
            half_load=HalfLoad(
                events_per_second=counted["good"] / counted["seconds"] * other.events,
                p50_ms=counted["p50_ms"],
                p99_ms=counted["p99_ms"],
                loop_stall_ms=1000 * gauge(served.port, "loop_stall_seconds"),
            ),
            stored_bytes_per_event=stored_bytes,
            consumer_peak_mib=peak_bytes(served.pids["warehouse"]) / 2**20,
            clickhouse_peak_mib=peak_bytes(served.pids["clickhouse"]) / 2**20,
        )


def kept_up(looks: Sequence[Look], load_: Load) -> KeptUp:
    """Compare what was stored with what was taken in, in the last two thirds of the load.

    Events are stored by the hundred thousand, so how fast what waits grows is fitted, not taken from two moments: one
    range more or less in 20 s makes a hundredth or two of the rate. Full load is what a gateway takes that stands back.
    """
    counted = [look for look in looks if load_.seconds * _WARM_UP_SHARE <= look.seconds <= load_.seconds]
    seconds = [look.seconds for look in counted]
    waiting = [look.taken - look.stored for look in counted]
    taken = linear_regression(seconds, [look.taken for look in counted]).slope
    return KeptUp(
        seconds=seconds[-1] - seconds[0],
        taken_per_second=taken * load_.events,
        stored_per_second=(taken - linear_regression(seconds, waiting).slope) * load_.events,
        behind_seconds=max(waiting) / taken,
    )


class _Served:
    """A whole `backhaul serve`. A context manager that ends it."""

    def __init__(self, directory: Path, ground: Ground) -> None:
        self._directory = directory
        self._ground = ground
        self.port = port_for_program()
        self._process: subprocess.Popen[bytes] | None = None
        self.pids: dict[str, int] = {}
        self._log = LogFile(directory / "log")

    def __enter__(self) -> "_Served":
        store = (self._ground.directory / "store").as_uri()
        config = Config(data=str(self._directory), listen=f"127.0.0.1:{self.port}", store_url=store)
        command = [sys.executable, "-m", "gateway.cli", "serve", "--json"]
        with (self._ground.directory / "whole.log").open("wb") as output:
            environ = os.environ | to_environment(config)
            self._process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=output)
        said = self._process.stdout.readline() if self._process.stdout else b""
        run = runfile.read(self._directory)
        if not said or run is None or not set(_PARTS) <= set(run.children):
            self.__exit__()
            raise Missing("backhaul serve does not start: " + (self._ground.directory / "whole.log").read_text()[-400:])
        self.pids, self._clickhouse = run.children, run.clickhouse_url
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()

    def send(self, load_: Load) -> dict[str, Any]:
        """Send it and return what was counted."""
        program = next(program for program in PROGRAMS if program.name == "backhaul-embedded")
        return load_.send(program, self.port, self._ground.app_key)

    @contextmanager
    def looking(self) -> Iterator[list[Look]]:
        """Look now and then how far it is, until the block ends."""
        looks: list[Look] = []
        began, ended = time.monotonic(), threading.Event()

        def look() -> None:
            log = LogFile(self._directory / "log")
            while not ended.wait(_LOOK_EVERY_SECONDS):
                taken = log.end(BATCHES)
                looks.append(Look(time.monotonic() - began, taken, self._stored()))
            log.drop()

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield looks
        finally:
            ended.set()
            thread.join()

    def used(self) -> dict[str, float]:
        """Return the processor seconds of each part."""
        return {name: used(self.pids[name]).cpu_seconds for name in _PARTS}

    def end(self) -> int:
        """Return how many batches stand on the log."""
        return self._log.end(BATCHES)

    def behind(self) -> int:
        """Return how many batches the warehouse has not taken."""
        return self.end() - self._stored()

    def _stored(self) -> int:
        kept = load(positions_path(self._directory / "log", "warehouse"))
        return kept.positions.get(BATCHES, 0) if kept is not None else 0

    def await_caught_up(self) -> float:
        """Wait until the warehouse has all; return how long that took. Raises `Wrong`."""
        began = time.monotonic()
        while self.behind():
            if time.monotonic() - began > _CATCH_UP_SECONDS:
                raise Wrong(f"the warehouse is {self.behind()} batches behind and does not catch up")
            time.sleep(0.05)
        return time.monotonic() - began

    def stored_bytes_per_event(self) -> float:
        """Return what an event takes on ClickHouse's disk, in all tables."""
        return asyncio.run(self._asked(_STORED_BYTES_PER_EVENT))

    def events(self) -> int:
        """Return how many events are stored."""
        return int(asyncio.run(self._asked("SELECT count() FROM backhaul.events")))

    async def _asked(self, sql: str) -> float:
        client = await connect(self._clickhouse, READER, password_of(self._directory / "clickhouse", READER))
        try:
            return float((await client.query(sql)).result_rows[0][0])
        finally:
            await client.close()
