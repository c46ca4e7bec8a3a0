"""A consumer's place in its group on Kafka: taken when Kafka is there, and taken anew where a topic was made again."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar

from aiokafka.errors import KafkaError

from consumers.kafka import KafkaSource, KafkaSourceSettings
from consumers.source import SourceError
from consumers.standing import LOG, Standing
from gateway.config import Config
from gateway.publish.kafka_topics import ensure_topics
from schemas.kafka import KafkaSettings

_PAUSE_SECONDS: Final = 2.0
_OPEN_SECONDS: Final = 30.0
_LOOK_EVERY_SECONDS: Final = 1.0

T = TypeVar("T")
Work = Callable[[KafkaSource, asyncio.Event], Coroutine[Any, Any, None]]

_log = logging.getLogger(__name__)


async def work_as_member(
    config: Config,
    kafka: KafkaSettings,
    group: str,
    *,
    reads: Sequence[str],
    writes: Sequence[str] = (),
    leave: asyncio.Event,
    work: Work,
    standing: Standing,
) -> None:
    """Be a member of the group and work, until told to leave; the topics are made where they are missing.

    `work` is given an event that tells it to end: because of `leave`, or to begin with a source that is new.
    """
    while not leave.is_set():
        source = await unless(leave, _opened(config, kafka, group, reads, writes, standing))
        if source is None:
            return
        try:
            await _work_while_it_stands(source, leave, work)
        finally:
            await source.close()


async def unless(leave: asyncio.Event, opening: Coroutine[Any, Any, T]) -> T | None:
    """Return what is opened; None when told to leave before it is."""
    task, leaving = asyncio.create_task(opening), asyncio.create_task(leave.wait())
    await asyncio.wait([task, leaving], return_when=asyncio.FIRST_COMPLETED)
    leaving.cancel()
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.wait([task])
    return None


async def _opened(
    config: Config,
    kafka: KafkaSettings,
    group: str,
    reads: Sequence[str],
    writes: Sequence[str],
    standing: Standing,
) -> KafkaSource:
    settings = KafkaSourceSettings(
        session_seconds=config.kafka_session_seconds, timeout_seconds=config.kafka_read_seconds
    )
    said = ""
    while True:
        try:
            report = await ensure_topics(kafka, config.topics, [*reads, *writes])
            source = await KafkaSource.open(kafka, group, topics=reads, settings=settings, wait_seconds=_OPEN_SECONDS)
        except (SourceError, KafkaError, OSError) as error:  # a timeout is an OSError
            if type(error).__name__ != said:
                _log.warning("waiting for Kafka at %s: %r", kafka.bootstrap, error)
            said = type(error).__name__
            standing.wait_for(LOG, str(error) or f"Kafka at {kafka.bootstrap} does not answer")
            await asyncio.sleep(_PAUSE_SECONDS)
            continue
        standing.wait_for(LOG, "")
        for difference in report.differences:
            _log.warning("%s", difference)
        if said:
            _log.warning("Kafka at %s answers", kafka.bootstrap)
        return source


async def _work_while_it_stands(source: KafkaSource, leave: asyncio.Event, work: Work) -> None:
    stop = asyncio.Event()
    working = asyncio.create_task(work(source, stop))
    watching = asyncio.create_task(_until_over(source, leave))
    try:
        await asyncio.wait([working, watching], return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        await working
    finally:
        watching.cancel()
        working.cancel()


async def _until_over(source: KafkaSource, leave: asyncio.Event) -> None:
    """Return when told to leave, or when what the source reads is not there any more."""
    while source.recreated is None:
        with suppress(TimeoutError):
            await asyncio.wait_for(leave.wait(), _LOOK_EVERY_SECONDS)
            return
    _log.warning("beginning anew: %s", source.recreated)
