"""What all tests share: the Kafka broker of this run, and how they are spread over processes."""

import pytest

pytest_plugins = ["tests.kafka_fixtures"]


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep a file in one process, and all that talk to the brokers of this run in one too: a broker costs a JVM."""
    for item in items:
        needs_kafka = any(name.startswith("kafka") for name in getattr(item, "fixturenames", ()))
        item.add_marker(pytest.mark.xdist_group("kafka" if needs_kafka else str(item.path)))
