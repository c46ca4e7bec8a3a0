"""The log that a gateway writes: a file under the data directory, Kafka with a spool before it, or Kafka alone.

* Acknowledged batches are never left behind: a start that would not read the file or the spool they wait in is refused.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from consumers.log_file import LogFile
from consumers.positions import load, positions_path
from consumers.source import EmbeddedSource
from gateway.config import Config
from gateway.publish import Sink
from gateway.publish.embedded import EmbeddedLog
from gateway.supervisor.workers import spool_of, spools
from schemas.kafka import KafkaSettings
from schemas.topics import TOPICS

WAREHOUSE: Final = "warehouse"
# Kafka answers within this where it is well; where it is not, batches go to the spool meanwhile.
_CONNECT_SECONDS: Final = 5.0
# Of the grace: what a stop may wait for Kafka's confirmations.
_CLOSE_SHARE: Final = 0.05


class Log(NamedTuple):
    """A sink, and how urgently devices should flush less often because of it, from 0 to 1."""

    sink: Sink
    pressure: Callable[[], float]


class LeftBehind(Exception):
    """Batches wait where this configuration would not look for them; the text is one line for the operator."""


async def open_log(config: Config, *, spooling: bool = True, worker: int = 1) -> Log:
    """Open what the configuration names; a spool has one process, each worker its own, and others do without.

    Raises `Unavailable` or `SourceError` for a disk, and OSError for a TLS file.
    """
    kafka = config.kafka
    if kafka is None:
        log = await EmbeddedLog.open(
            config.directory / "log",
            max_bytes=config.log_max_bytes,
            max_pending_bytes=config.log_pending_max_bytes,
            reserve_bytes=config.disk_reserve_bytes,
        )
        return Log(log, _none)
    spool = spool_of(config.directory, worker) if spooling and config.spool == "on" else None
    return await _open_kafka(config, kafka, spool)


async def _open_kafka(config: Config, kafka: KafkaSettings, directory: Path | None) -> Log:
    from gateway.publish.kafka import KafkaSink, KafkaSinkSettings
    from gateway.publish.spool import Spool, SpoolSettings

    settings = KafkaSinkSettings(
        publish_timeout_seconds=config.kafka_publish_seconds,
        max_pending_bytes=config.kafka_pending_max_bytes,
        renew_seconds=config.kafka_renew_seconds,
        topics_check_seconds=config.kafka_topics_check_seconds,
        close_seconds=_CLOSE_SHARE * config.grace_seconds,
    )
    sink = await KafkaSink.open(kafka, config.topics, settings, wait_seconds=_CONNECT_SECONDS)
    if directory is None:
        return Log(sink, _none)
    kept = SpoolSettings(
        max_bytes=config.spool_max_bytes,
        max_pending_bytes=config.log_pending_max_bytes,
        reserve_bytes=config.disk_reserve_bytes,
        drain_records_per_second=config.spool_drain_records_per_second,
        stuck_seconds=config.spool_stuck_seconds,
    )
    try:
        spool = await Spool.open(directory, sink, kept, EmbeddedSource.open)
    except BaseException:
        await sink.close()
        raise
    return Log(spool, spool.pressure)


def check_nothing_is_left_behind(config: Config) -> None:
    """Look into the file and the spools that this configuration does not read. Raises `LeftBehind`."""
    log = config.directory / "log"
    if config.kafka_bootstrap and (count := _unread(log, WAREHOUSE)):
        raise LeftBehind(
            f"{log} holds {count} records that the warehouse has not: start once without kafka_bootstrap,"
            " and stop it once they are stored"
        )
    drained = config.workers if config.kafka_bootstrap and config.spool == "on" else 0
    for worker, spool in spools(config.directory).items():
        if worker > drained and (count := _unread(spool, "drain")):
            raise LeftBehind(
                f"{spool} holds {count} records that Kafka has not: start once with kafka_bootstrap, spool=on and"
                f" workers={worker}, and stop it once they are drained"
            )


def _unread(directory: Path, consumer: str) -> int:
    """Return how many records the consumer has not read. Raises `LeftBehind` where that cannot be known."""
    log = LogFile(directory)
    if not log.path.exists():
        return 0
    try:
        kept = load(positions_path(directory, consumer))
        positions = kept.positions if kept is not None and kept.identity == log.identity() else {}
        return sum(log.end(topic) - positions.get(topic, 0) for topic in TOPICS)
    except (sqlite3.Error, OSError, ValueError) as error:
        raise LeftBehind(f"{directory} cannot be read, and may hold acknowledged batches: {error}") from error
    finally:
        log.drop()


def _none() -> float:
    return 0.0
