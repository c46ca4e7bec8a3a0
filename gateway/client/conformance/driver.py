"""The reference client as a driver of the kit: commands on stdin, answers on stdout, one JSON document a line.

`python -m gateway.client.conformance.driver`, or `backhaul device driver`. The protocol is PROTOCOL.md; an SDK in
another language has a program like this one.
"""

import asyncio
import base64
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TextIO

import msgspec

from gateway.client.artifacts import free_bytes
from gateway.client.bundled import Bundled
from gateway.client.client import Client
from gateway.client.conformance.scripted import ScriptedRuntime
from gateway.client.limits import Limits
from schemas.releases import Parameters

Answer = dict[str, Any]
Handler = Callable[[dict[str, Any]], Awaitable[Answer]]
_LINE_BYTES: Final = 64 * 1024 * 1024


class TurnedClock:
    """This machine's time, and what the kit has turned it by."""

    def __init__(self, now_ms: int | None) -> None:
        system_ms = time.time_ns() // 1_000_000
        self._wall_ahead_ms = 0 if now_ms is None else now_ms - system_ms
        self._ahead_seconds = 0.0
        self._turned = asyncio.Event()

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._wall_ahead_ms

    def monotonic(self) -> float:
        return time.monotonic() + self._ahead_seconds

    async def sleep(self, seconds: float) -> None:
        until = self.monotonic() + seconds
        while (left := until - self.monotonic()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._turned.wait()
            except TimeoutError:
                return

    def turn(self, seconds: float) -> None:
        """Let so many seconds pass at once."""
        self._ahead_seconds += seconds
        self._wall_ahead_ms += round(seconds * 1000)
        self._turned.set()
        self._turned = asyncio.Event()


class Driver:
    """One app process: at most one client is open in it."""

    def __init__(self) -> None:
        self._client: Client | None = None
        self._clock = TurnedClock(None)
        self._free_bytes: int | None = None
        self.handlers: dict[str, Handler] = {
            "start": self._start,
            "predict": self._predict,
            "outcome": self._outcome,
            "flush": self._flush,
            "foreground": self._foreground,
            "background": self._background,
            "conditions": self._conditions,
            "space": self._space,
            "turn": self._turn,
            "state": self._state,
            "stop": self._stop,
        }

    @property
    def client(self) -> Client:
        if self._client is None:
            raise ValueError("not started")
        return self._client

    async def _start(self, told: dict[str, Any]) -> Answer:
        self._clock = TurnedClock(told.get("now_ms"))
        system, app_version = told.get("os", ""), told.get("app_version", "")
        client = Client(
            told["app_key"],
            told["url"],
            [base64.b64decode(key) for key in told["root_keys"]],
            directory=Path(told["directory"]),
            bundled={model: _bundled(each) for model, each in told["models"].items()},
            runtime=ScriptedRuntime(system, app_version, self._clock.now_ms),
            sdk=told["sdk"],
            app_version=app_version,
            os=system,
            hardware=told.get("hardware", ""),
            clock=self._clock,
            free_bytes=self._room,
            limits=Limits(jitter_seconds=0.0),
        )
        self._client = await client.open()
        return {}

    async def _predict(self, told: dict[str, Any]) -> Answer:
        predicted = self.client.predict(told["model"], told["signals"])
        return {
            "prediction": predicted.id,
            "score": predicted.score,
            "decision": predicted.decision,
            "release": predicted.release,
            "source": predicted.source,
        }

    async def _outcome(self, told: dict[str, Any]) -> Answer:
        self.client.outcome(told["prediction"], told["model"], told["label"], told.get("value", 0.0))
        return {}

    async def _flush(self, _: dict[str, Any]) -> Answer:
        await self.client.flush()
        return {}

    async def _foreground(self, _: dict[str, Any]) -> Answer:
        await self.client.foreground()
        return {}

    async def _background(self, _: dict[str, Any]) -> Answer:
        await self.client.background()
        return {}

    async def _conditions(self, told: dict[str, Any]) -> Answer:
        self.client.low_power(told.get("low_power", False))
        self.client.expensive_network(told.get("expensive", False))
        return {}

    async def _space(self, told: dict[str, Any]) -> Answer:
        self._free_bytes = told.get("free_bytes")
        return {}

    def _room(self, directory: Path) -> int:
        return free_bytes(directory) if self._free_bytes is None else self._free_bytes

    async def _turn(self, told: dict[str, Any]) -> Answer:
        self._clock.turn(told["seconds"])
        return {}

    async def _state(self, _: dict[str, Any]) -> Answer:
        status = self.client.status()
        return {
            "device": status.device,
            "queued": status.queued_events,
            "wait_seconds": status.wait_seconds,
            "ledger": msgspec.to_builtins(status.ledger),
            "models": {
                model: {"release": each.release, "source": each.source, "use": each.use, "catalogue": each.catalogue}
                for model, each in status.models.items()
            },
        }

    async def _stop(self, _: dict[str, Any]) -> Answer:
        client, self._client = self.client, None
        await client.close()
        return {}


def _bundled(told: dict[str, Any]) -> Bundled:
    return Bundled(
        told["release"],
        base64.b64decode(told["content"]),
        Parameters(threshold=told.get("threshold", 0.5)),
        told["inputs"],
        told.get("signals", ()),
    )


async def serve(handlers: dict[str, Handler], commands: TextIO, answers: TextIO) -> None:
    """Do what is told until the commands end; a command does not wait for the one before it."""
    reader = asyncio.StreamReader(limit=_LINE_BYTES)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), commands)
    running: set[asyncio.Task[None]] = set()

    async def answer(told: dict[str, Any]) -> None:
        line = {"id": told["id"], **await _done(handlers, told)}
        answers.write(msgspec.json.encode(line).decode() + "\n")
        answers.flush()

    try:
        while line := await reader.readline():
            task = loop.create_task(answer(msgspec.json.decode(line)))
            running.add(task)
            task.add_done_callback(running.discard)
    finally:
        transport.close()
        for task in running:
            task.cancel()


async def _done(handlers: dict[str, Handler], told: dict[str, Any]) -> Answer:
    handler = handlers.get(told["do"])
    if handler is None:
        return {"unsupported": told["do"]}
    try:
        return {"ok": await handler(told)}
    except Exception as error:  # the boundary: the kit is told, and judges
        return {"error": repr(error)}


def main() -> None:
    """Serve this process's stdin and stdout."""
    asyncio.run(serve(Driver().handlers, sys.stdin, sys.stdout))


if __name__ == "__main__":
    main()
