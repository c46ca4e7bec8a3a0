"""`backhaul report`: how the apps are doing, from the warehouse."""

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from gateway.cli.options import Nouns, add_command, add_noun, configuration
from gateway.cli.printing import show, show_table

if TYPE_CHECKING:
    from consumers.reports import Summary


def register(nouns: Nouns) -> None:
    """Add the noun and its verbs."""
    verbs = add_noun(nouns, "report", "how the apps are doing")
    summary = add_command(verbs, "summary", _summary, "requests, events, refusals, releases, conversion and loss")
    summary.add_argument("--app", metavar="A", help="one app (default: all)")


def _summary(arguments: Namespace) -> int:
    from consumers.reports import summary
    from gateway.cli.warehouse import ask

    found = ask(configuration(arguments), lambda client: summary(client, arguments.app))
    if arguments.json:
        show(arguments, found, "")
    else:
        _print(arguments, found)
    return 0


def _print(arguments: Namespace, found: "Summary") -> None:
    loss = found.loss
    dropped = [(f"dropped on the devices: {reason}", count) for reason, count in loss.dropped.items()]
    waiting = loss.produced - loss.stored - loss.refused - sum(loss.dropped.values())
    traffic = [
        ("devices", loss.devices),
        ("requests", found.requests),
        *((f"{kind} events stored", count) for kind, count in found.events.items()),
        *((f"refused: {reason}", count) for reason, count in found.refused.items()),
        *dropped,
        ("produced, by the devices' ledgers", loss.produced),
        ("not here yet: still on the devices", waiting),
    ]
    running = [(each.app, each.model, each.use, each.devices) for each in found.devices]
    conversions = [
        (each.app, each.model, each.release, each.source, each.arm, each.predictions, each.shown, each.converted, rate)
        for each in found.conversions
        for rate in [f"{each.rate:.1%}"]
    ]
    show_table(arguments, ("", "count"), traffic, title="Traffic")
    sys.stdout.write("\n")
    show_table(arguments, ("app", "model", "runs", "devices"), running, "no device runs a model yet", "Releases")
    sys.stdout.write("\n")
    columns = ("app", "model", "release", "source", "arm", "decisions", "shown", "converted", "rate")
    show_table(arguments, columns, conversions, "no predictions yet", "Conversion")
