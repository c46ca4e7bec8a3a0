"""The copied sample client as a driver: what the kit must catch.

It polls where an SDK reads replies, so `flush` is its check for an update; telemetry it has none.
"""

import asyncio
import base64
import itertools
import os
import random
import sys
import time
from pathlib import Path
from typing import Any, Final

import aiohttp

from gateway.client.conformance.driver import Answer, Handler, TurnedClock, serve
from gateway.client.conformance.publisher import INPUTS
from gateway.client.conformance.scripted import ScriptedRuntime
from gateway.client.fleet.blog import BlogClient

_FLASH_SECONDS: Final = 0.005


async def _as_flash_takes(_: str) -> None:
    """Take the time that a phone takes between two file operations."""
    await asyncio.sleep(_FLASH_SECONDS)


class _Ascending(random.Random):
    """Names that sort as they come. On a phone they are random, and it is luck which model hides which."""

    def getrandbits(self, bits: int, /) -> int:
        return time.time_ns() // 1_000_000 % (1 << bits)


class BlogDriver:
    """One app process with the sample in it."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._client: BlogClient | None = None
        self._clock = TurnedClock(None)
        self._numbers = itertools.count(os.getpid() * 1000)  # the sample has none
        self.handlers: dict[str, Handler] = {
            "start": self._start,
            "predict": self._predict,
            "flush": self._flush,
            "turn": self._turn,
            "stop": self._stop,
        }

    async def _start(self, told: dict[str, Any]) -> Answer:
        (model,) = told["models"].values()
        self._clock = TurnedClock(told.get("now_ms"))
        self._client = BlogClient(
            poll_url=f"{told['url']}latest.json",
            directory=Path(told["directory"]),
            bundled=base64.b64decode(model["content"]),
            runtime=ScriptedRuntime(told.get("os", ""), told.get("app_version", ""), self._clock.now_ms),
            session=self._session,
            between=_as_flash_takes,
            dice=_Ascending(),
        )
        return {}

    async def _predict(self, told: dict[str, Any]) -> Answer:
        score = self._opened().predict([told["signals"][name] for name in INPUTS])
        return {
            "prediction": next(self._numbers),
            "score": score,
            "decision": bool(score and score >= 0.5),
            "release": 0,
            "source": "ota",
        }

    async def _flush(self, _: dict[str, Any]) -> Answer:
        try:
            await self._opened().check()
        except (aiohttp.ClientError, OSError, ValueError):
            return {}  # the sample prints it and goes on
        return {}

    async def _turn(self, told: dict[str, Any]) -> Answer:
        self._clock.turn(told["seconds"])
        return {}

    async def _stop(self, _: dict[str, Any]) -> Answer:
        self._client = None
        return {}

    def _opened(self) -> BlogClient:
        if self._client is None:
            raise ValueError("not started")
        return self._client


async def _main() -> None:
    async with aiohttp.ClientSession() as session:
        await serve(BlogDriver(session).handlers, sys.stdin, sys.stdout)


if __name__ == "__main__":
    asyncio.run(_main())
