"""Print what a command found: a table or a line for people, one JSON document for programs.

* A table that is wider than the terminal is printed row by row, each as lines of name and value: no column is lost.
* Results go to stdout, everything else to stderr, so that `$(backhaul app create shop)` is the key and nothing else.
"""

import sys
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from rich.console import Console

# Where stdout is a file or a pipe there is no edge to wrap at; a table must not lose its cells there.
_PIPE_WIDTH: Final = 1000
_UNBOUNDED: Final = 1_000_000
_FOLDED_COLUMNS: Final = 2

Row = Sequence[object]


def show(arguments: Namespace, data: object, text: str) -> None:
    """Print the data as one line of JSON with `--json`, else the text."""
    sys.stdout.write((as_json(data) if arguments.json else text) + "\n")
    sys.stdout.flush()


def show_table(
    arguments: Namespace, columns: Sequence[str], rows: Sequence[Row], nothing: str = "nothing", title: str = ""
) -> None:
    """Print rows as a table, with `--json` as a list of objects; `nothing` is what people read when there are none."""
    if arguments.json:
        show(arguments, [dict(zip(columns, row, strict=True)) for row in rows], "")
    elif not rows:
        note(nothing)
    else:
        _print_table(columns, rows, title)


def note(text: str) -> None:
    """Tell the user something that is not the result."""
    sys.stderr.write(text + "\n")


def as_json(data: object) -> str:
    """Render as JSON; what JSON has no form for becomes text."""
    return msgspec.json.encode(data, enc_hook=str).decode()


def moment(milliseconds: int | None) -> str:
    """Render epoch milliseconds as UTC, to the second; nothing as nothing."""
    if milliseconds is None:
        return ""
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _print_table(columns: Sequence[str], rows: Sequence[Row], title: str) -> None:
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold", title=title or None, title_justify="left")
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
    unbounded = console.options.update_width(_UNBOUNDED)
    # Two columns that are folded still read as name and value.
    if len(columns) > _FOLDED_COLUMNS and Measurement.get(console, unbounded, table).maximum > console.width:
        _print_rows(console, columns, rows, title)
    else:
        console.print(table)


def _print_rows(console: "Console", columns: Sequence[str], rows: Sequence[Row], title: str) -> None:
    """Print every row as lines of name and value, because a table that does not fit cuts its columns."""
    from rich.text import Text

    if title:
        console.print(title, style="italic")
    indent = max(map(len, columns)) + 2
    for number, row in enumerate(rows):
        if number:
            console.print()
        for name, value in zip(columns, row, strict=True):
            text = _cell(value).replace("\n", "\n" + " " * indent)
            console.print(Text.assemble((name.ljust(indent), "bold"), text), soft_wrap=True)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value)
