"""A user's life with the app: launches, sessions, decisions and what came of them, offline at times.

* Now and then an app crashes in the front, is updated by its store, or finds its phone's clock set anew.
* The app does what an app does: it never waits for the network before it decides, reports an outcome as soon as the
  user has answered (now and then only at the next launch), and says when it leaves the front.
"""

import asyncio
from dataclasses import dataclass
from random import Random
from typing import Final, Protocol

from msgspec import Struct

from gateway.client.client import Client, Predicted
from gateway.client.clock import ScaledClock
from gateway.client.fleet.phones import SPELL_SECONDS, Phone, seconds_to_launch
from gateway.client.fleet.radio import Radio
from gateway.client.fleet.shoppers import (
    DISMISSED,
    MODEL,
    ORGANIC_SHARE,
    PRICE,
    PURCHASED,
    Moment,
    first_moment,
    next_moment,
    purchase_probability,
)

_DECISIONS: Final = (1, 2, 3, 4, 5)
_ANSWER_SECONDS: Final = (2.0, 25.0)
_ANSWERED_LATER: Final = 0.05
_HOUR: Final = 3600.0


@dataclass(frozen=True)
class Mishaps:
    """What goes wrong how often, of the sessions or launches.

    * `offline_sessions`: the flush policy was simulated with these (device facts), one in seventeen.
      `offline_spells`: a journey or an empty data plan, no network for days.
    * `crashed_sessions`: good apps crash in fewer (store consoles call 1 % bad), and a test wants to see it.
    * `updated_launches`: an app update every two months or so. `clock_set_launches`: a wrong clock is found out within
      weeks.
    """

    offline_sessions: float = 0.06
    offline_spells: float = 0.005
    crashed_sessions: float = 0.01
    updated_launches: float = 0.005
    clock_set_launches: float = 0.02


USUAL: Final = Mishaps()


class Tally(Struct):
    """What a fleet's users did."""

    launches: int = 0
    polls: int = 0
    decisions: int = 0
    asked: int = 0
    bought: int = 0
    outcomes: int = 0
    crashes: int = 0
    updates: int = 0
    clock_changes: int = 0


class App(Protocol):
    """The app on a phone, as its user has it in hand."""

    async def launch(self) -> Client:
        """Open the app: in the process that it has, or in a new one. Return its client."""
        ...

    async def end(self, *, for_update: bool = False) -> None:
        """End the app's process, in a crash or for an update of the app: what is on the disk stays, no more."""
        ...

    def set_clock(self) -> bool:
        """Correct a wrong clock, or set it wrong again. Say whether the phone has a wrong one."""
        ...


class Life:
    """One user with one phone."""

    def __init__(
        self,
        phone: Phone,
        app: App,
        radio: Radio,
        clock: ScaledClock,
        dice: Random,
        tally: Tally,
        mishaps: Mishaps = USUAL,
    ) -> None:
        self._mishaps = mishaps
        self._phone = phone
        self._app = app
        self._radio = radio
        self._clock = clock
        self._dice = dice
        self._tally = tally
        self._offline_until = 0.0
        self._answered_later: list[tuple[int, str, float]] = []

    async def live(self) -> None:
        """Open the app now and then, until cancelled: as when the system kills an app, at any moment."""
        launch_at = self._clock.now_ms() / 1000
        while True:
            launch_at += seconds_to_launch(self._phone, launch_at, self._dice)
            # From launch to launch, so that a slow machine's long sessions do not thin out the launches; but a machine
            # that is hours behind does not make up for them.
            now = self._clock.now_ms() / 1000
            launch_at = max(launch_at, now - _HOUR)
            await self._clock.sleep(max(0.0, launch_at - now))
            await self.session()
            if self._dice.random() < self._mishaps.updated_launches:
                self._tally.updates += 1
                await self._app.end(for_update=True)

    async def session(self) -> None:
        """Open the app, use it for a while, leave it; or it crashes."""
        self._find_network()
        if self._dice.random() < self._mishaps.clock_set_launches:
            self._tally.clock_changes += self._app.set_clock()
        self._tally.launches += 1
        crashes = self._dice.random() < self._mishaps.crashed_sessions
        self._client = await self._app.launch()
        async with asyncio.TaskGroup() as beside:
            calling = beside.create_task(self._client.foreground())
            seconds = await self._use_app()
            if crashes:
                calling.cancel()
        self._tally.polls += self._radio.online * (1 + int(seconds // _HOUR))
        if crashes:
            self._tally.crashes += 1
            self._answered_later.clear()  # the app knew these in memory
            await self._app.end()
        else:
            await self._client.background()

    async def _use_app(self) -> float:
        """Come to moments of decision. Return how long the session was."""
        late, self._answered_later = self._answered_later, []
        moment, since = first_moment(self._dice), 0.0
        for _ in range(self._dice.choice(_DECISIONS)):
            await self._clock.sleep(moment.session_seconds - since)
            since = moment.session_seconds
            while late:
                self._report(*late.pop())
            await self._decide(moment)
            moment = next_moment(moment, self._dice)
        return since

    async def _decide(self, moment: Moment) -> None:
        predicted = self._client.predict(MODEL, moment._asdict())
        self._tally.decisions += 1
        self._tally.asked += predicted.decision
        await self._clock.sleep(self._dice.uniform(*_ANSWER_SECONDS))
        answer = self._answer(moment, predicted)
        if answer is None or not predicted.id:
            return
        if self._dice.random() < _ANSWERED_LATER:
            self._answered_later.append((predicted.id, *answer))
        else:
            self._report(predicted.id, *answer)

    def _answer(self, moment: Moment, predicted: Predicted) -> tuple[str, float] | None:
        """Draw what the user does, asked or not, from the truth. Nothing is reported of one who is not asked."""
        roll = self._dice.random()
        chance = purchase_probability(moment) * (1.0 if predicted.decision else ORGANIC_SHARE)
        if roll < chance:
            return PURCHASED.lower(), PRICE
        return (DISMISSED.lower(), 0.0) if predicted.decision else None

    def _report(self, number: int, label: str, value: float) -> None:
        self._client.outcome(number, MODEL, label, value)
        self._tally.outcomes += 1
        self._tally.bought += label == PURCHASED.lower()

    def _find_network(self) -> None:
        now = self._clock.monotonic()
        if self._dice.random() < self._mishaps.offline_spells:
            self._offline_until = now + self._dice.uniform(*SPELL_SECONDS)
        self._radio.online = now >= self._offline_until and self._dice.random() >= self._mishaps.offline_sessions
