"""The app's process: one fork a launch, so that a launch costs no imports. `python -m tests.crashes.phone`.

* A launch is a line of JSON on stdin; its answer is a line on stdout, when the launch is over or dead.
* What happens in a launch is said through a pipe as it happens: what was said before the end is what the app knew.
* The client is driven as the conformance kit drives it, by the same driver.
"""

import asyncio
import ctypes
import os
import sys
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.client.conformance.driver import Driver

Said = dict[str, Any]
_TURN_SECONDS: Final = 60.0  # past the pause of a process that found the other one sending


class Launch(Struct):
    """What a launch does: the driver's `start`, its steps, and at which change to its files what happens."""

    start: dict[str, Any]
    steps: list[str]
    mode: int = 0
    at: int = 0
    freed: list[str] = []  # steps after the damage is over; the report comes after it, too
    beside: bool = False  # a second process takes the same steps at the same time, undisturbed


class Life(Struct):
    """What became of a launch: its exit code (0 for its own end) and what it said; and of the one beside it."""

    code: int
    said: list[Said]
    beside: "Life | None" = None


async def live(launch: Launch, library: ctypes.CDLL, pipe: int) -> None:
    """Do the steps, and report."""

    def say(did: str, **what: Any) -> None:
        os.write(pipe, msgspec.json.encode({"did": did, **what}) + b"\n")

    do = Driver().handlers
    home = launch.start["directory"].encode()
    library.arm(launch.mode, launch.at, home)
    await do["start"](launch.start)
    try:
        say("open", device=(await do["state"]({}))["device"])
    except Exception as error:  # a full disk may keep the report from the app, never an answer
        say("unknown", error=repr(error))
    await _steps(do, launch.steps, launch.start, say)
    operations = library.operations()
    library.arm(0, 0, b"" if launch.mode else home)
    await _steps(do, launch.freed, launch.start, say)
    say("state", operations=operations, **await do["state"]({}))
    await do["stop"]({})


async def _steps(do: dict[str, Any], steps: list[str], start: Said, say: Any) -> None:
    model = next(iter(start["models"]))
    last = 0
    for step in steps:
        told = {"model": model, "signals": {"battery": 0.5, "charging": 1.0}, "seconds": _TURN_SECONDS}
        if step == "outcome":
            told = {"model": model, "prediction": last, "label": "purchased", "value": 1.0}
        answer = await do[step](told)
        last = answer.get("prediction", last)
        say(step, **answer)


def launched(launch: Launch, library: ctypes.CDLL) -> Life:
    """Launch, and wait for the end of it."""
    forked = [_forked(launch, library)]  # first, so that it is mostly the one that sends and installs
    if launch.beside:
        forked.append(_forked(Launch(launch.start, launch.steps), library))
    life, *beside = [_ended(*each) for each in forked]
    return Life(life.code, life.said, *beside)


def _forked(launch: Launch, library: ctypes.CDLL) -> tuple[int, int]:
    """Return the process and the pipe on which it speaks."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os._exit(_lived(launch, library, writing))
    os.close(writing)
    return child, reading


def _ended(child: int, reading: int) -> Life:
    with open(reading, "rb") as pipe:
        lines = pipe.read().splitlines()
    _, status = os.waitpid(child, 0)
    return Life(os.waitstatus_to_exitcode(status), [msgspec.json.decode(line) for line in lines])


def _lived(launch: Launch, library: ctypes.CDLL, pipe: int) -> int:
    try:
        asyncio.run(live(launch, library, pipe))
    except BaseException as error:  # the boundary: what would have reached the app is judged
        os.write(pipe, msgspec.json.encode({"did": "raised", "error": repr(error)}) + b"\n")
        return 1
    return 0


def main() -> None:
    """Launch what is told until stdin ends."""
    library = ctypes.CDLL(os.environ["LD_PRELOAD"])
    library.operations.restype = ctypes.c_long
    library.arm.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_char_p]
    for line in sys.stdin.buffer:
        life = launched(msgspec.json.decode(line, type=Launch), library)
        sys.stdout.buffer.write(msgspec.json.encode(life) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
