"""`backhaul report`: how the apps are doing, from the warehouse."""

import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from gateway.cli.options import Nouns, add_clickhouse, add_command, add_noun, configuration, whole
from gateway.cli.printing import note, show, show_table

if TYPE_CHECKING:
    from consumers.loss import LossReport, Wrong
    from consumers.reports import Summary
    from gateway.config import Config


def register(nouns: Nouns) -> None:
    """Add the noun and its verbs."""
    verbs = add_noun(nouns, "report", "how the apps are doing")
    summary = add_command(verbs, "summary", _summary, "requests, events, refusals, releases, conversion and loss")
    about = (
        "what became of every event that devices produced, by app, SDK and day; and which devices do not add up (a "
        "report: the exit code is 0 all the same)"
    )
    loss = add_command(verbs, "loss", _loss, about)
    loss.add_argument("--days", metavar="N", type=whole(1), default=30, help="so many days (default: 30)")
    for command in (summary, loss):
        command.add_argument("--app", metavar="A", help="one app (default: all)")
        add_clickhouse(command)


def _summary(arguments: Namespace) -> int:
    from consumers.reports import summary
    from gateway.cli.warehouse import ask

    config = configuration(arguments)
    found = ask(config, lambda client: summary(client, arguments.app, config.retention_days))
    if not found.requests and not found.refused:
        _check_app(config, arguments.app)
    if arguments.json:
        show(arguments, found, "")
    else:
        _print(arguments, found)
    return 0


def _print(arguments: Namespace, found: "Summary") -> None:
    loss = found.loss
    dropped = [(f"dropped on the devices: {reason}", count) for reason, count in loss.dropped.items()]
    missing = [("missing, though later batches are here: see report loss", loss.missing)] if loss.missing else []
    without = [("devices that send no ledger", loss.without_ledger)] if loss.without_ledger else []
    traffic = [
        ("devices", loss.devices),
        ("requests", found.requests),
        *((f"{kind} events stored", count) for kind, count in found.events.items()),
        *((f"refused: {reason}", count) for reason, count in found.refused.items()),
        *dropped,
        ("produced, by the devices' ledgers", loss.produced),
        ("not here yet: still on the devices", loss.waiting),
        *missing,
        *without,
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


def _loss(arguments: Namespace) -> int:
    from consumers.loss import loss
    from gateway.cli.warehouse import ask

    config = configuration(arguments)
    options = {"days": arguments.days, "retention_days": config.retention_days}
    found = ask(config, lambda client: loss(client, arguments.app, **options))
    if not found.devices and not found.without_ledger:
        _check_app(config, arguments.app)
    if arguments.json:
        show(arguments, found, "")
    else:
        _print_loss(arguments, found)
    return 0


def _check_app(config: "Config", app: str | None) -> None:
    """Of an app that nothing came from, see that there is one. Raises `CommandError`."""
    from gateway.cli.storing import with_store
    from gateway.releases.apps import load_app

    # Where the store is elsewhere and its address is not given here, nobody here knows the apps.
    if app and (config.store_url or (config.directory / "store").exists()):
        with_store(config, lambda store: load_app(store, app))


def _print_loss(arguments: Namespace, found: "LossReport") -> None:
    columns = ("app", "SDK", "day", "devices", "produced", "stored", "refused", "dropped", "not here", "replayed")
    days = [
        (
            *(each.app, each.sdk, each.day, each.devices, each.produced, each.stored, each.refused),
            *(_reasons(each.dropped), f"{each.waiting:+d}", each.replayed),
        )
        for each in found.days
    ]
    title = "produced = stored + refused + dropped + not here: waiting on the devices, or missing"
    nothing = "no device that keeps a ledger sent anything in these days"
    show_table(arguments, columns, days, nothing, title)
    more = [(found.missing, "are missing"), (found.surplus, "are here that no ledger knows")]
    said = [f"{found.waiting} events wait", *(f"{count} {what}" for count, what in more if count)]
    sys.stdout.write(f"\nof {found.devices} devices {', '.join(said)}\n")
    if found.without_ledger:
        count, events = found.without_ledger, found.unaccounted
        sys.stdout.write(f"{count} devices send no ledger: nothing can be said of their {events} events\n")
    if found.wrong:
        wrong = ("app", "device", "SDK", "produced", "stored", "refused", "dropped", "what is wrong")
        rows = [
            (each.app, each.device, each.sdk, each.produced, each.stored, each.refused, each.dropped, _what(each))
            for each in found.wrong
        ]
        sys.stdout.write("\n")
        show_table(arguments, wrong, rows, title="Devices that do not add up")
    elif found.devices:
        note("every device that keeps a ledger adds up")


def _reasons(dropped: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items())) or "0"


def _what(each: "Wrong") -> str:
    gaps = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in each.gaps)
    said = [
        (each.missing, f"{each.missing} events are not here: lost, or yet to come with batch {gaps}"),
        (each.surplus, f"{each.surplus} events are here that it does not know of"),
        (each.steps_back, "its counters went back: a restored backup, or a cloned install"),
    ]
    return "; ".join(text for count, text in said if count)
