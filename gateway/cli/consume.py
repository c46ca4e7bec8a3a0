"""`backhaul consume`: one consumer alone, for a machine that runs nothing else."""

from argparse import Namespace

from gateway.cli.failures import Misused
from gateway.cli.options import Nouns, add_command, add_noun, configuration


def register(nouns: Nouns) -> None:
    """Add the noun and its verbs."""
    verbs = add_noun(nouns, "consume", "run a consumer alone")
    add_command(verbs, "warehouse", _warehouse, "fill the warehouse from the log", prints=False)


def _warehouse(arguments: Namespace) -> int:
    from gateway.supervisor.children import consume_warehouse

    config = configuration(arguments)
    if not config.clickhouse_url:
        raise Misused("a consumer alone needs clickhouse_url: without it, `backhaul serve` runs one beside ClickHouse")
    return consume_warehouse(config)
