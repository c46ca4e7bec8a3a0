"""One device of the fleet: a real client with its own directory, behind its own radio, in its user's hands."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Self

import aiohttp

from gateway.client.bundled import Bundled
from gateway.client.client import Client
from gateway.client.clock import ScaledClock, SystemClock
from gateway.client.fleet.calendar import Calendar
from gateway.client.fleet.life import USUAL, Life, Mishaps, Tally
from gateway.client.fleet.phones import Phone, updated
from gateway.client.fleet.radio import Meter, Radio
from gateway.client.fleet.reports import DeviceReport
from gateway.client.fleet.shoppers import MODEL
from gateway.client.runtimes import Runtime


@dataclass(frozen=True)
class Install:
    """What every install of the app has in common."""

    app_key: str
    url: str
    root_keys: tuple[bytes, ...]
    bundled: Mapping[str, Bundled]
    runtime: Runtime


class Device:
    """An install on a phone. Open it, `live`, `settle`, close it."""

    def __init__(
        self,
        install: Install,
        phone: Phone,
        directory: Path,
        *,
        calendar: Calendar,
        connector: aiohttp.BaseConnector,
        meter: Meter,
        tally: Tally,
        witness: aiohttp.ClientMiddlewareType | None = None,
        mishaps: Mishaps = USUAL,
    ) -> None:
        """`witness` stands between the client and the radio, and sees what is asked of it."""
        self.phone = phone
        self.why_unsettled = ""
        self._install = install
        self._directory = directory
        self._tally = tally
        self._mishaps = mishaps
        self._connector = connector
        self.radio = Radio(meter, Random(f"radio {directory}"), has_percent_bug=phone.has_percent_bug)  # noqa: S311
        self._middlewares = (self.radio,) if witness is None else (witness, self.radio)
        start_ms = calendar.device_ms + int(phone.clock_error_seconds * 1000)
        self._clock = ScaledClock(calendar.rate, start_ms)
        self._clock_error = phone.clock_error_seconds
        self._open = AsyncExitStack()
        self._client: Client | None = None
        self._changing: asyncio.Task[None] | None = None

    async def open(self, seed: int) -> Self:
        """Open the client; a directory used before is gone on with."""
        self._dice = Random(f"client {seed} {self.phone.index}")  # noqa: S311 - a seeded draw, no secret
        client = await self.launch()
        # What it has produced so far is part of the seed, so that a life that goes on does not repeat itself.
        dice = Random(f"life {seed} {self.phone.index} {client.ledger.produced}")  # noqa: S311 - a seeded draw
        self._life = Life(self.phone, self, self.radio, self._clock, dice, self._tally, self._mishaps)
        return self

    async def close(self) -> None:
        """Close the client and its session."""
        await self._changed()
        await self._open.aclose()

    async def live(self) -> None:
        """Live the user's life until cancelled, through crashes and updates of the app."""
        await self._life.live()

    async def launch(self) -> Client:
        """Open the app: in the process that it has, or in a new one. Return its client."""
        if self._client is None:
            await self._change(self._start())
        return self.client

    async def end(self, *, for_update: bool = False) -> None:
        """End the app's process where one runs, with what it has on the disk and nothing else."""
        if for_update:
            self.phone = updated(self.phone)
        if self._client is not None:
            await self._change(self._stop())

    def set_clock(self) -> bool:
        """Correct a wrong clock, or set it wrong again. Say whether the phone has a wrong one."""
        error = self.phone.clock_error_seconds
        before, self._clock_error = self._clock_error, 0.0 if self._clock_error else error
        self._clock.move(self._clock_error - before)
        return bool(error)

    @property
    def client(self) -> Client:
        """The client of the process that runs."""
        if self._client is None:
            raise RuntimeError("the app does not run")
        return self._client

    async def _change(self, change: Coroutine[None, None, None]) -> None:
        """The end of a run may come meanwhile: whoever needs the client then waits for it."""
        self._changing = asyncio.create_task(change)
        await asyncio.shield(self._changing)

    async def _changed(self) -> None:
        if self._changing is not None:
            await asyncio.wait((self._changing,))

    async def _start(self) -> None:
        # A session of its own costs little and carries the radio; the connections are everyone's.
        session = aiohttp.ClientSession(connector=self._connector, connector_owner=False, middlewares=self._middlewares)
        await self._open.enter_async_context(session)
        self._client = await self._open.enter_async_context(self._make_client(session))

    async def _stop(self) -> None:
        self._status, self._client = self.client.status(), None
        await self._open.aclose()
        self._open = AsyncExitStack()

    async def settle(self, patience_seconds: float, right_release: Callable[[str], int] | None) -> None:
        """Come to the front with good network and flush until nothing waits and the right release runs.

        What is left undone after that many of the device's seconds stays in `why_unsettled`.
        """
        await self._changed()
        client = await self.launch()
        self.radio.online = True
        until = self._clock.monotonic() + patience_seconds
        contact_ms = client.status().contact_ms
        right = right_release(self.phone.sdk) if right_release else None
        await client.foreground()
        while True:
            await client.flush()
            self.why_unsettled = self._unsettled(contact_ms, right)
            if not self.why_unsettled or self._clock.monotonic() > until:
                return
            await self._clock.sleep(30.0)

    def report(self) -> DeviceReport:
        """Say what runs and what waits; while no process of the app runs, what did before."""
        status = self._client.status() if self._client is not None else self._status
        return DeviceReport(
            device=status.device,
            sdk=self.phone.sdk,
            app_version=self.phone.app_version,
            release=status.models[MODEL].release,
            produced=status.ledger.produced,
            dropped=status.ledger.dropped,
            queued=status.queued_events,
            unsettled=self.why_unsettled,
            refused=status.models[MODEL].refused,
        )

    def _unsettled(self, contact_before_ms: int, right_release: int | None) -> str:
        status = self.client.status()
        model = status.models[MODEL]
        if status.contact_ms == contact_before_ms:
            return "the gateway has not answered"
        if status.queued_events or status.frozen_batch is not None:
            return f"{status.queued_events} events still wait"
        if right_release not in (None, model.release):
            return f"runs release {model.release} ({model.source}), not {right_release}"
        return ""

    def _make_client(self, session: aiohttp.ClientSession) -> Client:
        install, phone = self._install, self.phone
        return Client(
            install.app_key,
            install.url,
            install.root_keys,
            directory=self._directory,
            bundled=install.bundled,
            runtime=install.runtime,
            sdk=phone.sdk,
            app_version=phone.app_version,
            os=phone.os,
            hardware=phone.hardware,
            locale=phone.locale,
            clock=self._clock,
            expiry_clock=SystemClock(),  # what was signed expires in real time, however fast the devices live
            dice=self._dice,
            session=session,
        )
