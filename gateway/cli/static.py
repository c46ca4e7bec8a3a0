"""`backhaul static`: catalogues and artifacts as plain files, for devices that have no gateway."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.failures import CommandError
from gateway.cli.options import Nouns, add_command, configuration
from gateway.cli.printing import note, show_table
from gateway.cli.storing import with_store

if TYPE_CHECKING:
    from gateway.releases.store import Store
    from schemas.releases import Catalogue


def register(nouns: Nouns) -> None:
    """Add the command."""
    command = add_command(
        nouns, "static", _static, "write catalogues and artifacts as plain files for S3, R2 or a page host"
    )
    command.add_argument("directory", metavar="DIR", type=Path)
    command.add_argument("--app", metavar="A", help="one app (default: all)")


def _static(arguments: Namespace) -> int:
    from gateway.releases.static import write_static

    async def write(store: "Store") -> "list[Catalogue]":
        return await write_static(store, arguments.directory, arguments.app)

    try:
        written = with_store(configuration(arguments), write, app=arguments.app)
    except OSError as error:
        raise CommandError(f"cannot write {error.filename or arguments.directory}: {error.strerror}") from error
    rows = [(c.app, c.model, c.number, len(c.releases), f"catalogues/{c.app}/{c.model}.json") for c in written]
    show_table(arguments, ("app", "model", "catalogue", "releases", "file"), rows, "nothing is published")
    if written and not arguments.json:
        note("upload artifacts/ before catalogues/, and serve both with the same base URL")
    return 0
