"""One user's install of the app, twice: with the client, and with the sample that the field copies.

* Both live the same sessions, on a clock that is turned from one moment of the script to the next, and die in the same
  sessions: the sample in the middle of an update where it has one under way, the client in the middle of the session.
* A launch is a new process: it opens what the last one left on the disk. These processes are all this one, so what one
  leaves that a model kills is kept from before the exception: what that passes on its way out, no process would do.
"""

import asyncio
import shutil
import time
from contextlib import suppress
from math import inf
from pathlib import Path
from random import Random
from typing import Final, Protocol

import aiohttp

from gateway.client.client import Client
from gateway.client.clock import SystemClock
from gateway.client.fleet.blog import BlogClient, BlogTally
from gateway.client.fleet.radio import Meter, Radio
from gateway.client.fleet.run import bundled_upsell
from gateway.client.fleet.shoppers import MODEL, Moment
from gateway.demo.stage import model_file
from gateway.rehearsal.incidents import Died, FatalRuntime, World
from gateway.rehearsal.script import Session

# How often the system kills an app while it is in use, and how often an extension checks beside it.
DEATHS: Final = 0.02
TOGETHER: Final = 0.05
_STEPS: Final = ("saved", "moved", "removed")
_JITTER_SECONDS: Final = 2.5


class TurnedClock:
    """A device's clock that stands still until it is turned."""

    def __init__(self, start_ms: int) -> None:
        self._start_ms = start_ms
        self._now = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        """Return the wall clock."""
        return self._start_ms + int(self._now * 1000)

    def monotonic(self) -> float:
        """Return the seconds from the beginning."""
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Wait until it was turned so far."""
        if seconds > 0:
            future = asyncio.get_running_loop().create_future()
            self._sleepers.append((self._now + seconds, future))
            await future

    def turn(self, to: float) -> None:
        """Go on to a moment."""
        self._now = max(self._now, to)
        for until, future in self._sleepers:
            if until <= self._now and not future.done():
                future.set_result(None)
        self._sleepers = [each for each in self._sleepers if not each[1].done()]


class Network:
    """One phone's radio, over connections that all phones share."""

    def __init__(self, connector: aiohttp.BaseConnector, seed: str) -> None:
        self.meter = Meter()
        self.radio = Radio(self.meter, Random(seed))  # noqa: S311 - a seeded draw
        self.session = aiohttp.ClientSession(connector=connector, connector_owner=False, middlewares=(self.radio,))


class Install(Protocol):
    """An app on a phone."""

    async def live(self, session: Session, moments: list[Moment], dies: float) -> None:
        """Live a session; `dies` is when in it the process is killed, infinity for never."""
        ...


class OurInstall:
    """The app with the client. `tally` counts in the sample's words."""

    def __init__(self, world: World, directory: Path, network: "Network", tally: BlogTally, seed: str) -> None:
        self._world, self._directory, self._network, self.tally = world, directory, network, tally
        self._clock = TurnedClock(time.time_ns() // 1_000_000)
        self._left_by_the_dead = directory.with_name(f"{directory.name}-left")
        self._runtime = FatalRuntime(world.sha256[3], self._keep_what_is_left)
        self._bundled = bundled_upsell(model_file(1))
        self._dice = Random(seed)  # noqa: S311 - a seeded draw

    async def live(self, session: Session, moments: list[Moment], dies: float) -> None:
        """Open the app, use it, leave it, and let it end."""
        deaths, self._network.radio.online = self._runtime.deaths, session.online
        client = self._client()
        with suppress(Died):
            await client.open()
            try:
                await self._use(client, session, moments, dies)
            finally:
                await client.close()  # which writes nothing: as if the process had ended
        if self._runtime.deaths > deaths:
            self.tally.crashes += self._runtime.deaths - deaths
            shutil.rmtree(self._directory)
            self._left_by_the_dead.rename(self._directory)

    def _keep_what_is_left(self) -> None:
        shutil.copytree(self._directory, self._left_by_the_dead)

    async def _use(self, client: Client, session: Session, moments: list[Moment], dies: float) -> None:
        foreground = asyncio.create_task(client.foreground())
        await asyncio.sleep(0)
        self._clock.turn(session.launched + _JITTER_SECONDS)
        # Requests take no device time: what was asked for at the launch is there before the first decision.
        await foreground
        for at, moment in zip(session.decided, moments, strict=True):
            self._clock.turn(at)
            if at >= dies:
                return
            predicted = client.predict(MODEL, moment._asdict())
            self._observe(predicted.release, predicted.source)
            client.outcome(predicted.id, MODEL, "dismissed", 0.0)
        self._clock.turn(session.left)
        await client.background()

    def _observe(self, release: int, source: str) -> None:
        tally = self.tally
        tally.predictions += 1
        tally.unanswered += source == "none"
        if release != self._world.right and source != "none":
            tally.fallbacks += release == 1
            tally.wrong_models += release != 1

    def _client(self) -> Client:
        stage = self._world.stage
        self._directory.mkdir(parents=True, exist_ok=True)
        return Client(
            stage.app_key,
            self._world.url,
            (stage.public_key,),
            directory=self._directory,
            bundled={MODEL: self._bundled},
            runtime=self._runtime,
            clock=self._clock,
            expiry_clock=SystemClock(),
            dice=self._dice,
            session=self._network.session,
        )


class CopiedInstall:
    """The app with the sample."""

    def __init__(self, world: World, directory: Path, network: "Network", tally: BlogTally, seed: str) -> None:
        self._world, self._directory, self._network, self.tally = world, directory, network, tally
        self._runtime = FatalRuntime(world.sha256[3])
        self._dice = Random(seed)  # noqa: S311 - a seeded draw

    async def live(self, session: Session, moments: list[Moment], dies: float) -> None:
        """Open the app, which checks at once, use it, leave it."""
        self._network.radio.online = session.online
        step = self._dice.choice(_STEPS) if dies < inf else ""
        client = self._client(step)
        checks = 2 if self._dice.random() < TOGETHER else 1
        done = await asyncio.gather(*(client.check() for _ in range(checks)), return_exceptions=True)
        if any(isinstance(each, Died) for each in done):
            return
        for moment in moments:
            client.predict(list(moment))

    def _client(self, step: str) -> BlogClient:
        async def between(done: str) -> None:
            await asyncio.sleep(0)
            if done == step:
                raise Died

        world = self._world
        return BlogClient(
            f"{world.cdn_url}poll.json",
            self._directory,
            world.artifacts[1],
            self._runtime,
            self._network.session,
            tally=self.tally,
            right_sha256=world.sha256[world.right],
            dice=self._dice,
            between=between,
        )
