"""The gateway's process as its parent sees it: made ready, let serve, killed, ended."""

import asyncio
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from gateway.config import PREFIX

_PATIENCE_SECONDS: Final = 60.0


class RehearsalFailed(Exception):
    """The rehearsal cannot go on; the text is for the user."""


class Gateway:
    """One process. `prepare` it, let it `serve`, then `kill` or `end` it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def prepare(cls, directory: Path, port: int, pace: float, settings: Mapping[str, str]) -> Self:
        """Start a process that has loaded all it needs. Raises `RehearsalFailed`."""
        environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
        with (directory / "gateway.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "gateway.rehearsal.hurried"),
                *(str(directory), str(port), str(pace)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=environ | {PREFIX + name: value for name, value in settings.items()},
                start_new_session=True,  # Ctrl-C reaches us alone
            )
        gateway = cls(process)
        await gateway._line(directory)
        return gateway

    async def serve(self, directory: Path) -> None:
        """Let it serve; return when it does. Raises `RehearsalFailed`."""
        if self._process.stdin is not None:
            self._process.stdin.write(b"serve\n")
        await self._line(directory)

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

    async def _line(self, directory: Path) -> None:
        line = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                line = await self._process.stdout.readline() if self._process.stdout is not None else b""
        if not line:
            await self.kill()
            said = (directory / "gateway.log").read_text(errors="replace")[-1000:]
            raise RehearsalFailed(f"the gateway did not start; it said:\n{said}")
