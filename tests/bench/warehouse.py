"""Measure the way from the log to the warehouse: what an event costs there, and whether it keeps up with a gateway.

* `backhaul serve` as it stands: a gateway at full load, its embedded log, the consumer and a real ClickHouse, all on
  this machine's cores together with the load generator.
* Processor time is counted until the last event is stored and the server's merges have had some seconds, so work that
  is put off is not left out.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from consumers.log_file import LogFile
from consumers.positions import load, positions_path
from gateway.clickhouse_server import READER, connect, password_of
from gateway.config import Config, to_environment
from gateway.supervisor import runfile
from schemas.topics import BATCHES
from tests.bench.build import Missing
from tests.bench.processes import peak_bytes, used
from tests.bench.programs import PROGRAMS, Ground, port_for_program
from tests.bench.rounds import Load, Wrong

_SETTLE_SECONDS: Final = 5.0
_CATCH_UP_SECONDS: Final = 120.0
_STORED_BYTES_PER_EVENT: Final = """
SELECT (SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = 'backhaul')
    / (SELECT count() FROM backhaul.events)
"""
_PARTS: Final = ("gateway", "warehouse", "clickhouse")


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
    behind_records: int
    behind_seconds: float
    stored_bytes_per_event: float
    consumer_peak_mib: float
    clickhouse_peak_mib: float


def fill(ground: Ground, warm_up: Load, load_: Load, say: Callable[[str], None]) -> Filled:
    """Send a load of distinct batches to a whole system; return what its parts used. Raises `Missing` or `Wrong`."""
    directory = ground.directory / "whole"
    with _Served(directory, ground) as served:
        served.send(warm_up)
        served.await_caught_up()
        stored_bytes = served.stored_bytes_per_event()
        say("  filling the warehouse")
        before, first = served.used(), served.events()
        began = time.monotonic()
        good = served.send(load_)
        took, behind = time.monotonic() - began, served.behind()
        waited = served.await_caught_up()
        time.sleep(_SETTLE_SECONDS)
        after, events = served.used(), good * load_.events
        if served.events() - first != events:
            raise Wrong(f"{events} events were acknowledged and {served.events() - first} are stored")
        spent = {name: (after[name] - before[name]) / events * 1e6 for name in _PARTS}
        return Filled(
            events=events,
            seconds=took,
            events_per_second=events / took,
            consumer_us=spent["warehouse"],
            clickhouse_us=spent["clickhouse"],
            both_us=spent["warehouse"] + spent["clickhouse"],
            gateway_us=spent["gateway"],
            behind_records=behind,
            behind_seconds=waited,
            stored_bytes_per_event=stored_bytes,
            consumer_peak_mib=peak_bytes(served.pids["warehouse"]) / 2**20,
            clickhouse_peak_mib=peak_bytes(served.pids["clickhouse"]) / 2**20,
        )


class _Served:
    """A whole `backhaul serve`. A context manager that ends it."""

    def __init__(self, directory: Path, ground: Ground) -> None:
        self._directory = directory
        self._ground = ground
        self._port = port_for_program()
        self._process: subprocess.Popen[bytes] | None = None
        self.pids: dict[str, int] = {}
        self._log = LogFile(directory / "log")

    def __enter__(self) -> "_Served":
        store = (self._ground.directory / "store").as_uri()
        config = Config(data=str(self._directory), listen=f"127.0.0.1:{self._port}", store_url=store)
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

    def send(self, load_: Load) -> int:
        """Send it and return how many batches were acknowledged."""
        program = next(program for program in PROGRAMS if program.name == "backhaul-embedded")
        counted: dict[str, Any] = load_.send(program, self._port, self._ground.app_key)
        return int(counted["good"])

    def used(self) -> dict[str, float]:
        """Return the processor seconds of each part."""
        return {name: used(self.pids[name]).cpu_seconds for name in _PARTS}

    def end(self) -> int:
        """Return how many batches stand on the log."""
        return self._log.end(BATCHES)

    def behind(self) -> int:
        """Return how many batches the warehouse has not taken."""
        kept = load(positions_path(self._directory / "log", "warehouse"))
        return self.end() - (kept.positions.get(BATCHES, 0) if kept is not None else 0)

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
