"""Kafka behind TLS and logins: whoever has the right files and names comes through, others are told what to look at."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from consumers.kafka import KafkaSource
from consumers.unpack import UnpackProgress, UnpackSettings, run
from gateway.publish.kafka import KafkaSink, KafkaSinkSettings
from gateway.publish.kafka_refusal import Refused
from gateway.publish.kafka_topics import ensure_topics, examine_topics
from schemas.kafka import KafkaSettings
from schemas.records import Record
from schemas.topics import BATCHES, EVENTS, TOPICS
from tests.guarded_kafka import PASSWORD, USER, Authority, Doors
from tests.kafka_fixtures import Kafka

Knock = Callable[..., KafkaSettings]


@pytest.fixture
def doors(kafka: Kafka) -> Doors:
    if kafka.doors is None:
        pytest.skip("a broker with TLS and users is started only where Apache Kafka can be")
    return kafka.doors


@pytest.fixture
def knock(kafka: Kafka, doors: Doors) -> Knock:
    """Return a maker of settings that open a door, or, with some of them changed, do not."""

    def make(security: str, /, **changed: str) -> KafkaSettings:
        right = replace(kafka.settings(), bootstrap=doors.address[security], security=security)
        right = replace(right, sasl_user=USER, sasl_password=PASSWORD, ca_file=str(doors.ca))
        return replace(right, **{"certificate_file": str(doors.client) if security == "tls" else "", **changed})

    return make


@pytest.mark.parametrize(
    ("security", "mechanism"),
    [
        ("tls", "PLAIN"),
        ("sasl_tls", "PLAIN"),
        ("sasl_tls", "SCRAM-SHA-256"),
        ("sasl_tls", "SCRAM-SHA-512"),
        ("sasl_plaintext", "SCRAM-SHA-512"),
    ],
)
async def test_topics_are_made_and_batches_written_read_and_unpacked(
    kafka: Kafka, knock: Knock, make_batch: Callable[..., Record], security: str, mechanism: str
) -> None:
    settings, topics = knock(security, sasl_mechanism=mechanism), kafka.topics(1)
    sink = await KafkaSink.open(settings, topics, KafkaSinkSettings(), wait_seconds=30)
    await ensure_topics(settings, topics, [EVENTS])
    sent = make_batch(events=3)
    await sink.publish([sent])
    await sink.close()
    source = await KafkaSource.open(settings, "unpack", topics=[BATCHES])
    (found,) = await source.read(BATCHES, 0, 0, max_records=10, max_bytes=1 << 20)
    assert (found.key, found.value, found.headers) == (sent.key, sent.value, sent.headers)
    stop, seen = asyncio.Event(), list[UnpackProgress]()

    def observe(progress: UnpackProgress) -> None:
        seen.append(progress)
        if progress.events:
            stop.set()

    async with asyncio.timeout(60):
        await run(source, settings, UnpackSettings(poll_seconds=0.05), stop, observe)
    await source.close()
    assert seen[-1].events == 3
    assert (await examine_topics(settings, topics, [*TOPICS, EVENTS])).differences == ()


@pytest.mark.parametrize(
    ("security", "changed", "said"),
    [
        (
            "sasl_tls",
            {"sasl_password": "guessed"},
            r"refuses the user 'gateway' .* check kafka_sasl_user",
        ),
        ("sasl_tls", {"sasl_password": "guessed", "sasl_mechanism": "PLAIN"}, r"refuses the user 'gateway' with PLAIN"),
        ("sasl_tls", {"ca_file": "OTHER"}, r"certificate that is not believed .* check kafka_ca_file"),
        ("sasl_tls", {"security": "tls"}, r"hangs up: .* check kafka_security, now tls"),
        ("tls", {"certificate_file": ""}, r"refuses us without a certificate .* check kafka_certificate_file"),
        ("tls", {"certificate_file": "OTHER'S"}, r"refuses the certificate that we show"),
        ("tls", {"security": "plaintext"}, r"hangs up: it may expect TLS"),
        ("sasl_plaintext", {"bootstrap": "OPEN"}, r"asks for no user at that port"),
        ("tls", {"bootstrap": "127.0.0.1:1"}, r"127\.0\.0\.1:1 cannot be reached \(Connection refused\)"),
    ],
)
async def test_who_is_not_let_in_is_told_which_key_to_look_at(
    kafka: Kafka, knock: Knock, tmp_path: Path, security: str, changed: dict[str, str], said: str
) -> None:
    stranger = Authority("others", tmp_path)
    values = {"OTHER": str(stranger.file), "OTHER'S": str(stranger.issue("stranger")), "OPEN": kafka.bootstrap}
    settings = knock(security, **{key: values.get(value, value) for key, value in changed.items()})
    with pytest.raises(Refused, match=said):
        await ensure_topics(settings, kafka.topics(1), TOPICS)


async def test_a_gateway_says_in_its_trouble_why_it_is_not_let_in(kafka: Kafka, knock: Knock) -> None:
    settings = knock("sasl_tls", sasl_password="guessed")
    sink = await KafkaSink.open(settings, kafka.topics(1), KafkaSinkSettings(), wait_seconds=0.2)
    async with asyncio.timeout(30):
        while "check kafka_sasl_user" not in (sink.trouble() or ""):  # noqa: ASYNC110 - looked at from outside
            await asyncio.sleep(0.05)
    assert PASSWORD not in str(sink.trouble())
    await sink.close()


def test_the_doctor_comes_through_with_variables_and_says_what_is_wrong_with_them(knock: Knock, tmp_path: Path) -> None:
    settings = knock("sasl_tls")

    def doctor(password: str) -> dict[str, str]:
        said = {
            "DATA": str(tmp_path),
            "KAFKA_BOOTSTRAP": settings.bootstrap,
            "KAFKA_SECURITY": settings.security,
            "KAFKA_CA_FILE": settings.ca_file,
            "KAFKA_SASL_USER": settings.sasl_user,
            "KAFKA_SASL_PASSWORD": password,
            "KAFKA_TOPIC_PREFIX": settings.topic_prefix,
        }
        environ = {**os.environ, **{f"BACKHAUL_{key}": value for key, value in said.items()}}
        command = [sys.executable, "-P", "-m", "gateway.cli", "doctor", "--json"]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert password not in done.stdout + done.stderr
        return next(finding for finding in json.loads(done.stdout) if finding["part"] == "kafka")

    assert "is not there" in doctor(PASSWORD)["text"]
    assert "check kafka_sasl_user" in doctor("guessed")["text"]
