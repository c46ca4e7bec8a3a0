"""What all tests share: the Kafka broker of this run, its ClickHouse's name, and how they are spread over processes."""

import os

import pytest
from hypothesis import HealthCheck, settings

pytest_plugins = ["tests.kafka_fixtures"]

# On a busy machine an example takes as long as it takes: that says nothing of the law, and a false alarm of it once
# stood in the mutations' results as a catch.
settings.register_profile("laws", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("laws")


def pytest_report_header() -> str:
    given = os.environ.get("CLICKHOUSE_URL")
    return f"clickhouse: CLICKHOUSE_URL={given}" if given else "clickhouse: the embedded server, started here"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file in one process, and all that talk to the brokers of this run in one too: a broker costs a JVM."""
    for item in items:
        needs_kafka = any(name.startswith("kafka") for name in getattr(item, "fixturenames", ()))
        item.add_marker(pytest.mark.xdist_group("kafka" if needs_kafka else str(item.path)))
