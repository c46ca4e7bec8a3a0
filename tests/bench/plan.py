"""What a run measures: the programs beside each other, and what the gateway promises beyond their one figure."""

import asyncio
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from random import Random
from typing import Final, get_args

import msgspec
from msgspec import Struct

from deploy.local_kafka import LocalKafka, LocalKafkaError, missing
from gateway.publish.kafka_topics import ensure_topics
from schemas.kafka import KafkaSettings, TopicSettings
from schemas.topics import TOPICS
from tests.bench import build, stage
from tests.bench.aims import DECISION, OURS, TWO_WORKERS, UPDATE_CHECK
from tests.bench.arrivals import kafka_bytes, kafka_records
from tests.bench.beside import Beside, beside, remembered
from tests.bench.bodies import Shape, bodies, distinct, framed
from tests.bench.build import Missing
from tests.bench.disk import need_room
from tests.bench.figures import Row, Sample, paired, rows
from tests.bench.machine import date_and_commit, machine, versions
from tests.bench.otlp import otlp
from tests.bench.ours import BATCHES_PREFIX, PARTITIONS
from tests.bench.programs import PROGRAMS, WITHOUT_LOG, WITHOUT_LOG_TWICE, Ground, Server, Speaks
from tests.bench.result import Result
from tests.bench.rounds import WARM_UP_SECONDS, Field, Load, Wrong
from tests.bench.warehouse import Filled, fill

Say = Callable[[str], None]

SIGNALS: Final = 12
_BODIES: Final = 200
_SEED: Final = 1
_CORE: Final = ("floor", "bare", OURS)
_LARGE: Final = 200
_OTHER_SIZES: Final = (0, 10, _LARGE)
_OTHER_ROUNDS: Final = 6
_MILLIONS: Final = 10
_FILLED_SECONDS: Final = 45.0
_PAIRS: Final = {
    DECISION: (OURS, "backhaul-ingest"),
    TWO_WORKERS: ("backhaul-2-workers", "backhaul-shared"),
}


class Plan(Struct, frozen=True):
    """`beside` adds what is measured of our gateway alone: other batch sizes, latency, memory, the warehouse."""

    programs: tuple[str, ...]
    rounds: int
    seconds: float
    events: int = 50
    beside: bool = True


# Many short rounds: a neighbour on the host disturbs for seconds at a time.
FULL: Final = Plan(programs=tuple(program.name for program in PROGRAMS), rounds=12, seconds=1.2)
QUICK: Final = Plan(programs=_CORE, rounds=15, seconds=1.0, beside=False)


def measure(plan: Plan, directory: Path, say: Say) -> Result:
    """Start Kafka where it is needed, measure, and return all of it. Raises `Missing` for what it cannot do without."""
    chosen = [program for program in PROGRAMS if program.name in plan.programs]
    need_room(directory, chosen, plan.seconds * plan.rounds + max(plan.seconds, WARM_UP_SECONDS), beside=plan.beside)
    about, load = machine(), build.load()
    with ExitStack() as stack:
        kafka: LocalKafka | str = ""
        if plan.beside or any(program.on_kafka for program in chosen):
            kafka = _kafka(directory, stack)
        return _Run(plan, _ground(plan, directory, kafka), load, kafka, say).result(about)


def _kafka(directory: Path, stack: ExitStack) -> LocalKafka | str:
    """Start Kafka and return it, or say why there is none."""
    if lacking := missing():
        return f"there is no Kafka: {lacking}"
    try:
        kafka = stack.enter_context(LocalKafka.create(directory / "kafka", 1))
        kafka.start()
    except LocalKafkaError as error:
        return f"there is no Kafka: {error}"
    return kafka


def _ground(plan: Plan, directory: Path, kafka: LocalKafka | str) -> Ground:
    bootstrap, brokers = "", tuple[int, ...]()
    if isinstance(kafka, LocalKafka):
        bootstrap = kafka.bootstrap
        settings = KafkaSettings(bootstrap=bootstrap, topic_prefix=BATCHES_PREFIX)
        asyncio.run(ensure_topics(settings, TopicSettings(partitions=PARTITIONS, replication=1), TOPICS))
        brokers = tuple(pid for broker in kafka.brokers if (pid := broker.pid) is not None)
    key = asyncio.run(stage.set_up(directory))
    shutil.copytree(directory / "store" / "apps", directory / "store-without-models" / "apps")
    no_kafka = kafka if isinstance(kafka, str) else ""
    return Ground(directory, bootstrap, key, plan.events, _made(plan.events)[0], brokers, no_kafka)


class _Run:
    """One run of a plan on prepared ground."""

    def __init__(self, plan: Plan, ground: Ground, load: Path, kafka: LocalKafka | str, say: Say) -> None:
        self._plan, self._ground, self._program, self._kafka, self._say = plan, ground, load, kafka, say
        self._dice = Random(_SEED)  # noqa: S311 - shuffles the order
        self._quotients: dict[str, float] = {}
        self._kept_bytes: dict[str, float] = {}

    def result(self, about: dict[str, str]) -> Result:
        """Measure everything."""
        plan, load = self._plan, self._load(self._plan.events)
        chosen = [each for each in PROGRAMS if each.name in plan.programs]
        with Field(chosen, self._ground, self._say) as field:
            samples = list(field.rounds(load, plan.rounds, self._dice))
            found = rows(samples, {each.name: each.about for each in chosen}, plan.events)
            alone = self._beside(field, load, found) if plan.beside else None
        self._compare(samples)
        sizes = self._other_sizes() if plan.beside else {}
        filled = self._filled(load, found, field.missing) if plan.beside else None
        date, commit = date_and_commit()
        return Result(
            date=date,
            commit=commit,
            machine=about,
            versions=versions(),
            events=plan.events,
            signals=SIGNALS,
            seconds=plan.seconds,
            connections=load.connections,
            bytes_per_event={f"{count} signals": _bytes_per_event(plan.events, count) for count in (2, SIGNALS)},
            programs=found,
            left_out=field.missing,
            other_sizes=sizes,
            kept_bytes=self._kept_bytes,
            quotients=self._quotients,
            two_workers_rate=self._two_workers_rate() if plan.beside else None,
            beside=alone,
            filled=filled,
        )

    def _compare(self, samples: Sequence[Sample]) -> None:
        for name, (one, other) in _PAIRS.items():
            if (quotient := paired(samples, one, other)) is not None:
                self._quotients[name] = quotient

    def _other_sizes(self) -> dict[str, dict[str, Row]]:
        """Return rows by events a batch; without events it is the update check."""
        sizes = {}
        for events in _OTHER_SIZES:
            there = replace(self._ground, events=events, body=_made(events)[0])
            with Field([each for each in PROGRAMS if each.name in _CORE], there, self._say) as field:
                records, kept = self._on_kafka()
                samples = list(field.rounds(self._load(events), _OTHER_ROUNDS, self._dice))
                records, kept = (
                    after - before for after, before in zip(self._on_kafka(), (records, kept), strict=True)
                )
            if records:
                self._kept_bytes[str(events)] = kept / records
            sizes[str(events)] = rows(samples, {}, events)
            if not events and (quotient := paired(samples, OURS, "bare")) is not None:
                self._quotients[UPDATE_CHECK] = quotient
        return sizes

    def _two_workers_rate(self) -> float | None:
        """Return the batches a second of two workers as a multiple of one's."""
        there = replace(self._ground, events=_LARGE, body=_made(_LARGE)[0])
        with Field([WITHOUT_LOG, WITHOUT_LOG_TWICE], there, self._say) as field:
            samples = list(field.rounds(self._load(_LARGE), _OTHER_ROUNDS, self._dice))
        return paired(samples, WITHOUT_LOG_TWICE.name, WITHOUT_LOG.name, attrgetter("batches_per_second"))

    def _on_kafka(self) -> tuple[int, int]:
        """Return how many records Kafka has, and the bytes that they take."""
        if isinstance(self._kafka, str):
            return 0, 0
        return kafka_records(self._kafka.bootstrap), kafka_bytes(self._kafka)

    def _beside(self, field: Field, load: Load, found: dict[str, Row]) -> Beside | None:
        ours = [server for server in field.servers if server.program.name == OURS]
        if not ours or OURS not in found:
            return None
        try:
            return self._looked_at(ours[0], load, found[OURS].batches_per_second)
        except Wrong as wrong:
            field.missing[f"{OURS} alone"] = str(wrong)
            return None

    def _looked_at(self, server: Server, load: Load, rate: float) -> Beside:
        alone = beside(server, load, self._ground, rate, _made(load.events), self._say)
        if isinstance(self._kafka, str):
            return alone
        memory = remembered(server, load, self._kafka, rate, _MILLIONS, self._say)
        return msgspec.structs.replace(alone, memory=memory)

    def _filled(self, load: Load, found: dict[str, Row], missing: dict[str, str]) -> Filled | None:
        if OURS not in found:
            return None
        rate = found[OURS].batches_per_second
        full = self._distinct("distinct", load, _FILLED_SECONDS, rate)
        half = self._distinct("others", load, _FILLED_SECONDS / 2, rate)
        try:
            return fill(self._ground, load, full, half, self._say)
        except (Missing, Wrong) as wrong:
            missing["warehouse"] = str(wrong)
            return None
        finally:
            for each in (full, half):
                each.bodies["batches"].unlink()

    def _distinct(self, name: str, load: Load, seconds: float, rate: float) -> Load:
        """Return a load of batches that are all stored anew, as many as are sent at most."""
        file = self._ground.directory / name
        with file.open("wb") as out:
            for body in distinct(_made(load.events), int(seconds * rate), self._dice.randrange(2**32)):
                out.write(framed([body]))
        return replace(load, bodies={"batches": file}, seconds=seconds)

    def _load(self, events: int) -> Load:
        files: dict[Speaks, Path] = {name: self._ground.directory / f"{name}-{events}" for name in get_args(Speaks)}
        files["batches"].write_bytes(framed(_made(events)))
        files["otlp"].write_bytes(framed([otlp(body) for body in _made(events)]))
        return Load(self._program, files, events, self._plan.seconds)


def _made(events: int, signals: int = SIGNALS) -> list[bytes]:
    return bodies(Shape(events, signals), _BODIES, _SEED)


def _bytes_per_event(events: int, signals: int) -> float:
    return sum(map(len, _made(events, signals))) / _BODIES / events
