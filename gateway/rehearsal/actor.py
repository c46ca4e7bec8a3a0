"""A real client that lives one of the simulation's lives: launched, asked and left at the moments of the script."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import pairwise
from math import inf
from random import Random
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.client.client import Client, Predicted
from gateway.client.fleet.device import Device
from gateway.client.fleet.life import USUAL
from gateway.client.fleet.shoppers import (
    DISMISSED,
    MODEL,
    PRICE,
    PURCHASED,
    Moment,
    first_moment,
    next_moment,
    purchase_probability,
)
from gateway.rehearsal.script import Session

_ANSWER_SECONDS: Final = 15.0


class Acted(Struct):
    """What one device did, and when: its sessions as they really were, its requests, its decisions by the release that
    made them and how late they were, when it knew the new catalogue and when it first ran the release on trial
    (infinity: never). `answers`: the launches that were answered, and how long that took."""

    sessions: list[Session] = field(default_factory=list)
    sent: list[float] = field(default_factory=list)
    refused: int = 0
    answers: list[tuple[float, float]] = field(default_factory=list)
    decided: dict[int, list[float]] = field(default_factory=dict)
    late_seconds: list[float] = field(default_factory=list)
    knew_at: float = inf
    ran_at: float = inf


class Stage:
    """The time of the rehearsal, the same in every process."""

    def __init__(self, began: float, pace: float, wall: Callable[[], float]) -> None:
        self._began, self._pace, self._wall = began, pace, wall

    def now(self) -> float:
        """Return the device seconds since the beginning."""
        return (self._wall() - self._began) * self._pace

    async def until(self, moment: float) -> None:
        """Wait for a moment in device seconds; one that is over is not waited for."""
        left = moment - self.now()
        if left > 0:
            await asyncio.sleep(left / self._pace)


class Actor:
    """One device and its script; `news` is the number of the catalogue to look for, `trial` the release."""

    news: Final = 2
    trial: Final = 2

    def __init__(self, device: Device, script: Iterator[Session], stage: Stage, dice: Random) -> None:
        self.acted = Acted()
        self._device, self._script, self._stage, self._dice = device, script, stage, dice

    async def act(self) -> None:
        """Live to the end of the script."""
        for session in self._script:
            await self._stage.until(session.launched)
            await self._live(session)
            if self._dice.random() < USUAL.updated_launches:
                await self._device.end(for_update=True)

    async def _live(self, session: Session) -> None:
        """Open the app, use it, and leave it or let it crash."""
        if self._dice.random() < USUAL.clock_set_launches:
            self._device.set_clock()
        self._device.radio.online = session.online
        client = await self._device.launch()
        lived = replace(session, launched=self._stage.now(), left=inf, decided=[])
        self.acted.sessions.append(lived)
        async with asyncio.TaskGroup() as beside:
            calling = beside.create_task(self._call(client))
            await self._use(client, session, lived)
            if session.crashed:
                calling.cancel()
        self._look(client)
        lived.left = self._stage.now()
        if session.crashed:
            await self._device.end()
        else:
            await client.background()
            self._look(client)

    async def _call(self, client: Client) -> None:
        """Come to the front, and note how long it took until an answer was obeyed, where one came."""
        before, began = client.status().contact_ms, self._stage.now()
        await client.foreground()
        if client.status().contact_ms != before:
            self.acted.answers.append((began, self._stage.now() - began))

    def _look(self, client: Client) -> None:
        """Note what the device has learned by now."""
        acted = self.acted
        if acted.knew_at < inf and acted.ran_at < inf:
            return
        model, now = client.status().models[MODEL], self._stage.now()
        if model.catalogue >= self.news:
            acted.knew_at = min(acted.knew_at, now)
        if model.release == self.trial:
            acted.ran_at = min(acted.ran_at, now)

    async def _use(self, client: Client, session: Session, lived: Session) -> None:
        moment = first_moment(self._dice)
        for at, following in pairwise([*session.decided, session.left]):
            await self._until(at)
            self._look(client)
            predicted = client.predict(MODEL, moment._asdict())
            lived.decided.append(self._stage.now())
            self.acted.decided.setdefault(predicted.release, []).append(lived.decided[-1])
            # The user answers before anything else happens, as in the simulation.
            await self._stage.until(min(at + _ANSWER_SECONDS, (at + following) / 2))
            self._answer(client, predicted, moment)
            moment = next_moment(moment, self._dice)
        await self._stage.until(session.left)

    async def _until(self, moment: float) -> None:
        await self._stage.until(moment)
        self.acted.late_seconds.append(self._stage.now() - moment)

    def _answer(self, client: Client, predicted: Predicted, moment: Moment) -> None:
        bought = self._dice.random() < purchase_probability(moment)
        label, value = (PURCHASED, PRICE) if bought else (DISMISSED, 0.0)
        client.outcome(predicted.id, MODEL, label.lower(), value)


async def each(count: int, do: Callable[[int], Awaitable[object]], at_once: int) -> None:
    """Do something for every number below a count, so many at a time."""
    room = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with room:
            await do(number)

    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(one(number))
