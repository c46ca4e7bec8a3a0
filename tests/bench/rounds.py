"""Measure the programs in interleaved, shuffled rounds: what disturbs the machine disturbs all of them.

* Every answer is checked by the load generator, and every record that a program acknowledged must be on its log.
* The first round warms up (compilers at run time, Kafka's too, page cache), is longer, and is not counted.
"""

import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final

from tests.bench.arrivals import Arrivals
from tests.bench.build import Missing
from tests.bench.cores import own_core
from tests.bench.figures import Sample
from tests.bench.processes import peak_bytes, used
from tests.bench.programs import Ground, Program, Server, Speaks

_CONNECTIONS: Final = 64
_ARRIVED_SECONDS: Final = 5.0
WARM_UP_SECONDS: Final = 3.0


class Wrong(Exception):
    """A server that answered wrongly, or acknowledged what did not arrive: its figures mean nothing."""


@dataclass(frozen=True)
class Load:
    """What is sent, and how: `rate` 0 is as fast as answers come."""

    program: Path
    bodies: Mapping[Speaks, Path]
    events: int
    seconds: float
    rate: float = 0.0
    connections: int = _CONNECTIONS

    def send(self, to: Program, port: int, app_key: str) -> dict[str, Any]:
        """Send it to a program and return what the generator counted. Raises `Wrong`."""
        numbers = [self.connections * to.workers, self.seconds, self.rate]
        target = [str(port), str(self.bodies[to.speaks]), to.path, to.answer(self.events)]
        command = [str(self.program), *target, *map(str, numbers), app_key]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=self.seconds + 60)
        if done.returncode:
            raise Wrong(f"the load generator ended with {done.returncode}: {done.stderr.strip()}")
        counted: dict[str, Any] = json.loads(done.stdout)
        if counted["bad"] or not counted["good"]:
            raise Wrong(f"{counted['bad']} bad answers, the first: {counted['first_bad']!r}")
        return counted


class Field:
    """The programs that could be started, together with those that could not, each with the reason."""

    def __init__(self, programs: Sequence[Program], ground: Ground, say: Callable[[str], None]) -> None:
        self._programs = programs
        self._ground = ground
        self._say = say
        self._stack = ExitStack()
        self.servers: list[Server] = []
        self.missing: dict[str, str] = {}

    def __enter__(self) -> "Field":
        with self._stack:  # ends those that run where the start is interrupted
            for program in self._programs:
                self._start(program)
            self._stack = self._stack.pop_all()
        return self

    def _start(self, program: Program) -> None:
        self._say(f"starting {program.name}")
        try:
            self.servers.append(self._stack.enter_context(Server(program, self._ground)))
        except Missing as missing:
            self.missing[program.name] = str(missing)
            self._say(f"  left out: {missing}")

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def rounds(self, load: Load, count: int, dice: Random) -> Iterator[Sample]:
        """Yield the samples of `count` rounds; a program that fails is left out from then on."""
        for number in range(count + 1):
            order = list(self.servers)
            dice.shuffle(order)
            for server in order:
                sent = load if number else replace(load, seconds=max(load.seconds, WARM_UP_SECONDS))
                try:
                    sample = measured(server, sent, self._ground, number)
                except Wrong as wrong:
                    self.missing[server.program.name] = str(wrong)
                    self.servers.remove(server)
                    self._say(f"  {server.program.name} is out: {wrong}")
                    continue
                self._say(f"  round {number} {sample.program}: {sample.cpu_us:.0f} us")
                if number:
                    yield sample


def measured(server: Server, load: Load, ground: Ground, number: int) -> Sample:
    """Send the load to one server and return what it used. Raises `Wrong`."""
    arrivals = Arrivals(server.program, server.directory, ground)
    with own_core(server.pid, ground.brokers) if server.program.own_core else nullcontext():
        before, arrived = used(server.pid), arrivals.count()
        counted = load.send(server.program, server.port, ground.app_key)
        good = counted["good"]
        if (wanted := arrivals.of(good)) is not None:
            _await_arrivals(arrivals, arrived + wanted)
        spent = used(server.pid).since(before)
    return Sample(
        program=server.program.name,
        round=number,
        batches=good,
        cpu_us=spent.cpu_seconds / good * 1e6,
        system_share=spent.system_seconds / max(1e-9, spent.user_seconds + spent.system_seconds),
        batches_per_second=good / counted["seconds"],
        p50_ms=counted["p50_ms"],
        p99_ms=counted["p99_ms"],
        max_ms=counted["max_ms"],
        peak_mib=peak_bytes(server.pid) / 2**20,
    )


def _await_arrivals(arrivals: Arrivals, wanted: int) -> None:
    """Return when so many records are there: update checks are answered before they are. Raises `Wrong`."""
    deadline = time.monotonic() + _ARRIVED_SECONDS
    while (there := arrivals.count()) != wanted:
        if there > wanted or time.monotonic() > deadline:
            raise Wrong(f"{there} records arrived where the acknowledged batches are {wanted}")
        time.sleep(0.05)
