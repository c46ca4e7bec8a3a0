"""The configuration: where a value comes from, what is refused, and what is printed."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from gateway import config
from gateway.config import KEYS, Config, ConfigError, load
from gateway.config_kafka import unusable
from gateway.config_table import allowed, markdown_table
from schemas.kafka import KafkaSettings, TopicSettings

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(text: str) -> Path:
        path = tmp_path / "backhaul.toml"
        path.write_text(text)
        return path

    return _write


def test_nothing_given_is_the_defaults() -> None:
    assert load() == Config()


def test_a_flag_beats_a_variable_beats_the_file_beats_the_default(write: Write) -> None:
    file = write("flush_events = 10\nflush_seconds = 10\nlease_seconds = 10\n")
    environ = {"BACKHAUL_FLUSH_EVENTS": "20", "BACKHAUL_FLUSH_SECONDS": "20"}
    found = load({"flush_events": 30, "data": None}, environ, file)
    assert (found.flush_events, found.flush_seconds, found.lease_seconds) == (30, 20, 10)
    assert found.data == "backhaul-data"


def test_the_file_may_be_named_by_a_variable(write: Write) -> None:
    file = write("grace_seconds = 3")
    assert load({}, {"BACKHAUL_CONFIG": str(file)}).grace_seconds == 3.0


def test_variables_of_other_programs_are_none_of_our_business() -> None:
    assert load({}, {"PATH": "/bin", "backhaul_data": "x"}) == Config()


def test_what_kubernetes_says_of_services_with_our_name_is_none_of_our_business() -> None:
    of_service = {
        "BACKHAUL_SERVICE_HOST": "10.0.171.239",
        "BACKHAUL_SERVICE_PORT": "8080",
        "BACKHAUL_SERVICE_PORT_HTTP": "8080",
        "BACKHAUL_PORT": "tcp://10.0.171.239:8080",
        "BACKHAUL_PORT_8080_TCP": "tcp://10.0.171.239:8080",
        "BACKHAUL_PORT_8080_TCP_PROTO": "tcp",
        "BACKHAUL_PORT_8080_TCP_PORT": "8080",
        "BACKHAUL_PORT_8080_TCP_ADDR": "10.0.171.239",
        "BACKHAUL_CLICKHOUSE_SERVICE_HOST": "10.0.171.240",
        "BACKHAUL_CLICKHOUSE_PORT": "tcp://10.0.171.240:8123",
        "BACKHAUL_CLICKHOUSE_PORT_8123_TCP_ADDR": "10.0.171.240",
    }
    assert load({}, of_service) == Config()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"BACKHAUL_FLUSH_EVENT": "1"}, "unknown key 'flush_event' from the variable BACKHAUL_FLUSH_EVENT"),
        ({"BACKHAUL_FLUSH_EVENT": "1"}, "did you mean 'flush_events'?"),
        ({"BACKHAUL_XYZZY": "1"}, "the keys are data, listen, "),
        ({"BACKHAUL_FLUSH_EVENTS": "0"}, "flush_events from the variable BACKHAUL_FLUSH_EVENTS: '0' is not allowed"),
        ({"BACKHAUL_FLUSH_EVENTS": "many"}, "it must be a whole number from 1 to 100000"),
        ({"BACKHAUL_REFRESH_SECONDS": "nan"}, "it must be a number from 0.05 to 3600"),
        ({"BACKHAUL_LISTEN": "localhost"}, "it must be HOST:PORT"),
        ({"BACKHAUL_LISTEN": "127.0.0.1:65536"}, "it must be HOST:PORT"),
        ({"BACKHAUL_LOG_LEVEL": "loud"}, "it must be one of debug, error, info, warning"),
        ({"BACKHAUL_STORE_URL": "memory://"}, "it must be a URL: file, s3, gs, az, abfs or https"),
        ({"BACKHAUL_CLICKHOUSE_URL": "http://me:secret@host"}, "no user or password in it"),
        ({"BACKHAUL_CLICKHOUSE_DATABASE": "a;b"}, "it must be letters, digits and _"),
        ({"BACKHAUL_FLUSH_EVENTS": "2000"}, "flush_events (2000) must not be above batch_max_events (1000)"),
        ({"BACKHAUL_LOG_MAX_BYTES": str(1 << 20)}, "log_max_bytes (1048576) must be at least 15"),
        (
            {"BACKHAUL_BODY_MAX_BYTES": str(1 << 26), "BACKHAUL_INFLATED_MAX_BYTES": str(1 << 26)},
            "log_pending_max_bytes (67108864) must be at least ",
        ),
        ({"BACKHAUL_CLICKHOUSE_PORT": "tcp"}, "it must be a whole number from 0 to 65535"),
        ({"BACKHAUL_LISTEN_PORT": "8080"}, "unknown key 'listen_port'"),
        ({"BACKHAUL_CONFIG": "/nowhere/b.toml"}, "cannot read the configuration file /nowhere/b.toml"),
    ],
)
def test_a_wrong_variable_stops_the_start_with_its_name(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load({}, environ)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("flush_evnts = 1", "unknown key 'flush_evnts' in "),
        ("[gateway]\nflush_events = 1", "unknown key 'gateway' in "),
        ('flush_events = "12"', "flush_events in "),
        ("flush_events = 0", "flush_events in "),
        ("flush_events = ", "is not valid TOML"),
    ],
)
def test_a_wrong_file_stops_the_start_with_its_name(write: Write, text: str, said: str) -> None:
    file = write(text)
    with pytest.raises(ConfigError, match=r"backhaul\.toml") as caught:
        load({}, {}, file)
    assert said in str(caught.value)


def test_a_wrong_value_is_refused_even_where_a_stronger_place_overrides_it() -> None:
    with pytest.raises(ConfigError, match="BACKHAUL_LISTEN"):
        load({"listen": "127.0.0.1:0"}, {"BACKHAUL_LISTEN": "nonsense"})


def test_a_flag_is_named_as_the_user_typed_it() -> None:
    with pytest.raises(ConfigError, match="from the flag --listen"):
        load({"listen": "here"})


def test_a_secret_is_never_printed() -> None:
    found = load({}, {"BACKHAUL_CLICKHOUSE_PASSWORD": "hunter2"})
    assert "hunter2" not in repr(found)
    assert config.shown_value(found, "clickhouse_password") == "***"
    with pytest.raises(ConfigError) as caught:
        load({}, {"BACKHAUL_CLICKHOUSE_PASSWORD": "hunter2\nhunter3"})
    assert "hunter" not in str(caught.value)


def test_a_child_reads_the_same_configuration_from_its_environment(tmp_path: Path) -> None:
    found = load({"data": str(tmp_path), "listen": "[::1]:0", "refresh_seconds": 0.1, "store_url": "s3://bucket/path"})
    assert load({}, config.to_environment(found)) == found


def test_the_addresses_are_filled_in() -> None:
    found = load({"listen": "[::1]:8443", "data": "/tmp/a b"})  # noqa: S108 - a path in text only
    assert found.address == ("::1", 8443)
    assert found.store_address == "file:///tmp/a%20b/store"
    assert found.name
    assert load({"store_url": "s3://bucket"}).store_address == "s3://bucket"


def test_every_key_is_described_bounded_and_in_the_table() -> None:
    table = markdown_table(KEYS, config.variable).splitlines()
    assert len(table) == len(KEYS) + 2
    for key, row in zip(KEYS, table[2:], strict=True):
        assert f"`{key}`" in row
        assert config.variable(key) in row
        assert allowed(KEYS[key]) in row
        assert "None" not in row


def test_every_default_is_within_its_bounds() -> None:
    for key, field in KEYS.items():
        assert msgspec.convert(field.default, field.type) == field.default, key


KAFKA = {"kafka_bootstrap": "a:9092,b:9092"}


def test_without_brokers_the_log_is_a_file_and_with_them_the_settings_are_those_given() -> None:
    assert load({"kafka_sasl_user": "x"}).kafka is None
    given = {
        "kafka_security": "sasl_tls",
        "kafka_sasl_user": "gw",
        "kafka_ca_file": "ca.pem",
        "kafka_topic_prefix": "p.",
    }
    found = load(KAFKA | given, {"BACKHAUL_KAFKA_SASL_PASSWORD": "hunter2"})
    kafka = found.kafka
    assert kafka is not None
    assert (kafka.bootstrap, kafka.security, kafka.ca_file) == ("a:9092,b:9092", "sasl_tls", "ca.pem")
    assert (kafka.sasl_user, kafka.sasl_password, kafka.topic("batches")) == ("gw", "hunter2", "p.batches")
    assert "hunter2" not in repr(found)
    assert load({}, config.to_environment(found)).kafka == kafka


def test_topics_are_made_as_configured() -> None:
    topics = load(KAFKA | {"kafka_partitions": 3, "kafka_replication": 1, "kafka_batches_retention_hours": 24}).topics
    assert (topics.partitions, topics.replication, topics.needed_insync, topics.batches_retention_hours) == (
        3,
        1,
        1,
        24,
    )


def test_the_defaults_of_the_keys_are_those_of_the_settings() -> None:
    found = load({"kafka_bootstrap": "a:1"})
    assert (found.kafka, found.topics) == (KafkaSettings(bootstrap="a:1"), TopicSettings())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kafka_bootstrap": "a"}, "from the flag --kafka: 'a' is not allowed; it must be HOST:PORT"),
        ({"clickhouse_url": "ch"}, "from the flag --clickhouse: "),
        (KAFKA | {"body_max_bytes": 2 << 20}, "kafka_record_max_bytes (2097152) must be at least 2861738"),
        (KAFKA | {"kafka_min_insync": 3, "kafka_replication": 2}, "kafka_min_insync (3) is above"),
        (KAFKA | {"kafka_security": "sasl_tls"}, "kafka_security sasl_tls needs kafka_sasl_user"),
    ],
)
def test_what_kafka_could_not_work_with_stops_the_start(given: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(given)
    assert said in str(caught.value)


def test_a_larger_body_is_no_contradiction_where_the_log_is_a_file() -> None:
    assert load({"body_max_bytes": 2 << 20}).body_max_bytes == 2 << 20


def test_a_tls_file_that_is_not_there_is_named() -> None:
    kafka = load(KAFKA | {"kafka_security": "tls", "kafka_ca_file": "/nowhere/ca.pem"}).kafka
    assert kafka is not None
    assert unusable(kafka) == "Kafka's TLS files cannot be used (/nowhere/ca.pem): No such file or directory"


def test_a_cluster_needs_a_server_that_knows_it() -> None:
    with pytest.raises(ConfigError, match="clickhouse_cluster needs clickhouse_url"):
        load(environ={"BACKHAUL_CLICKHOUSE_CLUSTER": "main"})
    load(environ={"BACKHAUL_CLICKHOUSE_CLUSTER": "main", "BACKHAUL_CLICKHOUSE_URL": "http://ch:8123"})
