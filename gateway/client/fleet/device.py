"""One device of the fleet: a real client with its own directory, behind its own radio, in its user's hands."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Self

import aiohttp

from gateway.client.bundled import Bundled
from gateway.client.client import Client, Status
from gateway.client.clock import ScaledClock, SystemClock
from gateway.client.fleet.calendar import Calendar
from gateway.client.fleet.life import USUAL, Life, Mishaps, Restarted, Tally
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
        self._open = AsyncExitStack()
        self._restarting: asyncio.Task[None] | None = None
        self._status: Status | None = None

    async def open(self, seed: int) -> Self:
        """Open the client; a directory used before is gone on with."""
        self._seed = seed
        await self._open_client()
        # What it has produced so far is part of the seed, so that a life that goes on does not repeat itself.
        dice = Random(f"life {seed} {self.phone.index} {self.client.ledger.produced}")  # noqa: S311 - a seeded draw
        self._life = Life(self.phone, self.client, self.radio, self._clock, dice, self._tally, self._mishaps)
        return self

    async def close(self) -> None:
        """Close the client and its session."""
        await self._restarted()
        await self._open.aclose()

    async def live(self) -> None:
        """Live the user's life until cancelled, through crashes and updates of the app."""
        while True:
            try:
                await self._life.live()
            except Restarted as restarted:
                if restarted.updated:
                    self.phone = updated(self.phone)
                # The end of the run may come meanwhile: whoever needs the client then waits for it.
                self._restarting = asyncio.create_task(self._restart())
                await asyncio.shield(self._restarting)

    async def _restart(self) -> None:
        """Let the app's process end, with what it has on the disk and nothing else, and start another."""
        self._status = self.client.status()
        await self._open.aclose()
        self._open = AsyncExitStack()
        await self._open_client()
        self._life.client, self._status = self.client, None

    async def _restarted(self) -> None:
        if self._restarting is not None:
            await self._restarting

    async def _open_client(self) -> None:
        # A session of its own costs little and carries the radio; the connections are everyone's.
        session = aiohttp.ClientSession(connector=self._connector, connector_owner=False, middlewares=self._middlewares)
        await self._open.enter_async_context(session)
        self.client = await self._open.enter_async_context(self._make_client(session, self._seed))

    async def settle(self, patience_seconds: float, right_release: Callable[[str], int] | None) -> None:
        """Come to the front with good network and flush until nothing waits and the right release runs.

        What is left undone after that many of the device's seconds stays in `why_unsettled`.
        """
        await self._restarted()
        self.radio.online = True
        until = self._clock.monotonic() + patience_seconds
        contact_ms = self.client.status().contact_ms
        right = right_release(self.phone.sdk) if right_release else None
        await self.client.foreground()
        while True:
            await self.client.flush()
            self.why_unsettled = self._unsettled(contact_ms, right)
            if not self.why_unsettled or self._clock.monotonic() > until:
                return
            await self._clock.sleep(30.0)

    def report(self) -> DeviceReport:
        """Say what runs and what waits; while the app is started again, what did before."""
        status = self._status or self.client.status()
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

    def _make_client(self, session: aiohttp.ClientSession, seed: int) -> Client:
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
            dice=Random(f"client {seed} {phone.index}"),  # noqa: S311 - a seeded draw, no secret
            session=session,
        )
