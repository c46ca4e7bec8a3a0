"""What all tests share: the Kafka broker of this run."""

pytest_plugins = ["tests.kafka_fixtures"]
