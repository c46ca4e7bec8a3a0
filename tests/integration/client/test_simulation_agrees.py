"""One scripted device, lived by the real client and by the simulation: the same requests at the same moments."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import numpy as np

from gateway.client import Limits
from gateway.client.fleet.simulation.engine import Fleet
from gateway.client.fleet.simulation.gateways import Answers, SteadyGateway
from gateway.client.fleet.simulation.policies import Policy
from gateway.client.fleet.simulation.tallies import Tallies
from gateway.client.fleet.simulation.workload import DAY_SECONDS, Lives, Workload

if TYPE_CHECKING:
    from aiohttp import web

    from gateway.client import Client
    from gateway.client.fleet.simulation.workload import Flags, Floats
    from schemas.wire import Batch
    from tests.integration.client.conftest import World

# (launch, leave, decisions). In turn: by age and on leaving; by count; nothing to say; the lease is over; an outage,
# with retries by the timer; back in it, then silent; the outage is over; nothing waits; a crash; what it left; only the
# lease.
SESSIONS: list[tuple[float, float, list[float]]] = [
    (100.0, 1000.0, [150.0, 160.0, 700.0]),
    (2000.0, 2200.0, [2010.0 + number for number in range(60)]),
    (2600.0, 2700.0, []),
    (30_000.0, 30_100.0, [30_010.0]),
    (41_000.0, 42_500.0, [41_010.0, 41_100.0]),
    (45_000.0, 45_050.0, [45_010.0]),
    (52_000.0, 52_060.0, []),
    (52_400.0, 52_460.0, [52_410.0]),
    (60_000.0, 60_050.0, [60_010.0, 60_020.0]),
    (60_500.0, 60_560.0, []),
    (80_000.0, 80_050.0, []),
]
CRASHED = 60_050.0
OUTAGE = (40_000.0, 50_000.0)
RETRY_AFTER = 120
# From an event to the lock of the flush that it causes, the client's tasks hand over a few times.
_TURNS = 25


class EvenDice(random.Random):
    """Every roll is one half, here and in `EvenGenerator`."""

    def random(self) -> float:
        return 0.5


class EvenGenerator:
    def random(self, draws: int) -> Floats:
        return np.full(draws, 0.5)


class Recorder(SteadyGateway):
    def __init__(self, policy: Policy) -> None:
        super().__init__(policy)
        self.times: list[float] = []

    def answer(self, at: Floats, on_trial: Flags) -> Answers:
        answers = super().answer(at, on_trial)
        self.times.extend(at.tolist())
        away = (at >= OUTAGE[0]) & (at < OUTAGE[1])
        answers.taken[:] = ~away
        answers.retry_after_seconds[away] = RETRY_AFTER
        return answers


def simulated() -> list[float]:
    first = np.cumsum([0, *(len(decisions) for _, _, decisions in SESSIONS)])
    lives = Lives(
        devices=1,
        first_session=np.array([0, len(SESSIONS)]),
        launched=np.array([launch for launch, _, _ in SESSIONS]),
        left=np.array([leave for _, leave, _ in SESSIONS]),
        online=np.ones(len(SESSIONS), np.bool_),
        crashed=np.array([leave == CRASHED for _, leave, _ in SESSIONS]),
        first_decision=first,
        decided=np.array([at for _, _, decisions in SESSIONS for at in decisions]),
    )
    workload = Workload(days=1, lost_requests=0.0)
    policy = Policy("as told", events=50, seconds=300, lease_seconds=21_600)
    gateway, dice = Recorder(policy), EvenGenerator()
    limits = Limits(jitter_seconds=0.0)
    fleet = Fleet(lives, workload, policy, gateway, Tallies(workload), dice, limits)  # type: ignore[arg-type]
    fleet.advance(DAY_SECONDS)
    return gateway.times


def script() -> list[tuple[float, str]]:
    events = [
        event
        for launch, leave, decisions in SESSIONS
        for event in ((launch, "launch"), (leave, "leave"), *((at, "decide") for at in decisions))
    ]
    return sorted(events)


async def lived(world: World) -> list[float]:
    clock, times = world.clock, list[float]()

    async def note() -> None:
        times.append(clock.seconds)
        away = OUTAGE[0] <= clock.seconds < OUTAGE[1]
        world.gateway.answers[:] = [unavailable] if away else []

    def unavailable(_: Batch) -> web.StreamResponse:
        from aiohttp import web

        return web.json_response({"code": "unavailable"}, status=503, headers={"Retry-After": str(RETRY_AFTER)})

    world.gateway.before_answer = note
    client, has_crashed = await world.open(dice=EvenDice()), False
    for at, what in script():
        while (alarm := min(_alarms(clock), default=at)) < at:
            clock.turn(alarm - clock.seconds)
            await _quiet(client)
        clock.turn(at - clock.seconds)
        if what == "launch":
            client = await world.open(dice=EvenDice()) if has_crashed else client
            has_crashed = False
            await client.foreground()
        elif at == CRASHED:
            has_crashed = True
            await client.close()
        elif what == "leave":
            await client.background()
        else:
            client.predict("upsell", {"battery": 0.5, "charging": 1.0})
        await _quiet(client)
    return times


async def _quiet(client: Client) -> None:
    """Let every task go as far as it can without the clock: nothing is being sent, and nobody is about to."""
    turns = 0
    while turns < _TURNS:
        await asyncio.sleep(0)
        turns = 0 if client._sender._lock.locked() else turns + 1


def _alarms(clock: Any) -> list[float]:
    return [until for until, future in clock._sleepers if not future.done() and until > clock.seconds]


async def test_the_client_and_the_simulation_send_at_the_same_moments(world: World) -> None:
    real, model = await lived(world), simulated()
    assert [round(at) for at in real] == [round(at) for at in model]
    assert len(real) >= 15
