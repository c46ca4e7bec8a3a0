"""`backhaul fleet simulate`: what a flush policy costs and brings, for fleets that no machine here could run."""

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.failures import DONE, CommandError, Misused
from gateway.cli.options import Nouns, add_command, whole
from gateway.cli.printing import note, show, show_table

if TYPE_CHECKING:
    from gateway.client.fleet.simulation.outage import OutageReport
    from gateway.client.fleet.simulation.policies import Policy
    from gateway.client.fleet.simulation.run import Simulated
    from gateway.client.fleet.simulation.workload import Workload

_HELP = "compare flush policies on simulated devices, without a gateway"


def register(verbs: Nouns) -> None:
    """Add the verb."""
    command = add_command(verbs, "simulate", _run, _HELP, configured=False)
    command.add_argument("--devices", type=whole(1), default=100_000, metavar="N", help="how many (100000)")
    command.add_argument("--days", type=_positive, default=8.0, metavar="D", help="how long (8)")
    command.add_argument("--launches", type=_positive, default=3.5, metavar="L", help="launches a device-day (3.5)")
    command.add_argument("--decisions", type=_positive, default=10.5, metavar="C", help="decisions a device-day (10.5)")
    command.add_argument("--seed", type=whole(0), default=1, metavar="N", help="the same seed is the same users (1)")
    command.add_argument("--policies", metavar="NAMES", help="which to compare, with commas between; `all` for all")
    command.add_argument("--flush-events", type=whole(1), metavar="N", help="flush at this many events")
    command.add_argument("--flush-seconds", type=_positive, metavar="S", help="flush at this age")
    command.add_argument("--lease-seconds", type=_positive, metavar="S", help="ask for news after this long")
    command.add_argument(
        "--outage-hours",
        type=_positive,
        metavar="H",
        help="also turn the gateway off for so long (100000 to 300000 devices)",
    )
    command.add_argument("--plots", type=Path, metavar="DIR", help="draw what was found, as SVG files")


def _run(arguments: Namespace) -> int:
    try:
        return _simulated(arguments)
    except ModuleNotFoundError as error:
        raise CommandError(f"{error.name} is missing: pip install 'backhaul[simulate]'") from error


def _simulated(arguments: Namespace) -> int:
    from gateway.client.fleet.simulation.run import simulate
    from gateway.client.fleet.simulation.workload import Workload

    workload = Workload(days=arguments.days, launches_per_day=arguments.launches, decisions_per_day=arguments.decisions)
    policies = _policies(arguments)
    simulated, tallies = simulate(workload, arguments.devices, policies, arguments.seed, _watcher(arguments.devices))
    outage = _outage(arguments, policies[0], workload)
    if arguments.plots is not None:
        from gateway.client.fleet.simulation.plots import draw

        for path in draw(arguments.plots, simulated, tallies, workload):
            note(f"drew {path}")
    _print(arguments, simulated, outage)
    return DONE


def _policies(arguments: Namespace) -> "list[Policy]":
    from gateway.client.fleet.simulation.policies import BACKHAUL, COMPARED, POLICIES

    names = list(POLICIES) if arguments.policies == "all" else (arguments.policies or "").split(",")
    unknown = [name for name in names if name and name not in POLICIES]
    if unknown:
        raise Misused(f"no policy is called {unknown[0]!r}: they are {', '.join(POLICIES)}")
    told = {
        "events": arguments.flush_events,
        "seconds": arguments.flush_seconds,
        "lease_seconds": arguments.lease_seconds,
    }
    changed = replace(BACKHAUL, **{name: value for name, value in told.items() if value is not None})
    chosen = [POLICIES[name] for name in names if name] or list(COMPARED)
    return [changed, *(policy for policy in chosen if policy.name != BACKHAUL.name)]


def _outage(arguments: Namespace, policy: "Policy", workload: "Workload") -> "dict[str, OutageReport] | None":
    if arguments.outage_hours is None:
        return None
    from gateway.client.fleet.simulation.outage import LEAST_DEVICES, MOST_DEVICES, simulate_outage

    devices = min(max(arguments.devices, LEAST_DEVICES), MOST_DEVICES)
    return simulate_outage(policy, workload, devices, arguments.outage_hours, arguments.seed)


def _print(arguments: Namespace, simulated: "Simulated", outage: "dict[str, OutageReport] | None") -> None:
    import msgspec

    if arguments.json:
        data = msgspec.to_builtins(simulated)
        return show(arguments, data if outage is None else data | {"outage": msgspec.to_builtins(outage)}, "")
    reports = {name: msgspec.structs.asdict(report) for name, report in simulated.policies.items()}
    _table(arguments, reports)
    if outage is not None:
        _table(arguments, {name: msgspec.structs.asdict(report) for name, report in outage.items()})
    return None


def _table(arguments: Namespace, reports: dict[str, dict[str, object]]) -> None:
    """Print one row a figure, one column a policy."""
    figures = next(iter(reports.values()))
    rows = [(figure.replace("_", " "), *(_short(each[figure]) for each in reports.values())) for figure in figures]
    show_table(arguments, ("", *reports), rows)


def _short(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _watcher(devices: int) -> Callable[[str, int], None] | None:
    if not sys.stderr.isatty():
        return None

    def watch(policy: str, done: int) -> None:
        sys.stderr.write(f"\r{done} of {devices} devices, {policy}     ")
        sys.stderr.flush()

    return watch


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e9:
        raise ArgumentTypeError(f"{text} is not a positive number")
    return number
