"""`backhaul consume`: one consumer alone; as many as are wanted share the work."""

from argparse import Namespace

from gateway.cli.failures import Misused
from gateway.cli.options import Nouns, add_clickhouse, add_command, add_kafka, add_noun, check_files, configuration


def register(nouns: Nouns) -> None:
    """Add the noun and its verbs."""
    verbs = add_noun(nouns, "consume", "run a consumer alone, as many of them as are wanted")
    warehouse = add_command(verbs, "warehouse", _warehouse, "fill the warehouse from the log", prints=False)
    add_kafka(warehouse)
    add_clickhouse(warehouse)
    about = "fill the topic of plain events, one JSON object a record, for every other consumer of Kafka"
    unpack = add_command(verbs, "unpack", _unpack, about, prints=False)
    add_kafka(unpack)


def _warehouse(arguments: Namespace) -> int:
    from gateway.supervisor.children import consume_warehouse

    config = configuration(arguments)
    if not config.clickhouse_url:
        raise Misused("a consumer alone needs clickhouse_url: without it, `backhaul serve` runs one beside ClickHouse")
    check_files(config)
    return consume_warehouse(config)


def _unpack(arguments: Namespace) -> int:
    from gateway.supervisor.children import consume_unpack

    config = configuration(arguments)
    if not config.kafka_bootstrap:
        raise Misused("plain events are for other consumers of Kafka: say --kafka HOST:PORT")
    check_files(config)
    return consume_unpack(config)
