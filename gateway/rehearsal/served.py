"""The gateway's process as its parent sees it: made ready, let serve, killed, ended."""

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Never, Self

import aiohttp

from gateway.config import PREFIX

_PATIENCE_SECONDS: Final = 60.0
_ASKED_EVERY_SECONDS: Final = 0.01


class RehearsalFailed(Exception):
    """The rehearsal cannot go on; the text is for the user."""


class Gateway:
    """One process. `prepare` it, let it `serve`, then `kill` or `end` it."""

    def __init__(self, process: asyncio.subprocess.Process, url: str, log: Path) -> None:
        self._process, self._url, self._log = process, url, log

    @classmethod
    async def prepare(cls, directory: Path, port: int, pace: float, settings: Mapping[str, str]) -> Self:
        """Start a process that has loaded all it needs. Raises `RehearsalFailed`."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        said = directory / "gateway.log"
        with said.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "gateway.rehearsal.hurried"),
                *(str(directory), str(port), str(pace)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environ | {PREFIX + name: value for name, value in settings.items()},
                start_new_session=True,  # Ctrl-C reaches us alone
            )
        gateway = cls(process, f"http://127.0.0.1:{port}/healthz", said)
        if not await gateway._is_ready():
            await gateway._give_up()
        return gateway

    async def serve(self) -> None:
        """Let it serve; return when it does. Raises `RehearsalFailed`."""
        if self._process.stdin is not None:
            self._process.stdin.write(b"serve\n")
        until = asyncio.get_running_loop().time() + _PATIENCE_SECONDS
        while not await self._answers():
            if self._process.returncode is not None or asyncio.get_running_loop().time() > until:
                await self._give_up()
            await asyncio.sleep(_ASKED_EVERY_SECONDS)

    async def kill(self) -> None:
        """End it as a power cut would."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def end(self) -> None:
        """Let it finish what it has taken."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    async def _is_ready(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return bool(self._process.stdout and await self._process.stdout.readline())
        return False

    async def _answers(self) -> bool:
        with suppress(aiohttp.ClientError):
            async with aiohttp.request("GET", self._url) as response:
                return response.ok
        return False

    async def _give_up(self) -> Never:
        await self.kill()
        said = self._log.read_text(errors="replace")[-1000:]
        raise RehearsalFailed(f"the gateway did not start; it said:\n{said}")
