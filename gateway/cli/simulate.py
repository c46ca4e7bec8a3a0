"""`backhaul fleet simulate`: what a flush policy costs and brings, for fleets that no machine here could run."""

import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli.failures import DONE, CommandError, Misused
from gateway.cli.options import Nouns, add_command, whole
from gateway.cli.printing import note, show, show_table

if TYPE_CHECKING:
    from msgspec import Struct

    from gateway.client.fleet.simulation.outage import OutageReport
    from gateway.client.fleet.simulation.policies import Policy
    from gateway.client.fleet.simulation.run import Simulated
    from gateway.client.fleet.simulation.surge import SurgeReport
    from gateway.client.fleet.simulation.workload import Workload

_HELP = "what flush policies cost and bring: simulated devices by the million, without a gateway"
_OUTAGE_HOURS: Final = 1.0
_POLICIES_HELP: Final = (
    "which to set beside backhaul, with commas between: naive (a request an event, a poll a launch), sdk_default (20 "
    "events or 30 s, a poll a launch), sdk_cached (polls every 12 hours), backhaul_in_rollout (a twentieth of the "
    "devices keep the shorter lease), and variants; `all` for all (these four)"
)


def register(verbs: Nouns) -> None:
    """Add the verb."""
    command = add_command(verbs, "simulate", _run, _HELP, configured=False)
    command.add_argument(
        "--devices",
        type=whole(1),
        default=100_000,
        metavar="N",
        help="how many (100000), in blocks of 20000: any number takes 160 MiB, and 140 MiB a core; the outage 1 GiB",
    )
    command.add_argument(
        "--days",
        type=_positive,
        default=8.0,
        metavar="D",
        help="how long (8); a million device-days take a core nine seconds for each policy: 25 million devices for a "
        "day 19 minutes of processor for all five",
    )
    command.add_argument("--launches", type=_positive, default=3.5, metavar="L", help="launches a device-day (3.5)")
    command.add_argument("--decisions", type=_positive, default=10.5, metavar="C", help="decisions a device-day (10.5)")
    command.add_argument("--seed", type=whole(0), default=1, metavar="N", help="the same seed is the same users (1)")
    command.add_argument("--policies", metavar="NAMES", help=_POLICIES_HELP)
    command.add_argument("--flush-events", type=whole(1), metavar="N", help="let backhaul flush at this many events")
    command.add_argument("--flush-seconds", type=_positive, metavar="S", help="let it flush at this age")
    command.add_argument("--lease-seconds", type=_positive, metavar="S", help="let it ask for news after this long")
    command.add_argument(
        "--outage-hours",
        type=_hours,
        metavar="H",
        help="turn the gateway off for so long, then let it come to a surge, with flush control and without, for "
        "100000 to 300000 devices; 0: do not (1, but 0 where --devices is below 100000)",
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

    def watch(done: int) -> None:
        _tell(f"{done} of {arguments.devices} devices")

    simulated, tallies = simulate(workload, arguments.devices, policies, arguments.seed, watch)
    outage, surge = _outage(arguments, policies[0], workload)
    _tell("")
    if arguments.plots is not None:
        from gateway.client.fleet.simulation.plots import draw

        for path in draw(arguments.plots, simulated, tallies, workload):
            note(f"drew {path}")
    _print(arguments, simulated, outage, surge)
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


def _outage(
    arguments: Namespace, policy: "Policy", workload: "Workload"
) -> "tuple[dict[str, OutageReport] | None, dict[str, SurgeReport] | None]":
    from gateway.client.fleet.simulation.outage import LEAST_DEVICES, MOST_DEVICES, simulate_outage
    from gateway.client.fleet.simulation.surge import simulate_surge

    hours = arguments.outage_hours
    if hours == 0 or (hours is None and arguments.devices < LEAST_DEVICES):
        return None, None
    _tell("an outage and a surge")
    devices = min(max(arguments.devices, LEAST_DEVICES), MOST_DEVICES)
    outage = simulate_outage(policy, workload, devices, hours or _OUTAGE_HOURS, arguments.seed)
    return outage, simulate_surge(policy, workload, devices, arguments.seed)


def _print(
    arguments: Namespace,
    simulated: "Simulated",
    outage: "dict[str, OutageReport] | None",
    surge: "dict[str, SurgeReport] | None",
) -> None:
    import msgspec

    from gateway.client.fleet.simulation.targets import JUDGED_FROM_DAYS, targets

    found = list(targets(simulated, (arguments.launches, arguments.decisions), outage))
    if arguments.json:
        data = msgspec.to_builtins(simulated)
        data["targets"] = [{**msgspec.structs.asdict(each), "reached": each.reached} for each in found]
        data |= {name: msgspec.to_builtins(report) for name, report in (("outage", outage), ("surge", surge)) if report}
        return show(arguments, data, "")
    _table(arguments, simulated.policies, "policies")
    if outage and surge:
        _table(arguments, outage, f"after an outage of {arguments.outage_hours or _OUTAGE_HOURS:g} hours")
        _table(arguments, surge, "half as much again as is budgeted, for a day")
    verdicts = {True: "yes", False: "NO", None: f"judged from {JUDGED_FROM_DAYS:g} days on"}
    rows = [(each.name, _short(each.most), _short(each.found), verdicts[each.reached]) for each in found]
    return show_table(arguments, ("of the policy backhaul", "at most", "found", "reached"), rows, title="targets")


def _table(arguments: Namespace, reports: "Mapping[str, Struct]", title: str) -> None:
    """Print one row a figure, one column a policy; what is no single figure is for programs."""
    names = [name for name in next(iter(reports.values())).__struct_fields__ if not name.endswith("_by_hour")]
    rows = [(name.replace("_", " "), *(_short(getattr(each, name)) for each in reports.values())) for name in names]
    show_table(arguments, ("", *reports), rows, title=title)


def _short(value: object) -> object:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _tell(text: str) -> None:
    """Show where it stands, on a line that changes in place; nothing where nobody watches."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()


def _hours(text: str) -> float:
    return 0.0 if text == "0" else _positive(text)


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < 1e9:
        raise ArgumentTypeError(f"{text} is not a positive number")
    return number
