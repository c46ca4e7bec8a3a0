"""Programs that can be killed, stopped and started again, and those that only a `backhaul serve` starts."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.supervisor import runfile

ROOT: Final = Path(__file__).resolve().parents[2]
_START_SECONDS: Final = 120.0
_PID_SECONDS: Final = 60.0


class CampaignError(Exception):
    """The campaign could not be held; it says nothing about the system."""


class Process:
    """A program that can be killed and started again; its output goes to a file."""

    def __init__(self, command: list[str], environ: Mapping[str, str], log: Path) -> None:
        self._command = command
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.environ = dict(environ)

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self.environ, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    async def ended(self, seconds: float) -> int | None:
        """Return the exit status, None while it still runs after so long."""
        if self._process is None:
            return 0
        with suppress(subprocess.TimeoutExpired):
            return await asyncio.to_thread(self._process.wait, seconds)
        return None

    async def leave(self, seconds: float) -> int | None:
        """Ask it to leave, and kill it when it does not; return its exit status where it left by itself."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)
        status = await self.ended(seconds)
        self.signal(signal.SIGKILL)
        return status


def backhaul(source: Path, *arguments: str) -> list[str]:
    """Return the command; `source` is where its code is, by `environ_of`."""
    return [sys.executable, "-P", "-m", "gateway.cli", *arguments]


def environ_of(source: Path, settings: Mapping[str, object]) -> dict[str, str]:
    """Return the environment of one of our programs."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("BACKHAUL_")}
    environ |= {f"BACKHAUL_{key.upper()}": str(value) for key, value in settings.items()}
    return environ | {"PYTHONPATH": str(source)}


class Serve:
    """One `backhaul serve`, on a data directory of its own."""

    def __init__(
        self,
        name: str,
        directory: Path,
        port: int,
        source: Path,
        settings: Mapping[str, object],
        clock: Mapping[str, str],
    ) -> None:
        self.name = name
        self.directory = directory
        self.port = port
        directory.mkdir(parents=True, exist_ok=True)
        command = backhaul(source, "serve", "--data", str(directory), "--listen", f"127.0.0.1:{port}")
        self.process = Process(command, environ_of(source, settings) | dict(clock), directory / "serve.log")

    async def ready(self) -> None:
        """Wait until the gateway answers. Raises `CampaignError`."""
        await answers(self.process, self.port, "/healthz", self.directory / "serve.log")

    async def pid_of(self, child: str) -> int:
        """Return a child's process, waiting a while where it is being restarted. Raises `CampaignError`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PID_SECONDS):
                while True:
                    run = runfile.read(self.directory)
                    pid = run.children.get(child) if run else None
                    if pid:
                        return pid
                    await asyncio.sleep(0.05)
        raise CampaignError(f"{self.name}.{child} did not come back; see {self.directory / 'serve.log'}")


async def answers(process: Process, port: int, path: str, log: Path) -> None:
    """Wait until the server answers on that port. Raises `CampaignError`."""
    try:
        async with asyncio.timeout(_START_SECONDS):
            while not await _answers(port, path):
                if await process.ended(0.2) is not None:
                    raise CampaignError(f"it did not start; see {log}")
    except TimeoutError as error:
        raise CampaignError(f"it does not answer; see {log}") from error


async def _answers(port: int, path: str) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        first = await reader.readline()
        writer.close()
    except OSError:
        return False
    return b" 200 " in first
