"""What happens to a gateway while the devices live: a rollout, its stop, a kill, and another gateway in its place.

* Killed, so connections break and are then refused. A network that hangs ends in the same wait, after the client's
  timeout; that is in real seconds, which are hours here, so it is tested with one client and no hurry.
"""

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from gateway.client.fleet.shoppers import MODEL
from gateway.demo.stage import APP, Stage
from gateway.rehearsal.actor import Actor
from gateway.rehearsal.plan import Moments, Plan
from gateway.rehearsal.served import Gateway
from gateway.releases.rollouts import change
from gateway.releases.transitions import Change, roll_back, start
from gateway.releases.transitions import Plan as RolloutPlan

_LOOK_EVERY_SECONDS: Final = 0.25
# How often a gateway reads its store anew; half of it after a change one of two gateways has seen that.
REFRESH_SECONDS: Final = 0.1
_TOLD: Final = re.compile(r"^backhaul_told_flush_seconds (\S+)$", re.MULTILINE)

Tell = Callable[[str], None]


@dataclass
class Scene:
    """What the parts of a rehearsal share. `successor` waits, all loaded, to take the gateway's place."""

    plan: Plan
    devices: Path
    stage: Stage
    gateway: Gateway
    successor: Gateway
    port: int
    tell: Tell
    told_seconds_most: float = 0.0


async def act(scene: Scene, began: float) -> Moments:
    """Publish, take back, kill and start again, each at its moment; return when it really was."""
    plan, planned, tell = scene.plan, scene.plan.moments, scene.tell

    def now() -> float:
        return (time.time() - began) * plan.pace

    async def until(moment: float) -> None:
        while (left := (moment - now()) / plan.pace) > 0:
            await _look(scene)
            await asyncio.sleep(min(left, _LOOK_EVERY_SECONDS))

    tell(f"day 0 of {plan.days:g}: release 1 is in the app")
    await until(planned.published)
    await _roll_out(scene.stage)
    published = now()
    tell(f"day {published / 86_400:.1f}: release 2 is rolled out to half of the devices")
    await until(planned.stopped)
    await _take_back(scene.stage)
    stopped = now()
    tell(f"day {stopped / 86_400:.1f}: release 2 is taken back")
    await until(planned.killed)
    await scene.gateway.kill()
    killed = now()
    tell(f"day {killed / 86_400:.1f}: the gateway is killed")
    await until(planned.back)
    await scene.successor.serve()
    back = now()
    tell(f"day {back / 86_400:.1f}: another gateway is there, {(back - killed) / 3600:.1f} hours later")
    await until(plan.seconds)
    tell("every device says what it still has to say")
    return Moments(published, stopped, killed, back)


async def _roll_out(stage: Stage) -> None:
    now = operator("try release 2")
    await stage.publish(Actor.trial)
    plan = RolloutPlan(app=APP, model=MODEL, challenger=Actor.trial, champion=1, stages=(1.0,))
    await change(stage.store, APP, MODEL, lambda last: start(last, plan, now))
    await asyncio.sleep(REFRESH_SECONDS / 2)


async def _take_back(stage: Stage) -> None:
    now = operator("enough seen")
    await change(stage.store, APP, MODEL, lambda last: roll_back(last, now), stops=True)
    await asyncio.sleep(REFRESH_SECONDS / 2)


async def _look(scene: Scene) -> None:
    """Note what the gateway tells devices now, where there is one."""
    with suppress(aiohttp.ClientError):
        async with aiohttp.request("GET", f"http://127.0.0.1:{scene.port}/metrics") as response:
            found = _TOLD.search(await response.text())
            scene.told_seconds_most = max(scene.told_seconds_most, float(found[1]) if found else 0.0)


def operator(reason: str) -> Change:
    """Sign a change."""
    return Change("rehearsal", reason, time.time_ns() // 1_000_000)
