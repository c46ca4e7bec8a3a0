"""What an operator says of Kafka becomes what its client is made with, and nothing secret is shown."""

import ssl

import msgspec
import pytest

from schemas.kafka import KafkaSettings, TopicSettings


def test_plaintext_needs_nothing_but_the_brokers() -> None:
    options = KafkaSettings(bootstrap="a:9092,b:9092").client_options()
    assert options == {"bootstrap_servers": "a:9092,b:9092", "client_id": "backhaul", "security_protocol": "PLAINTEXT"}


def test_tls_checks_the_brokers_names() -> None:
    options = KafkaSettings(bootstrap="a:9093", security="tls").client_options()
    assert options["security_protocol"] == "SSL"
    assert options["ssl_context"].verify_mode is ssl.CERT_REQUIRED
    assert options["ssl_context"].check_hostname


def test_sasl_over_tls_carries_the_user() -> None:
    settings = KafkaSettings(bootstrap="a:9093", security="sasl_tls", sasl_user="gw", sasl_password="secret")
    options = settings.client_options()
    assert options["security_protocol"] == "SASL_SSL"
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("gw", "secret")
    assert "ssl_context" in options


def test_a_password_is_never_printed() -> None:
    assert "hush" not in repr(KafkaSettings(bootstrap="a:1", security="sasl_tls", sasl_password="hush"))


def test_a_missing_certificate_is_said_when_the_client_is_made() -> None:
    with pytest.raises(OSError, match="No such file"):
        KafkaSettings(bootstrap="a:1", security="tls", ca_file="/nowhere/ca.pem").client_options()


@pytest.mark.parametrize("bootstrap", ["", "localhost", "a:9092,", "a:9092, b:9092", "a:b", "a:9092;b:9092"])
def test_a_bootstrap_that_is_no_list_of_addresses_is_refused(bootstrap: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"bootstrap": bootstrap}, KafkaSettings)


def test_one_copy_may_be_missing_where_two_are_left_unless_said_otherwise() -> None:
    assert [TopicSettings(replication=n).needed_insync for n in (1, 2, 3, 5)] == [1, 2, 2, 4]
    assert TopicSettings(replication=3, min_insync=3).needed_insync == 3
    assert TopicSettings(replication=2, min_insync=1).needed_insync == 1
