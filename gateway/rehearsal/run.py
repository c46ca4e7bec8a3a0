"""Run a rehearsal: a gateway, processes of clients, a rollout and its stop, an outage; then count and compare."""

import asyncio
import os
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from itertools import pairwise
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

import numpy as np
from msgspec import Struct

from consumers.source import EmbeddedSource
from gateway.client.fleet.run import bundled_upsell
from gateway.client.fleet.shoppers import MODEL
from gateway.client.fleet.simulation.workload import Floats
from gateway.config import Config
from gateway.demo.stage import APP, model_file, set_up
from gateway.rehearsal.actor import Acted, Actor
from gateway.rehearsal.acts import REFRESH_SECONDS, Scene, Tell, act, operator
from gateway.rehearsal.counted import CONSUMER, Counted, count
from gateway.rehearsal.crowd import Part, Played, perform
from gateway.rehearsal.figures import Figures, Trace, by_minute, figures
from gateway.rehearsal.plan import Moments, Plan, policy_of
from gateway.rehearsal.predicted import predict, steady_rate
from gateway.rehearsal.script import lives_of
from gateway.rehearsal.served import Gateway, RehearsalFailed
from gateway.releases.rollouts import change
from gateway.releases.store import Store
from gateway.releases.transitions import hold
from gateway.supervisor.ports import free_port
from schemas.topics import BATCHES

_SETTLE_SECONDS: Final = 60.0
_FEWEST: Final = 100


class Rehearsed(Struct, frozen=True, kw_only=True):
    """What was measured, what was predicted (once for each draw of the dice), and what it took.

    `late_p95_seconds`: how far behind the script decisions were made, and `answer_*`: how long from a launch until its
    answer was obeyed, both in device seconds: what a slow machine or too fast a clock does.
    """

    devices: int
    days: float
    day_seconds: float
    budget_per_second: float
    measured: Figures
    predicted: list[Figures]
    moments: dict[str, float]
    counted: Counted
    produced: int
    dropped: int
    queued: int
    unsettled: int
    late_p95_seconds: float
    answer_p50_seconds: float
    answer_p95_seconds: float
    processor_seconds: float
    resident_mib: float
    processes: int


async def rehearse(plan: Plan, directory: Path, devices: Path, tell: Tell) -> Rehearsed:
    """Run it in two empty directories, the system's and the devices'.

    Raises `RehearsalFailed`, and OSError where there is no room for the files.
    """
    config = Config(data=str(directory))
    policy = policy_of(config)
    tell("simulating the same lives without an outage")
    steady = await asyncio.to_thread(steady_rate, plan, policy)
    budget = float(steady.max()) * plan.budget_share
    settings = {"REFRESH_SECONDS": str(REFRESH_SECONDS), "FLUSH_BUDGET_REQUESTS_PER_SECOND": repr(budget)}
    settings |= {"LOG_LEVEL": "warning", "CONSUMER_LISTEN": ""}
    stage = await set_up(directory, Store.open(config.store_address))
    # Else the release would reach everyone for the moment between its publication and the rollout.
    held = operator("wait for a rollout")
    await change(stage.store, APP, MODEL, lambda last: hold(last, APP, MODEL, 1, held))
    async with AsyncExitStack() as stack:
        port = free_port()
        gateway = await Gateway.prepare(directory, port, plan.pace, settings)
        stack.push_async_callback(gateway.kill)
        await gateway.serve()
        successor = await Gateway.prepare(directory, port, plan.pace, settings)
        stack.push_async_callback(successor.kill)
        source = await EmbeddedSource.open(directory / "log", CONSUMER, topics=(BATCHES,))
        await source.close()
        scene = Scene(plan, devices, stage, gateway, successor, port, tell)
        moments, played = await _play(scene)
        await successor.end()
    tell("counting the log")
    counted = await count(directory / "log")
    tell("simulating what happened")
    everyone = [acted for part in played for acted in part.acted]
    predicted = await asyncio.to_thread(predict, plan, policy, moments, steady, budget, everyone)
    return _rehearsed(plan, moments, played, counted, predicted, steady, budget, scene.told_seconds_most)


async def _play(scene: Scene) -> tuple[Moments, list[Played]]:
    """Open the crowd, begin, act, and wait for the crowd's end."""
    plan, tell = scene.plan, scene.tell
    parts = _parts(scene)
    tell(f"opening {plan.devices} devices in {len(parts)} processes")
    async with AsyncExitStack() as stack:
        context = get_context("spawn")
        lines = []
        for part in parts:
            ours, theirs = context.Pipe()
            process = context.Process(target=perform, args=(part, theirs), daemon=True)
            process.start()
            theirs.close()
            stack.push_async_callback(_end, process)
            lines.append((process, ours))
        await asyncio.gather(*(_receive(*each) for each in lines))
        began = time.time() + 0.5
        for _, line in lines:
            line.send(began)
        acting = asyncio.create_task(act(scene, began))
        try:
            played = await asyncio.gather(*(_receive(*each) for each in lines))
        finally:
            acting.cancel()  # over by now, unless a process of clients has died
            await asyncio.wait((acting,))
        return acting.result(), [each for each in played if isinstance(each, Played)]


def _parts(scene: Scene) -> list[Part]:
    """Share the devices out: a process a core, but none for a handful."""
    plan = scene.plan
    processes = max(1, min(os.cpu_count() or 1, plan.devices // _FEWEST))
    edges = [plan.devices * number // processes for number in range(processes + 1)]
    return [
        Part(
            plan=plan,
            first=first,
            last=last,
            url=f"http://127.0.0.1:{scene.port}",
            app_key=scene.stage.app_key,
            root_keys=(scene.stage.public_key,),
            bundled=bundled_upsell(model_file(1)),
            directory=scene.devices,
            settle_seconds=_SETTLE_SECONDS,
        )
        for first, last in pairwise(edges)
    ]


async def _receive(process: BaseProcess, line: Connection) -> object:
    """Wait for what a process has to say. Raises `RehearsalFailed` when it dies instead."""
    try:
        return await asyncio.to_thread(line.recv)
    except EOFError:
        raise RehearsalFailed("a process of clients ended before its time; what it said is above") from None


async def _end(process: BaseProcess) -> None:
    process.kill()
    await asyncio.to_thread(process.join)


def _rehearsed(
    plan: Plan,
    moments: Moments,
    played: Sequence[Played],
    counted: Counted,
    predicted: list[Figures],
    steady: Floats,
    budget: float,
    told_seconds_most: float,
) -> Rehearsed:
    reports = [report for part in played for report in part.reports]
    produced, queued = sum(report.produced for report in reports), sum(report.queued for report in reports)
    dropped = sum(sum(report.dropped.values()) for report in reports)
    lost = produced - dropped - queued - counted.events - counted.refused
    everyone = [acted for part in played for acted in part.acted]
    lives = lives_of([acted.sessions for acted in everyone], plan.seconds)
    late = [late for acted in everyone for late in acted.late_seconds]
    answers = [seconds for acted in everyone for _, seconds in acted.answers]
    trace = Trace(
        requests=by_minute(plan, [moment for each in everyone for moment in each.sent]),
        learned_at=np.array([each.knew_at for each in everyone]),
        stopped_decisions=_stopped_decisions(everyone, moments),
        refused=sum(each.refused for each in everyone),
        told_seconds_most=told_seconds_most,
    )
    return Rehearsed(
        devices=plan.devices,
        days=plan.days,
        day_seconds=plan.day_seconds,
        budget_per_second=budget,
        measured=figures(plan, lives, moments, steady, trace, lost + dropped, counted.doubled),
        predicted=predicted,
        moments=asdict(moments),
        counted=counted,
        produced=produced,
        dropped=dropped,
        queued=queued,
        unsettled=sum(1 for report in reports if report.unsettled),
        late_p95_seconds=_percentile(late, 95),
        answer_p50_seconds=_percentile(answers, 50),
        answer_p95_seconds=_percentile(answers, 95),
        processor_seconds=sum(part.processor_seconds for part in played),
        resident_mib=sum(part.resident_mib for part in played),
        processes=len(played),
    )


def _percentile(values: list[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else 0.0


def _stopped_decisions(everyone: Sequence[Acted], moments: Moments) -> float:
    """Return the decisions after the stop, per device that had run the release before it."""
    ran = [acted for acted in everyone if acted.ran_at < moments.stopped]
    after = [at for acted in ran for at in acted.decided.get(Actor.trial, ()) if at >= moments.stopped]
    return len(after) / max(1, len(ran))
