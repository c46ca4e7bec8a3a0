"""The topics on Kafka: made where they are missing, compared with the settings where they are not.

* What exists is never changed: other software may count on it, and more partitions would move devices between them.
  Every difference is told in a sentence.
* Some differences are faults: with them brokers delete or lose what was acknowledged. Whoever acknowledges writes no
  topic with a fault. That holds for what stands there when a gateway looks: as it connects, and now and then. Fewer
  replicas are none: how many have a record that is acknowledged is min.insync.replicas, and brokers keep to it.
* Brokers' clocks stamp the records (LogAppendTime). By a gateway's clock retention would delete at once what a clock
  days behind has written, and brokers would refuse what one an hour ahead writes.
* Nothing relies on brokers that make topics by themselves.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    InvalidReplicationFactorError,
    KafkaConnectionError,
    KafkaError,
    NoError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)
from msgspec import Struct
from msgspec.structs import replace

from gateway.publish.kafka_refusal import refusal
from schemas.kafka import GIB, KafkaSettings, TopicSettings
from schemas.topics import BATCHES, DEAD_LETTERS, EVENTS

_HOUR_MS: Final = 3_600_000
_REQUEST_TIMEOUT_MS: Final = 10_000
_LIST_TRIES: Final = 25
_LIST_SECONDS: Final = 0.2
_NEVER_OTHERWISE: Final = (
    "cleanup.policy",
    "retention.bytes",
    "message.timestamp.type",
    "unclean.leader.election.enable",
)


class TopicsReport(Struct, frozen=True):
    """What was found: sentences on what differs, those of them that lose records, and the largest record of each topic
    by its own limit and the configured one. `unmakeable` says why what is missing cannot be made, where that shows."""

    differences: tuple[str, ...]
    faults: tuple[str, ...]
    record_bytes: Mapping[str, int]
    unmakeable: str = ""

    @property
    def max_record_bytes(self) -> int:
        """The largest record that all of the topics take."""
        return min(self.record_bytes.values())


class _Extent(Struct, frozen=True):
    """How many partitions a topic has, and the fewest brokers that one of them is assigned to."""

    partitions: int
    replicas: int


async def ensure_topics(kafka: KafkaSettings, wanted: TopicSettings, names: Sequence[str]) -> TopicsReport:
    """Make the topics that are missing and compare the others. Raises KafkaError, OSError or TimeoutError."""
    async with _connected(kafka) as admin:
        await _create(admin, kafka, wanted, names)
        found = await _listed(admin, [kafka.topic(name) for name in names])
        configs = await _configs(admin, found)
    return _compared(kafka, wanted, names, found, configs)


async def examine_topics(kafka: KafkaSettings, wanted: TopicSettings, names: Sequence[str]) -> TopicsReport:
    """Compare the topics, and make none. Raises KafkaError, OSError or TimeoutError."""
    async with _connected(kafka) as admin:
        there = set(await admin.list_topics())
        found = await _listed(admin, [kafka.topic(name) for name in names if kafka.topic(name) in there])
        configs = await _configs(admin, found)
        brokers = len((await admin.describe_cluster())["brokers"])
    report = _compared(kafka, wanted, names, found, configs)
    if len(found) == len(names) or brokers >= wanted.replication:
        return report
    return replace(report, unmakeable=f"{brokers} of the {wanted.replication} brokers of kafka_replication are there")


@asynccontextmanager
async def _connected(kafka: KafkaSettings) -> AsyncIterator[AIOKafkaAdminClient]:
    admin = AIOKafkaAdminClient(**kafka.client_options(), request_timeout_ms=_REQUEST_TIMEOUT_MS)
    try:
        try:
            await admin.start()
        except KafkaConnectionError as error:
            raise await refusal(kafka) from error
        yield admin
    finally:
        await admin.close()


def _compared(
    kafka: KafkaSettings,
    wanted: TopicSettings,
    names: Sequence[str],
    found: Mapping[str, _Extent],
    configs: Mapping[str, Mapping[str, str]],
) -> TopicsReport:
    differences: list[str] = []
    faults: list[str] = []
    for name in names:
        topic = kafka.topic(name)
        if topic not in found:
            differences.append(f"topic {topic} is not there")
        else:
            differences += _differing_extent(topic, wanted, found[topic])
        if topic in found and topic not in configs:
            differences.append(f"topic {topic}: its configuration may not be read, so nobody knows what it loses")
        wanted_configs, config = topic_configs(name, wanted), configs.get(topic, {})
        differences += _differing(topic, wanted_configs, config)
        faults += _faults(topic, wanted_configs, config)
    limits = {name: int(configs.get(kafka.topic(name), {}).get("max.message.bytes", GIB)) for name in names}
    return TopicsReport(
        tuple(differences),
        tuple(faults),
        {name: min(wanted.max_record_bytes, limit) for name, limit in limits.items()},
    )


def topic_configs(name: str, wanted: TopicSettings) -> dict[str, str]:
    """Return the configuration of a topic, in Kafka's words."""
    hours = {
        BATCHES: wanted.batches_retention_hours,
        DEAD_LETTERS: wanted.dead_letters_retention_hours,
        EVENTS: wanted.events_retention_hours,
    }
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(hours[name] * _HOUR_MS),
        "retention.bytes": "-1",
        "message.timestamp.type": "LogAppendTime",
        "unclean.leader.election.enable": "false",
        "max.message.bytes": str(wanted.max_record_bytes),
        "min.insync.replicas": str(wanted.needed_insync),
        # Bodies are compressed already; the broker would only open and close them again.
        "compression.type": wanted.events_compression if name == EVENTS else "producer",
    }


async def _create(
    admin: AIOKafkaAdminClient, kafka: KafkaSettings, wanted: TopicSettings, names: Sequence[str]
) -> None:
    there = set(await admin.list_topics())
    new = [
        NewTopic(kafka.topic(name), wanted.partitions, wanted.replication, topic_configs=topic_configs(name, wanted))
        for name in names
        if kafka.topic(name) not in there
    ]
    if not new:
        return
    answer = await admin.create_topics(new)
    for topic, code, *message in answer.topic_errors:
        failure = for_code(code)
        if failure not in (NoError, TopicAlreadyExistsError):  # another gateway may have been faster
            why = (" ".join(filter(None, message)) or failure.description).rstrip(".")
            advice = f"; kafka_replication is {wanted.replication}" if failure is InvalidReplicationFactorError else ""
            raise failure(f"topic {topic} cannot be made: {why}{advice}")


async def _listed(admin: AIOKafkaAdminClient, topics: Sequence[str]) -> dict[str, _Extent]:
    """Return how large each topic is; a topic made just now is waited for, since brokers hear of it one by one."""
    found: dict[str, _Extent] = {}
    for _ in range(_LIST_TRIES if topics else 0):  # asked for none, brokers tell of all that they have
        described = await admin.describe_topics(list(topics))
        found = {topic["topic"]: _extent(topic["partitions"]) for topic in described if topic["error_code"] == 0}
        if len(found) == len(topics):
            break
        await asyncio.sleep(_LIST_SECONDS)
    return found


async def _configs(admin: AIOKafkaAdminClient, topics: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return what brokers tell of the topics' configurations: nothing, where that is not allowed.

    A topic made just now is waited for, as in `_listed`: the broker that is asked may not have heard of it.
    """
    told: dict[str, dict[str, str]] = {}
    for _ in range(_LIST_TRIES if topics else 0):
        try:
            answers = await admin.describe_configs(
                [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
            )
        except KafkaError:
            return {}
        resources = [resource for answer in answers for resource in answer.resources]
        told = {
            topic: {name: value for name, value, *_ in entries}
            for code, _message, _type, topic, entries in resources
            if code == 0
        }
        if not any(code == UnknownTopicOrPartitionError.errno for code, *_ in resources):
            break
        await asyncio.sleep(_LIST_SECONDS)
    return told


def _extent(partitions: Sequence[Mapping[str, Any]]) -> _Extent:
    return _Extent(len(partitions), min((len(partition["replicas"]) for partition in partitions), default=0))


def _differing_extent(topic: str, wanted: TopicSettings, found: _Extent) -> list[str]:
    return [
        f"topic {topic} has {has} {what} where {configured} are configured"
        for what, has, configured in (
            ("partitions", found.partitions, wanted.partitions),
            ("replicas", found.replicas, wanted.replication),
        )
        if has != configured
    ]


def _differing(topic: str, wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    return [_sentence(topic, key, wanted, found) for key in wanted if key in found and found[key] != wanted[key]]


def _faults(topic: str, wanted: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Return the differences that lose what was acknowledged. More copies than wanted lose nothing."""
    wrong = [key for key in _NEVER_OTHERWISE if found.get(key, wanted[key]) != wanted[key]]
    copies = "min.insync.replicas"
    if int(found.get(copies, wanted[copies])) < int(wanted[copies]):
        wrong.append(copies)
    return [_sentence(topic, key, wanted, found) for key in wrong]


def _sentence(topic: str, key: str, wanted: Mapping[str, str], found: Mapping[str, str]) -> str:
    return f"topic {topic} has {key}={found[key]} where {wanted[key]} is configured"
