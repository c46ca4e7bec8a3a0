"""`backhaul serve` as a child process, as a user would start it, on free ports."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import IO, Final

import msgspec

from gateway.config import PREFIX, Config, load
from gateway.supervisor import runfile

# A machine that runs other things takes its time to start ClickHouse; longer than this it is broken.
_START_SECONDS: Final = 90.0
_LOG_LINES_SHOWN: Final = 15
# Small models ride in the reply unless told otherwise; here phones shall really download.
_SETTINGS: Final = {"INLINE_BYTES": "0", "REFRESH_SECONDS": "0.5", "LOG_LEVEL": "warning"}


class DemoError(Exception):
    """The demonstration cannot go on; the text is for the user."""


class Served:
    """A running `backhaul serve`."""

    def __init__(self, url: str, directory: Path, process: asyncio.subprocess.Process) -> None:
        self.url = url
        self.config: Config = load({"data": str(directory)})
        self._process = process

    def processes(self) -> dict[str, int]:
        """Return the process ids by name, the supervisor's among them."""
        run = runfile.read(self.config.directory)
        return {"supervisor": self._process.pid} | (run.children if run else {})

    async def stop(self) -> int:
        """Ask it to leave and return its exit code; one that does not leave is killed."""
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self.config.grace_seconds + 5.0):
                return await self._process.wait()
        except TimeoutError:
            self._process.kill()
            return await self._process.wait()


@asynccontextmanager
async def serving(directory: Path, settings: Mapping[str, str] | None = None) -> AsyncIterator[Served]:
    """Start it, wait until it is ready, stop it in the end; settings are variables without their prefix.

    Raises `DemoError` when it does not start.
    """
    log = directory / "serve.log"
    with log.open("ab") as output:
        process = await _start(directory, output, {**_SETTINGS, **(settings or {})})
    try:
        yield Served(await _ready(process, log), directory, process)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _start(directory: Path, output: IO[bytes], settings: Mapping[str, str]) -> asyncio.subprocess.Process:
    # The variables of whoever runs the demonstration are for another server.
    environ = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    command = [sys.executable, "-P", "-m", "gateway.cli", "serve", "--data", str(directory)]
    return await asyncio.create_subprocess_exec(
        *command,
        "--listen",
        "127.0.0.1:0",
        "--json",
        stdout=asyncio.subprocess.PIPE,
        stderr=output,
        env=environ | {PREFIX + name: value for name, value in settings.items()},
        start_new_session=True,  # Ctrl-C reaches us alone: we stop it in order
    )


async def _ready(process: asyncio.subprocess.Process, log: Path) -> str:
    if process.stdout is None:
        raise DemoError("backhaul serve has no output")
    try:
        async with asyncio.timeout(_START_SECONDS):
            line = await process.stdout.readline()
        return str(msgspec.json.decode(line)["url"])
    except (TimeoutError, ValueError, KeyError) as error:
        raise DemoError(f"backhaul serve did not start; it said:\n{_last_lines(log)}") from error


def _last_lines(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_LOG_LINES_SHOWN:])
