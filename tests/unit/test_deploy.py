"""What an operator copies from deploy/ fits together and fits the code, as far as that shows without containers."""

import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from deploy.local_kafka import missing
from gateway.cli import _parser
from gateway.config import load

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]


def xml_of(name: str) -> ET.Element:
    return ET.parse(DEPLOY / "clickhouse" / name).getroot()  # noqa: S314 - our own file


def texts(root: ET.Element, path: str) -> list[str]:
    return [found.text or "" for found in root.findall(path)]


def environment(name: str) -> dict[str, str]:
    """Return a service's environment, with something for what the operator gives."""
    given = SERVICES[name].get("environment", {})
    return {key: "given" if value.startswith("${") else value for key, value in given.items()}


def mounts() -> Iterator[tuple[str, str, str]]:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            source, target, *_ = volume.split(":")
            yield name, source, target


def test_what_a_service_waits_for_is_there_and_can_become_healthy() -> None:
    for service in SERVICES.values():
        for other, wait in service.get("depends_on", {}).items():
            assert wait == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[other]


def test_every_volume_is_declared_and_used_and_every_mounted_file_is_there() -> None:
    named = {source for _, source, _ in mounts() if not source.startswith(".")}
    assert named == set(COMPOSE["volumes"])
    for _, source, _ in mounts():
        if source.startswith("."):
            assert (DEPLOY / source).is_file()


def test_nothing_is_kept_in_one_place_by_two_services_but_the_store() -> None:
    kept = [source for _, source, _ in mounts() if not source.startswith(".") and source != "store"]
    assert len(kept) == len(set(kept))


@pytest.mark.parametrize("name", OURS)
def test_our_services_start_with_a_configuration_that_the_code_takes(name: str) -> None:
    given = environment(name)
    mounted = {target: source for service, source, target in mounts() if service == name}
    file = DEPLOY / mounted[given.pop("BACKHAUL_CONFIG")]
    config = load(environ=given, file=file)
    assert config.clickhouse_password == "given"
    _parser().parse_args(SERVICES[name]["command"])


def test_hosts_and_ports_in_the_configuration_are_services() -> None:
    keys = tomllib.loads((DEPLOY / "backhaul.toml").read_text())
    brokers = [f"{name}:9092" for name in SERVICES if name.startswith("kafka-")]
    assert keys["kafka_bootstrap"].split(",") == brokers
    assert keys["kafka_replication"] == len(brokers)
    assert keys["clickhouse_url"] == "http://clickhouse-1a:8123"
    assert keys["clickhouse_cluster"] in [found.tag for found in xml_of("cluster.xml").findall("remote_servers/*")]
    keepers = [name for name in SERVICES if name.startswith("keeper-")]
    assert texts(xml_of("cluster.xml"), "zookeeper/node/host") == keepers
    assert texts(xml_of("keeper.xml"), "keeper_server/raft_configuration/server/hostname") == keepers
    assert {"clickhouse-1a"} <= set(SERVICES)


def test_every_broker_votes_under_its_own_number_and_is_reached_by_its_own_name() -> None:
    brokers = [name for name in SERVICES if name.startswith("kafka-")]
    voters = ",".join(f"{name.removeprefix('kafka-')}@{name}:9093" for name in brokers)
    for name in brokers:
        given = environment(name)
        assert given["KAFKA_CONTROLLER_QUORUM_VOTERS"] == voters
        assert given["KAFKA_NODE_ID"] == name.removeprefix("kafka-")
        assert given["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{name}:9092"
        assert int(given["KAFKA_MIN_INSYNC_REPLICAS"]) < len(brokers)


def test_every_server_of_the_cluster_is_the_replica_that_the_cluster_takes_it_for() -> None:
    root = xml_of("cluster.xml")
    seen = []
    for number, shard in enumerate(root.findall("remote_servers/main/shard"), 1):
        for host in texts(shard, "replica/host"):
            given = environment(host)
            assert (given["SHARD"], given["REPLICA"]) == (str(number), host)
            seen.append(host)
    assert seen == [name for name in SERVICES if name.startswith("clickhouse-")]


@pytest.mark.parametrize(
    ("file", "prefix"), [("cluster.xml", "clickhouse-"), ("users.xml", "clickhouse-"), ("keeper.xml", "keeper-")]
)
def test_what_a_file_takes_from_the_environment_is_given(file: str, prefix: str) -> None:
    wanted = {found.get("from_env") for found in xml_of(file).iter() if found.get("from_env")}
    assert wanted
    for name in SERVICES:
        if name.startswith(prefix):
            assert wanted <= environment(name).keys()


def test_keepers_have_different_numbers_that_they_know_each_other_by() -> None:
    ids = texts(xml_of("keeper.xml"), "keeper_server/raft_configuration/server/id")
    assert ids == [environment(f"keeper-{number}")["KEEPER_ID"] for number in ids]
    assert texts(xml_of("keeper.xml"), "keeper_server/coordination_settings/quorum_reads") == ["true"]


def test_the_image_is_built_from_what_is_there() -> None:
    lines = [line.split("#")[0].strip() for line in (DEPLOY / "Dockerfile").read_text().splitlines()]
    copied = [words[1:-1] for words in map(str.split, lines) if words[:1] == ["COPY"] and "--from=build" not in words]
    sources = [source for group in copied for source in group]
    for source in sources:
        assert (ROOT / source).exists(), source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    for needed in (*wheel["packages"], *wheel["force-include"], project["project"]["readme"]):
        assert any(needed == source or needed.startswith(f"{source}/") for source in sources), needed
    assert 'ENTRYPOINT ["backhaul"]' in lines
    assert "backhaul" in project["project"]["scripts"]


@pytest.mark.parametrize(
    ("said", "lacking"),
    [
        ('openjdk version "17.0.15" 2025-04-15', None),
        ('openjdk version "24" 2025-03-18', None),
        ('openjdk version "11.0.9" 2020-10-20', "java is version 11, and Kafka needs 17"),
        ('java version "1.8.0_392"', "java is version 8, and Kafka needs 17"),
        ("Unable to locate a Java Runtime.", "java does not run"),
    ],
)
def test_a_java_that_cannot_run_kafka_is_said_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, lacking: str | None
) -> None:
    for program in ("java", "mvn"):
        (tmp_path / program).write_text(f"#!/bin/sh\necho '{said}' >&2\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert missing() == lacking
