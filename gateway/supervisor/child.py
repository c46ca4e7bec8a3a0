"""One child process: started, watched, started again with backoff or when it falls silent, and stopped.

* Its output goes to our stderr, line by line, with its name in front.
* It runs in its own process group: Ctrl-C in a terminal reaches the supervisor alone, which stops them in order.
* A child that says "configuration" by its exit code is not started again: the same start would fail the same way.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from gateway.supervisor.pulse import FIRST_BEAT_SECONDS, SILENCE_SECONDS, Pulse

FIRST_BACKOFF_SECONDS: Final = 0.2
LONGEST_BACKOFF_SECONDS: Final = 5.0
# A child that lived this long had a good start; its end is news and not the same failure again.
_GOOD_LIFE_SECONDS: Final = 10.0
_MISCONFIGURED: Final = 2
_CHUNK_BYTES: Final = 64 * 1024
_LISTENS_TO_PULSE: Final = 10  # times within the silence that is too long
# What leaves so was asked to: a child that has not installed its handler yet is ended by the signal itself.
_IN_ORDER: Final = (0, -signal.SIGTERM)


class Child:
    """A named command that is kept running until `stop`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environ: Mapping[str, str],
        fds: Sequence[int],
        changed: Callable[[], None],
        silence_seconds: float = SILENCE_SECONDS,
        first_beat_seconds: float = FIRST_BEAT_SECONDS,
    ) -> None:
        self.name = name
        self._command = command
        self._environ = environ
        self._fds = fds
        self._changed = changed
        self._silence_seconds = silence_seconds
        self._first_beat_seconds = first_beat_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        return self._process.pid if self._process is not None else None

    async def keep_running(self) -> int:
        """Run until `stop`; return 0 then, or the exit code that says that another start would not help."""
        backoff_seconds = FIRST_BACKOFF_SECONDS
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                code = await self._run_once()
            except OSError as error:  # no memory or no process left to start it with: that may pass
                say(f"{self.name} cannot be started: {error}")
                code = 1
            if self._stopping.is_set():
                break
            if code == _MISCONFIGURED:
                return code
            if time.monotonic() - started > _GOOD_LIFE_SECONDS:
                backoff_seconds = FIRST_BACKOFF_SECONDS
            say(f"{self.name} {_ending(code)}; starting it again in {backoff_seconds:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), backoff_seconds)
            backoff_seconds = min(2 * backoff_seconds, LONGEST_BACKOFF_SECONDS)
        return 0

    def start_no_more(self) -> None:
        """Let it run, but do not start it again when it ends."""
        self._stopping.set()

    async def stop(self, within_seconds: float) -> bool:
        """Ask it to leave, and kill it when it has not left in time; say whether it left in order."""
        self._stopping.set()
        process = self._process
        if process is None:
            return True
        _send(process, signal.SIGTERM)
        try:
            code = await asyncio.wait_for(process.wait(), within_seconds)
        except TimeoutError:
            say(f"{self.name} did not leave within {within_seconds:.1f} s; killing it")
            self.kill()
            await process.wait()
            return False
        if code not in _IN_ORDER:
            say(f"{self.name} {_ending(code)} while it was leaving")
        return code in _IN_ORDER

    def kill(self) -> None:
        """End it at once."""
        self._stopping.set()
        if self._process is not None:
            _send(self._process, signal.SIGKILL)

    async def _run_once(self) -> int:
        with Pulse(self._silence_seconds, self._first_beat_seconds) as pulse:
            process = await self._start(pulse.fd)
            pulse.leave_to_child()
            watching = asyncio.create_task(self._watch(process, pulse))
            try:
                return await self._live(process)
            finally:
                watching.cancel()
                await asyncio.wait([watching])

    async def _start(self, pulse_fd: int) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *self._command,
            "--pulse",
            str(pulse_fd),
            env=self._environ,
            pass_fds=[*self._fds, pulse_fd],
            process_group=0,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def _watch(self, process: asyncio.subprocess.Process, pulse: Pulse) -> None:
        """Kill it when it falls silent; while it leaves, `stop` sees to it."""
        while not self._stopping.is_set():
            await asyncio.sleep(self._silence_seconds / _LISTENS_TO_PULSE)
            silent = pulse.silent_seconds()
            if silent is not None and not self._stopping.is_set():
                say(f"{self.name} has not been heard of for {silent:.0f} s; killing it")
                _send(process, signal.SIGKILL)
                return

    async def _live(self, process: asyncio.subprocess.Process) -> int:
        self._process = process
        self._changed()
        if self._stopping.is_set():  # the stop came while it was being started
            _send(process, signal.SIGTERM)
        relay = asyncio.create_task(self._relay_output(process))
        code = await process.wait()
        self._process = None
        self._changed()
        with suppress(TimeoutError):  # something it started may still hold the pipe
            await asyncio.wait_for(relay, 1.0)
        return code

    async def _relay_output(self, process: asyncio.subprocess.Process) -> None:
        output = process.stdout
        if output is None:
            return
        rest = b""
        while chunk := await output.read(_CHUNK_BYTES):
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _CHUNK_BYTES:
                lines, rest = [*lines, rest], b""
            _write_lines(self.name, lines)
        if rest:
            _write_lines(self.name, [rest])


def say(text: str) -> None:
    """Write a line of the supervisor's own to stderr."""
    _write_lines("supervisor", [text.encode()])


def _write_lines(name: str, lines: Sequence[bytes]) -> None:
    text = "".join(f"{name:<10} | {line.decode('utf-8', 'replace')}\n" for line in lines)
    with suppress(OSError, ValueError):  # nobody reads our stderr any more: serving is more important than saying so
        sys.stderr.write(text)
        sys.stderr.flush()


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def clean_environment(ours: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Return this process's environment with all variables of the prefix replaced by ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefix)}
    return kept | dict(ours) | {"PYTHONUNBUFFERED": "1"}
