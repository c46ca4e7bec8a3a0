"""The logs that the Sink and Source contracts run against: an adapter joins by one entry in `LOGS`."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final, Protocol

import pytest

from consumers.source import EmbeddedSource, Source
from gateway.publish import Sink
from gateway.publish.embedded import EmbeddedLog


class Log(Protocol):
    """One log with its topics made, and ways to write and read it; `close` closes whatever was opened."""

    async def sink(self) -> Sink: ...
    async def source(self, consumer: str) -> Source: ...
    async def close(self) -> None: ...


class Embedded(Log):
    def __init__(self, directory: Path) -> None:
        self._directory = directory / "log"
        self._opened: list[Sink | Source] = []

    async def sink(self) -> Sink:
        sink = await EmbeddedLog.open(self._directory, max_bytes=64 * 1024 * 1024, max_pending_bytes=4 * 1024 * 1024)
        self._opened.append(sink)
        return sink

    async def source(self, consumer: str) -> Source:
        source = await EmbeddedSource.open(self._directory, consumer)
        self._opened.append(source)
        return source

    async def close(self) -> None:
        for opened in reversed(self._opened):
            await opened.close()


LOGS: Final[dict[str, Callable[[Path], Log]]] = {"embedded": Embedded}


@pytest.fixture(params=sorted(LOGS))
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    made = LOGS[request.param](tmp_path)
    yield made
    await made.close()
