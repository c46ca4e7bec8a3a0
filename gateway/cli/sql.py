"""`backhaul sql`: ask the warehouse anything, change nothing."""

from argparse import Namespace

from gateway.cli.options import Nouns, add_command, configuration
from gateway.cli.printing import show_table


def register(nouns: Nouns) -> None:
    """Add the command."""
    command = add_command(nouns, "sql", _sql, "run a read-only query against the warehouse")
    command.add_argument("query", metavar="SELECT")


def _sql(arguments: Namespace) -> int:
    from gateway.cli.warehouse import ask

    answer = ask(configuration(arguments), lambda client: client.query(arguments.query.strip().rstrip(";")))
    show_table(arguments, answer.column_names, answer.result_rows, "no rows")
    return 0
