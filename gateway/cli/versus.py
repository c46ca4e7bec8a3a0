"""`backhaul fleet versus`: our client beside the sample that the field copies, through a week of incidents."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.cost import read_prices
from gateway.cli.failures import DONE, CommandError
from gateway.cli.options import Nouns, add_command, whole
from gateway.cli.printing import note, show, show_table
from gateway.cli.real_devices import add_devices, ended_alike

if TYPE_CHECKING:
    from gateway.rehearsal.versus import Versus

_HELP = (
    "this client beside the sample code that the field copies: the same week on the same phones, with an update, a CDN "
    "that answers 404 and later damaged bytes, a release that kills the app, and apps that are killed (a minute or two)"
)


def register(verbs: Nouns) -> None:
    """Add the verb."""
    command = add_command(verbs, "versus", _run, _HELP, configured=False)
    add_devices(command, 50)
    command.add_argument("--seed", type=whole(0), default=1, metavar="N", help="the same seed is the same users (1)")
    command.add_argument("--prices", type=Path, metavar="FILE", help="another table of prices")


def _run(arguments: Namespace) -> int:
    import asyncio
    import tempfile

    try:
        from gateway.demo.served import DemoError
        from gateway.rehearsal.versus import compare
    except ModuleNotFoundError as error:
        raise CommandError(f"{error.name} is missing: pip install 'backhaul[simulate]'") from error
    prices = read_prices(arguments.prices)
    try:
        with ended_alike(), tempfile.TemporaryDirectory(prefix="backhaul-versus-") as directory:
            found = asyncio.run(compare(arguments.devices, arguments.seed, Path(directory), prices, _watch))
    except (DemoError, OSError) as error:
        raise CommandError(f"cannot compare: {error}") from error
    print_found(arguments, found, prices.as_of)
    return DONE


def print_found(arguments: Namespace, found: "Versus", as_of: str) -> None:
    """Print both, beside each other."""
    import msgspec

    if arguments.json:
        return show(arguments, msgspec.to_builtins(found) | {"prices_as_of": as_of}, "")
    ours, sample = found.client, found.sample
    names = [name for name in ours.__struct_fields__ if name != "dollars"]
    rows: list[tuple[object, ...]] = [
        (name.replace("_", " "), getattr(ours, name), getattr(sample, name)) for name in names
    ]
    rows += [
        (f"$ at {provider}, 5 million devices, 1 MB", f"{usd:,.2f}", f"{sample.dollars[provider]:,.2f}")
        for provider, usd in ours.dollars.items()
    ]
    show_table(arguments, ("", "this client", "the sample"), rows)
    note(
        f"{found.devices} phones for {found.days:g} days, {found.launches} launches, {found.killed} of them killed; "
        f"prices as of {as_of}"
    )
    note("wrong models, fallbacks and unanswered are decisions; who dies decides no more in that session")
    return None


def _short(value: float) -> float:
    return round(value, 1)


def _watch(done: int, sessions: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done} of {sessions} sessions\x1b[K" + "\n" * (done == sessions))
        sys.stderr.flush()
