"""`backhaul fleet`: reference devices by the hundred against any gateway, for load and for tests."""

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli import compare, fleet_defaults, simulate, versus
from gateway.cli.failures import DONE, FAILED, CommandError, Misused, Unreachable
from gateway.cli.options import Nouns, add_command, add_noun, seconds
from gateway.cli.printing import note, show, show_table
from gateway.cli.real_devices import add_devices, ended_alike

if TYPE_CHECKING:
    from gateway.client.fleet.reports import FleetReport

_TO_LINE_END: Final = "\x1b[K"


def register(nouns: Nouns) -> None:
    """Add the noun and its verbs."""
    verbs = add_noun(nouns, "fleet", "devices without phones: real clients, or simulated ones")
    simulate.register(verbs)
    compare.register(verbs)
    versus.register(verbs)
    run = add_command(
        verbs,
        "run",
        _run,
        "let real clients live for a while against a gateway that serves; on some, a buggy app sends scores that are "
        "refused",
        configured=False,
    )
    run.add_argument("--url", required=True, metavar="U", help="the gateway")
    run.add_argument(
        "--app-key", metavar="K", help="the app's key (default: one of the app fleet, made in the store here)"
    )
    run.add_argument(
        "--public-key", metavar="FILE", type=Path, help="the key that signs the releases (default: none is believed)"
    )
    run.add_argument(
        "--bundled", metavar="FILE", type=Path, help="the model in the app's bundle (default: the example)"
    )
    add_devices(run, 20)
    run.add_argument("--seconds", type=seconds, default=20.0, metavar="S", help="how long (20)")
    run.add_argument(
        "--day-seconds", type=seconds, default=20.0, metavar="S", help="how long a device's day takes (20)"
    )
    run.add_argument("--seed", type=int, default=1, metavar="N", help="the same seed is the same users (1)")
    run.add_argument(
        "--data", type=Path, metavar="DIR", help="where the devices keep their state (default: a temporary directory)"
    )


def _run(arguments: Namespace) -> int:
    import tempfile

    with ended_alike():
        if arguments.data is not None:
            report = _lived(arguments, arguments.data)
        else:
            with tempfile.TemporaryDirectory(prefix="backhaul-fleet-") as directory:
                report = _lived(arguments, Path(directory))
    _print(arguments, report)
    if report.unsettled:
        note(f"{report.unsettled} devices still have something to say: is the gateway taking batches?")
        return FAILED
    return _judged(arguments, report)


def _judged(arguments: Namespace, report: "FleetReport") -> int:
    """Say whether devices refuse what they are sent, which they must where nobody is to be believed."""
    from gateway.releases.keys import key_name, load_public

    for why, count in report.refused.items():
        believed = f"is {key_name(load_public(arguments.public_key))}" if arguments.public_key else "is not given"
        note(f"{count} devices refuse the releases they are sent ({why}); --public-key {believed}")
    return FAILED if report.refused and arguments.public_key else DONE


def _lived(arguments: Namespace, directory: Path) -> "FleetReport":
    import asyncio

    from gateway.client.fleet.run import FleetOptions, KeyRefused, bundled_upsell, run_fleet
    from gateway.client.runtimes import BadModel
    from gateway.releases.errors import ReleaseError
    from gateway.releases.keys import load_public

    try:
        options = FleetOptions(
            url=arguments.url,
            app_key=arguments.app_key or fleet_defaults.app_key(),
            root_keys=(load_public(arguments.public_key) if arguments.public_key else fleet_defaults.nobodys_key(),),
            bundled=bundled_upsell(arguments.bundled or fleet_defaults.bundled()),
            directory=directory,
            devices=arguments.devices,
            seconds=arguments.seconds,
            seed=arguments.seed,
            day_seconds=arguments.day_seconds,
        )
        _check_reachable(arguments.url)
        with _progress() as watch:
            return asyncio.run(run_fleet(options, watch))
    except (ReleaseError, BadModel, KeyRefused) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        where = f" with {error.filename}" if error.filename else ""
        raise CommandError(f"cannot run the fleet{where}: {error.strerror or error}") from error


def _check_reachable(url: str) -> None:
    from urllib.request import urlopen

    if not url.startswith(("http://", "https://")):
        raise Misused(f"--url {url} is no address of a gateway, such as http://127.0.0.1:8080")
    try:
        with urlopen(f"{url.rstrip('/')}/healthz", timeout=10):  # noqa: S310 - the user names the gateway
            pass
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)  # urllib wraps the cause
        said = getattr(why, "strerror", None) or why
        raise Unreachable(f"cannot reach the gateway at {url}: {said}: is it serving?") from error


@contextmanager
def _progress() -> "Iterator[Callable[[FleetReport], None] | None]":
    """Show one line that changes in place, and end it; nothing where nobody watches."""
    if not sys.stderr.isatty():
        yield None
        return
    shown = False

    def watch(report: "FleetReport") -> None:
        nonlocal shown
        shown = True
        line = f"{report.decisions} decisions, {report.requests} requests, {report.queued} events queued"
        sys.stderr.write(f"\r{line}{_TO_LINE_END}")
        sys.stderr.flush()

    try:
        yield watch
    finally:
        if shown:
            sys.stderr.write("\n")


def _print(arguments: Namespace, report: "FleetReport") -> None:
    import msgspec

    if arguments.json:
        data = msgspec.to_builtins(report)
        rates = {
            "requests_per_device_day": report.requests_per_device_day,
            "usual_requests_per_device_day": report.usual_requests_per_device_day,
        }
        return show(arguments, data | rates, "")
    dropped = sum(report.dropped.values())
    lived, usual = report.lived_requests, report.usual_requests
    rows = [
        ("devices", report.devices),
        ("device-days", round(report.device_days, 1)),
        ("launches", report.launches),
        ("  that ended in a crash of the app", report.crashes),
        ("app updates", report.updates),
        ("clocks set", report.clock_changes),
        ("decisions", report.decisions),
        ("events produced", report.produced),
        ("  taken by the gateway", report.produced - dropped - report.queued),
        ("  dropped", dropped),
        ("  queued", report.queued),
        ("requests while the devices lived", lived),
        ("  per device-day", round(report.requests_per_device_day, 2)),
        ("requests the usual way: one per decision, and polls for news", usual),
        ("  per device-day", round(report.usual_requests_per_device_day, 2)),
        ("closing requests, for what was left at the end", report.settling_requests),
        ("kilobytes sent, closing requests included", round(report.bytes_sent / 1000, 1)),
        *((f"devices on release {release}", count) for release, count in sorted(report.releases.items())),
    ]
    return show_table(arguments, ("what", "value"), rows)
