"""`backhaul sql`: ask the warehouse anything, change nothing."""

import re
from argparse import Namespace
from typing import Final

from gateway.cli.failures import CommandError, Misused
from gateway.cli.options import Nouns, add_clickhouse, add_command, configuration
from gateway.cli.printing import note, show_table
from gateway.cli.reading import why_not

# The client chooses the format in which the answer travels; a second one in the statement breaks it.
_FORMAT: Final = re.compile(r"\sFORMAT\s+\w+\Z", re.IGNORECASE)


def register(nouns: Nouns) -> None:
    """Add the command."""
    command = add_command(nouns, "sql", _sql, "run a read-only query against the warehouse")
    command.add_argument("query", metavar="SELECT")
    add_clickhouse(command)


def _sql(arguments: Namespace) -> int:
    from gateway.cli.warehouse import ask

    query = statement(arguments.query)
    answer = ask(configuration(arguments), lambda client: client.query(query))
    show_table(arguments, answer.column_names, answer.result_rows, "no rows")
    return 0


def statement(text: str) -> str:
    """Return the statement without what the client adds itself.

    Raises `Misused` where there is none, and `CommandError` where it is more than a question.
    """
    bare = text.strip().rstrip(";").rstrip()
    if not bare:
        raise Misused("the query is empty: say what to SELECT")
    query = _FORMAT.sub("", bare)
    if reason := why_not(query):
        raise CommandError(f"not asked: {reason}")
    if query != bare:
        note("FORMAT is left out: the answer is a table here, and JSON with --json")
    return query
