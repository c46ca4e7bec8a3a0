"""What a run measures: the programs beside each other, and what the gateway promises beyond their one figure."""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Final, get_args

from msgspec import Struct

from deploy.local_kafka import LocalKafka, LocalKafkaError
from gateway.publish.kafka_topics import ensure_topics
from schemas.kafka import KafkaSettings, TopicSettings
from schemas.topics import TOPICS
from tests.bench import build, stage
from tests.bench.bodies import Shape, bodies, framed
from tests.bench.build import Missing
from tests.bench.figures import Result, Row, Sample, rows
from tests.bench.machine import date_and_commit, machine, versions
from tests.bench.otlp import otlp
from tests.bench.ours import BATCHES_PREFIX, PARTITIONS
from tests.bench.programs import PROGRAMS, Ground, Speaks
from tests.bench.rounds import Field, Load, measured

Say = Callable[[str], None]

SIGNALS: Final = 12
_BODIES: Final = 200
_SEED: Final = 1
_OURS: Final = "backhaul"
_CORE: Final = ("floor", "bare", _OURS)
_OTHER_SIZES: Final = (0, 10, 200)
_OTHER_ROUNDS: Final = 3


class Plan(Struct, frozen=True):
    """`beside` adds what is measured of our gateway alone: other batch sizes, the update check, latency."""

    programs: tuple[str, ...]
    rounds: int
    seconds: float
    events: int = 50
    beside: bool = True


FULL: Final = Plan(programs=tuple(program.name for program in PROGRAMS), rounds=7, seconds=2.0)
QUICK: Final = Plan(programs=_CORE, rounds=5, seconds=1.5, beside=False)


def measure(plan: Plan, directory: Path, say: Say) -> Result:
    """Start Kafka, measure, and return all of it. Raises `Missing` where the machine lacks what it takes."""
    load = build.load()
    about = machine()
    try:
        with LocalKafka.create(directory / "kafka", 1) as kafka:
            kafka.start()
            return _measured(plan, _ground(plan, directory, kafka.bootstrap), load, about, say)
    except LocalKafkaError as error:
        raise Missing(str(error)) from error


def _ground(plan: Plan, directory: Path, bootstrap: str) -> Ground:
    settings = KafkaSettings(bootstrap=bootstrap, topic_prefix=BATCHES_PREFIX)
    asyncio.run(ensure_topics(settings, TopicSettings(partitions=PARTITIONS, replication=1), TOPICS))
    key = asyncio.run(stage.set_up(directory))
    shutil.copytree(directory / "store" / "apps", directory / "store-without-models" / "apps")
    return Ground(directory, bootstrap, key, plan.events, _made(plan.events)[0])


def _measured(plan: Plan, ground: Ground, program: Path, about: dict[str, str], say: Say) -> Result:
    load = _load(program, ground.directory, plan.events, plan.seconds)
    chosen = [each for each in PROGRAMS if each.name in plan.programs]
    dice = Random(_SEED)  # noqa: S311 - shuffles the order
    with Field(chosen, ground, say) as field:
        samples = list(field.rounds(load, plan.rounds, dice))
        found = rows(samples, {each.name: each.about for each in chosen}, plan.events)
        half = _half_load(plan, field, load, ground, found) if plan.beside else None
    sizes = _other_sizes(plan, load, ground, dice, say) if plan.beside else {}
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
        half_load=half,
    )


def _other_sizes(plan: Plan, load: Load, ground: Ground, dice: Random, say: Say) -> dict[str, dict[str, Row]]:
    """Return rows by events a batch; without events it is the update check."""
    sizes = {}
    for events in _OTHER_SIZES:
        other = _load(load.program, ground.directory, events, plan.seconds)
        there = replace(ground, events=events, body=_made(events)[0])
        with Field([each for each in PROGRAMS if each.name in _CORE], there, say) as field:
            sizes[str(events)] = rows(list(field.rounds(other, _OTHER_ROUNDS, dice)), {}, events)
    return sizes


def _half_load(plan: Plan, field: Field, load: Load, ground: Ground, found: dict[str, Row]) -> Sample | None:
    """Send our gateway half of what it took, at an even pace."""
    ours = [server for server in field.servers if server.program.name == _OURS]
    if not ours or _OURS not in found:
        return None
    paced = replace(load, rate=found[_OURS].batches_per_second / 2, seconds=3 * plan.seconds)
    return measured(ours[0], paced, ground, 1)


def _load(program: Path, directory: Path, events: int, seconds: float) -> Load:
    files: dict[Speaks, Path] = {speaks: directory / f"{speaks}-{events}" for speaks in get_args(Speaks)}
    files["batches"].write_bytes(framed(_made(events)))
    files["otlp"].write_bytes(framed([otlp(body) for body in _made(events)]))
    return Load(program, files, events, seconds)


def _made(events: int, signals: int = SIGNALS) -> list[bytes]:
    return bodies(Shape(events, signals), _BODIES, _SEED)


def _bytes_per_event(events: int, signals: int) -> float:
    return sum(map(len, _made(events, signals))) / _BODIES / events
