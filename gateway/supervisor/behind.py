"""Judge how far the consumers of this configuration are behind: what waits, since when, and what the log lost on them.

* By what is committed, so a consumer that does not run, or runs elsewhere, is judged like any other.
"""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import aiohttp
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError
from msgspec import Struct

from consumers.kafka_fetch import Recreated
from consumers.lag import KafkaLags, Lag, file_bytes, file_lags
from consumers.source import SourceError
from gateway.config import Config
from gateway.publish.database import FILE_NAME
from gateway.publish.reserve import fill
from gateway.publish.spool import ASIDE
from gateway.publish.spool_drain import CONSUMER as DRAIN
from gateway.supervisor import runfile
from gateway.supervisor.log import WAREHOUSE
from gateway.supervisor.unpack import UNPACK
from gateway.supervisor.warehouse import known_group_of
from gateway.supervisor.workers import share_of, spools
from schemas.topics import BATCHES, TOPICS

_LOOK_SECONDS: Final = 8.0
_ASK_SECONDS: Final = 2.0
# Of Kafka's retention: whoever is further behind loses records unless somebody acts soon.
_NEAR_THE_END: Final = 0.5
_NEARLY_FULL: Final = 0.5


class Behind(Struct, frozen=True):
    """A consumer's state in the doctor's words, with the lag of each partition."""

    state: Literal["ok", "warn", "fail"]
    text: str
    advice: str = ""
    lags: list[Lag] = []


async def warehouse_behind(config: Config) -> Behind:
    """Say how far the warehouse is behind its log."""
    if config.kafka is None:
        return await _of_file(config)
    group = known_group_of(config)
    if group is None:
        return Behind("warn", "nothing was consumed here yet", "start `backhaul serve`")
    return await _of_kafka(config, group, TOPICS, "start `backhaul serve` or `backhaul consume warehouse`")


async def unpack_behind(config: Config) -> Behind:
    """Say how far the topic of plain events is behind."""
    if config.kafka is None:
        return Behind("ok", "not used: the log is a file in the data directory")
    found = await _of_kafka(config, UNPACK, [BATCHES], "")
    nobody = found.lags and not any(lag.known for lag in found.lags)
    return Behind("ok", "not used: nobody unpacks") if nobody else found


async def spool_behind(config: Config) -> Behind:
    """Say what of the gateways here waits for Kafka, and what Kafka would not take."""
    if config.kafka is None or config.spool == "off":
        return Behind("ok", "not used")
    lags, full, aside = [], 0.0, 0
    for directory in spools(config.directory).values():
        try:
            lags += await asyncio.to_thread(file_lags, directory, DRAIN)
            most_bytes = share_of(config).spool_max_bytes
            full = max(full, await asyncio.to_thread(_fill, directory, most_bytes, config.disk_reserve_bytes))
        except (SourceError, OSError) as error:
            return Behind("fail", f"a spool cannot be read: {error}", "see data and disk")
        aside += sum(1 for _ in (directory / ASIDE).glob("*.json"))
    text = _waiting(lags) + (f"; {full:.0%} full" if lags else "")
    if aside:
        advice = f"they stand whole under {config.directory}: raise the limit of their topic, and see `dead-letters`"
        return Behind("warn", f"{text}; {aside} records were too large for Kafka and are put aside", advice, lags)
    if full > _NEARLY_FULL:
        return Behind("fail", text, "bring Kafka back; a full spool answers 503: see disk and spool_max_bytes", lags)
    if max(map(_age_seconds, lags), default=0.0) > config.lag_warn_seconds:
        return Behind("warn", text, "see kafka", lags)
    return Behind("ok", text, "", lags)


def _fill(directory: Path, max_bytes: int, reserve_bytes: int) -> float:
    """Say how full a log is. Raises `SourceError` or OSError."""
    return fill(directory / FILE_NAME, file_bytes(directory), max_bytes, reserve_bytes)


async def _of_file(config: Config) -> Behind:
    try:
        lags = await asyncio.to_thread(file_lags, config.directory / "log", WAREHOUSE)
        full = await asyncio.to_thread(_fill, config.directory / "log", config.log_max_bytes, config.disk_reserve_bytes)
    except (SourceError, OSError) as error:
        return Behind("fail", f"the log cannot be read: {error}", "see data and disk")
    if not lags:
        return Behind("warn", "there is no log yet", "`backhaul serve` makes it")
    if full > _NEARLY_FULL:
        text = f"{_waiting(lags)}; the log is {full:.0%} full"
        return Behind("fail", text, "see clickhouse and disk, or raise log_max_bytes: a full log answers 503", lags)
    return judged(config, lags, await _trouble(config))


async def _of_kafka(config: Config, group: str, topics: Sequence[str], start: str) -> Behind:
    kafka = config.kafka
    if kafka is None:
        raise ValueError("there is no Kafka to look at")
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            looking = await KafkaLags.open(kafka, group, topics)
            try:
                lags = await looking.look()
            finally:
                await looking.close()
    except UnknownTopicOrPartitionError:
        return Behind("warn", "not looked at: its topics are not there", "see kafka")
    except (KafkaError, OSError, Recreated):  # a timeout is an OSError
        return Behind("warn", "not looked at: Kafka does not answer", "see kafka")
    trouble = await _trouble(config) if group != UNPACK else ""
    if any(lag.records for lag in lags) and not any(lag.known for lag in lags):
        text = f"nothing was ever stored by the group {kafka.topic_prefix}{group}: {_waiting(lags)}"
        return Behind("warn", text + _because(trouble), start, lags)
    return judged(config, lags, trouble)


def judged(config: Config, lags: list[Lag], trouble: str) -> Behind:
    """Say what the lag of a consumer means; `trouble` is what the consumer itself says is wrong, if anything."""
    text = _waiting(lags) + _because(trouble)
    if gone := sum(lag.gone for lag in lags):
        advice = "they were acknowledged and are lost here: let Kafka keep more (kafka_*_retention_hours), and catch up"
        return Behind("fail", f"{gone} records were deleted before they were read; {text}", advice, lags)
    hours = {
        lag.topic: config.topics.batches_retention_hours
        if lag.topic == BATCHES
        else config.topics.dead_letters_retention_hours
        for lag in lags
    }
    near = [lag for lag in lags if _age_seconds(lag) > _NEAR_THE_END * 3600 * hours[lag.topic]]
    if near and config.kafka is not None:
        advice = f"Kafka deletes them {min(hours[lag.topic] for lag in near)} h after they came: raise its retention"
        return Behind("fail", text, advice, lags)
    if trouble or max(map(_age_seconds, lags)) > config.lag_warn_seconds:
        return Behind("warn", text, "see clickhouse and kafka, and what the consumer prints", lags)
    return Behind("ok", text, "", lags)


def _waiting(lags: Sequence[Lag]) -> str:
    records = sum(lag.records for lag in lags)
    if not records:
        return "nothing waits"
    since = f", the oldest for {max(map(_age_seconds, lags)):.0f} s" if any(lag.oldest_ms for lag in lags) else ""
    return f"{records} records wait{since}"


def _because(trouble: str) -> str:
    return f"; {trouble}" if trouble else ""


def _age_seconds(lag: Lag) -> float:
    return max(time.time() - lag.oldest_ms / 1000, 0.0) if lag.oldest_ms is not None else 0.0


async def _trouble(config: Config) -> str:
    """Return what the consumer beside the gateway here says is wrong; nothing where it says nothing."""
    run = runfile.read(config.directory)
    if run is None or not run.consumer_url:
        return ""
    try:
        timeout = aiohttp.ClientTimeout(total=_ASK_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{run.consumer_url}/readyz") as said:
            trouble: dict[str, str] = (await said.json())["trouble"]
    except (aiohttp.ClientError, OSError, ValueError, KeyError) as error:
        return f"the consumer does not answer: {error!r}"
    return "; ".join(f"{part}: {reason}" for part, reason in trouble.items())
