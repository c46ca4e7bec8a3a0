"""A driver as a process of its own: told on stdin, read on stdout, killed without warning.

* A command is answered, unsupported, or refused with an error; or the process dies over it, which is no answer.
* `refuse_writes` lets every write beyond a file size fail, as a full disk does: the one way to do so to another process
  without being root. `locked` starts it without root's right to read everything, so that permissions hold.
"""

import asyncio
import ctypes
import itertools
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, Any, Final

import msgspec

from gateway.client.conformance.results import Failed, Skipped

# Generous: a kit that runs on a loaded machine must not take slowness for a fault.
ANSWER_SECONDS: Final = 30.0
_SLICE_SECONDS: Final = 0.0001
_END_SECONDS: Final = 2.0
_SHOWN_BYTES: Final = 80
_LINE_BYTES: Final = 64 * 1024 * 1024
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 24, 1, 2


class Died(Failed):
    """The driver's process ended before it answered."""


class Refused(Failed):
    """The driver answered with an error."""


class DriverProcess:
    """One run of the driver's command."""

    def __init__(
        self, process: asyncio.subprocess.Process, *, locked: bool = False, answer_seconds: float = ANSWER_SECONDS
    ) -> None:
        if process.stdin is None or process.stdout is None:
            raise ValueError("the driver has no pipes")
        self._process, self._commands, self._answers = process, process.stdin, process.stdout
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.locked = locked
        self._answer_seconds = answer_seconds
        self._stray = ""
        self._ended = False
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return not self._ended

    async def call(self, do: str, **told: Any) -> dict[str, Any]:
        """Tell it to do something. Raises `Died`, `Refused`, and `Skipped` for what it does not support."""
        if not self.alive:
            raise Died(f"the process is dead, and cannot do {do!r}")
        number = next(self._numbers)
        answered = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            self._commands.write(msgspec.json.encode({"id": number, "do": do, **told}) + b"\n")
            async with asyncio.timeout(self._answer_seconds):
                answer = await answered
        except (ConnectionError, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and not answered.cancelled():
                raise
            raise Died(f"the process died over {do!r}{self._end()}{self._stray}") from error
        except TimeoutError as error:
            raise Failed(f"{do!r} was not answered within {self._answer_seconds:g} s{self._stray}") from error
        finally:
            self._waiting.pop(number, None)
        return _judged(do, answer)

    def kill(self) -> None:
        """Kill it, at whatever it is. (asyncio's own kill may reap it first, and then knows no more how it ended.)"""
        self.signal(signal.SIGKILL)

    async def end(self) -> None:
        """Kill it and wait until it is gone."""
        self.kill()
        await self._process.wait()
        await self._reading

    def signal(self, number: int) -> None:
        """Send a signal; a process that is gone hears none."""
        if self.alive and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def refuse_writes(self, beyond_bytes: int | None) -> None:
        """Let writes beyond a size fail from now on; None ends that. Raises `Skipped` where the system cannot."""
        if sys.platform != "linux":
            raise Skipped("only Linux can fill the disk of another process")
        limit = resource.RLIM_INFINITY if beyond_bytes is None else beyond_bytes
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def memory_bytes(self) -> int:
        """Return what it has of memory. Raises `Skipped` where the system does not say."""
        if sys.platform != "linux":
            raise Skipped("only Linux says how much memory another process has")
        with open(f"/proc/{self.pid}/statm") as file:  # noqa: PTH123 - a file of the kernel's, read at once
            return int(file.read().split()[1]) * resource.getpagesize()

    def _end(self) -> str:
        code = self._process.returncode
        if code is None:
            return " (it closed its stdout)"
        return f" (signal {-code})" if code < 0 else f" (exit code {code})"

    async def _read(self) -> None:
        try:
            while line := await self._answers.readline():
                answer = _read(line)
                if not answer:
                    self._stray = f"; its stdout said {line[:_SHOWN_BYTES]!r}, which is no answer"
                waiting = self._waiting.get(answer.get("id", 0))
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        finally:
            self._ended = True
            with suppress(TimeoutError):
                async with asyncio.timeout(_END_SECONDS):
                    await self._process.wait()
            for waiting in self._waiting.values():
                waiting.cancel()
            await self._process.wait()


def step(driver: DriverProcess, look: Callable[[], object], changes: int, over: threading.Event) -> None:
    """Let it run in small slices and look in between; kill it at that change of what is seen, unless it is over before.

    A pause between two file operations is a fraction of a millisecond: nobody hits it who only waits.
    """
    seen = look()
    while driver.alive and not over.is_set():
        driver.signal(signal.SIGCONT)
        time.sleep(_SLICE_SECONDS)
        driver.signal(signal.SIGSTOP)
        now = look()
        changes -= now != seen
        seen = now
        if changes <= 0:
            driver.kill()
            return
    driver.signal(signal.SIGCONT)


async def start(
    command: Sequence[str], log: IO[bytes] | int, *, locked: bool = False, answer_seconds: float = ANSWER_SECONDS
) -> DriverProcess:
    """Start a driver. Raises `Failed` where there is no such command."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            limit=_LINE_BYTES,
            preexec_fn=_locked if locked else _unlocked,
        )
    except OSError as error:
        raise Failed(f"the driver cannot be started: {error}") from error
    return DriverProcess(process, locked=locked, answer_seconds=answer_seconds)


def _unlocked() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a refused write is an error of the write, not the end


def _locked() -> None:
    _unlocked()
    if sys.platform == "linux" and os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH):
            libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def _read(line: bytes) -> dict[str, Any]:
    """Read a line; what is no JSON object answers nothing."""
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except ValueError:
        return {}


def _judged(do: str, answer: dict[str, Any]) -> dict[str, Any]:
    if "unsupported" in answer:
        raise Skipped(f"the driver does not support {do!r}")
    if "error" in answer:
        raise Refused(f"{do!r} was answered with an error: {answer['error']}")
    found = answer.get("ok")
    if not isinstance(found, dict):
        raise Failed(f"{do!r} was answered with {answer!r}, which is not of the protocol")
    return found
