"""The logs that the Sink and Source contracts run against: an adapter joins by one entry in `LOGS`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import pytest

from consumers.kafka import KafkaSource, KafkaSourceSettings
from consumers.lag import KafkaLags, Lag, file_lags
from consumers.source import EmbeddedSource, Source
from gateway.publish import Sink
from gateway.publish.embedded import EmbeddedLog
from gateway.publish.kafka import KafkaSink, KafkaSinkSettings
from gateway.publish.spool import Spool, SpoolSettings
from schemas.topics import TOPICS
from tests.kafka_fixtures import Kafka


class Log(Protocol):
    """One log with its topics made, and ways to write and read it; `close` closes whatever was opened."""

    async def sink(self) -> Sink: ...
    async def source(self, consumer: str) -> Source: ...
    async def lags(self, consumer: str) -> Sequence[Lag]: ...
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

    async def lags(self, consumer: str) -> Sequence[Lag]:
        return await asyncio.to_thread(file_lags, self._directory, consumer)

    async def close(self) -> None:
        for opened in reversed(self._opened):
            await opened.close()


class OnKafka(Log):
    """Topics of this test's own. A consumer that is opened again takes over from the one of its name."""

    def __init__(self, kafka: Kafka) -> None:
        self._topics = kafka.topics()
        self._settings = kafka.settings()
        self._opened: list[Sink] = []
        self._sources: dict[str, Source] = {}

    async def sink(self) -> Sink:
        sink = await KafkaSink.open(self._settings, self._topics, KafkaSinkSettings(), wait_seconds=30)
        self._opened.append(sink)
        return sink

    async def source(self, consumer: str) -> Source:
        if consumer in self._sources:
            await self._sources[consumer].close()
        settings = KafkaSourceSettings(session_seconds=6)  # the least that brokers allow by default
        self._sources[consumer] = await KafkaSource.open(self._settings, consumer, settings=settings)
        return self._sources[consumer]

    async def lags(self, consumer: str) -> Sequence[Lag]:
        looking = await KafkaLags.open(self._settings, consumer, TOPICS)
        try:
            return await looking.look()
        finally:
            await looking.close()

    async def close(self) -> None:
        everything: list[Sink | Source] = [*self._sources.values(), *self._opened]
        for opened in everything:
            await opened.close()


class SpooledOnKafka(OnKafka):
    """The same, written through a spool that has nothing to do."""

    def __init__(self, kafka: Kafka, directory: Path) -> None:
        super().__init__(kafka)
        self._directory = directory

    async def sink(self) -> Sink:
        kafka = await KafkaSink.open(self._settings, self._topics, KafkaSinkSettings(), wait_seconds=30)
        directory = self._directory / f"spool-{len(self._opened)}"
        self._opened.append(await Spool.open(directory, kafka, SpoolSettings(), EmbeddedSource.open))
        return self._opened[-1]


def _embedded(request: pytest.FixtureRequest) -> Log:
    return Embedded(request.getfixturevalue("tmp_path"))


def _kafka(request: pytest.FixtureRequest) -> Log:
    return OnKafka(request.getfixturevalue("kafka"))


def _spooled(request: pytest.FixtureRequest) -> Log:
    return SpooledOnKafka(request.getfixturevalue("kafka"), request.getfixturevalue("tmp_path"))


LOGS: Final[dict[str, Callable[[pytest.FixtureRequest], Log]]] = {
    "embedded": _embedded,
    "kafka": _kafka,
    "spooled": _spooled,
}


@pytest.fixture(params=sorted(LOGS))
async def log(request: pytest.FixtureRequest) -> AsyncIterator[Log]:
    made = LOGS[request.param](request)
    yield made
    await made.close()
