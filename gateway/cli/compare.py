"""`backhaul fleet compare`: real clients against a real gateway, and beside it what the simulation said of them."""

import sys
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli.failures import DONE, FAILED, CommandError
from gateway.cli.options import Nouns, add_command, seconds, whole
from gateway.cli.printing import note, show, show_table
from gateway.cli.real_devices import add_devices, ended_alike

if TYPE_CHECKING:
    from gateway.rehearsal.plan import Plan
    from gateway.rehearsal.run import Rehearsed
    from gateway.rehearsal.sides import Side

# Longer than half of the sessions: news comes too late for the session that asked.
_SLOW_SECONDS = 60.0
_HELP = (
    "real clients by the thousand on a fast clock, against a gateway of their own, through a rollout, its stop and an "
    "outage: what was measured beside what the simulation predicts for the same lives (about six minutes)"
)


def register(verbs: Nouns) -> None:
    """Add the verb."""
    command = add_command(verbs, "compare", _run, _HELP, configured=False)
    add_devices(command, 2000)
    command.add_argument("--days", type=seconds, default=3.0, metavar="D", help="how many of their days (3)")
    command.add_argument(
        "--day-seconds",
        type=seconds,
        default=80.0,
        metavar="S",
        help="how long such a day takes (80); the shorter, the longer a request takes by the devices' clocks",
    )
    command.add_argument("--outage-hours", type=seconds, default=1.0, metavar="H", help="how long it is away (1)")
    command.add_argument(
        "--budget",
        type=_share,
        default=1.02,
        metavar="SHARE",
        help="the gateway's request budget, over what the fleet asks for in its busiest hour (1.02); 0.67 makes that a "
        "surge of half as much again, 0 is no budget",
    )
    command.add_argument("--seed", type=whole(0), default=1, metavar="N", help="the same seed is the same users (1)")
    command.add_argument("--keep", type=Path, metavar="DIR", help="keep devices, log and store in this empty directory")


def _run(arguments: Namespace) -> int:
    try:
        from gateway.rehearsal.plan import Plan
    except ModuleNotFoundError as error:
        raise CommandError(f"{error.name} is missing: pip install 'backhaul[simulate]'") from error
    plan = Plan(
        devices=arguments.devices,
        days=arguments.days,
        day_seconds=arguments.day_seconds,
        outage_hours=arguments.outage_hours,
        budget_share=arguments.budget,
        seed=arguments.seed,
    )
    with ended_alike():
        found = _rehearsed(plan, arguments.keep)
    return print_found(arguments, found)


def _rehearsed(plan: "Plan", keep: Path | None) -> "Rehearsed":
    import asyncio
    from tempfile import TemporaryDirectory

    from gateway.client.fleet.files import place_in_memory
    from gateway.demo.served import DemoError
    from gateway.rehearsal.run import rehearse
    from gateway.rehearsal.served import RehearsalFailed

    prefix, memory = "backhaul-compare-", None if keep else place_in_memory(plan.devices)
    try:
        with TemporaryDirectory(prefix=prefix) as temporary, TemporaryDirectory(prefix=prefix, dir=memory) as devices:
            directory = keep or Path(temporary)
            directory.mkdir(parents=True, exist_ok=True)
            if any(directory.iterdir()):
                raise CommandError(f"{directory} is not empty")
            return asyncio.run(rehearse(plan, directory, keep / "devices" if keep else Path(devices), note))
    except (RehearsalFailed, DemoError, OSError) as error:
        raise CommandError(f"cannot compare: {error}") from error


def print_found(arguments: Namespace, found: "Rehearsed") -> int:
    """Print the two sides and where they differ; say whether nothing was lost or doubled."""
    import msgspec

    from gateway.rehearsal.sides import sides

    rows = list(sides(found.measured, found.predicted))
    if arguments.json:
        show(arguments, msgspec.to_builtins(found) | {"sides": msgspec.to_builtins(rows)}, "")
    else:
        columns = ("", "measured", "predicted", "lowest", "highest", "measured / predicted", "")
        show_table(arguments, columns, [_row(side) for side in rows])
        sys.stdout.flush()
        _tell(found, [side.name for side in rows if side.differs])
    return FAILED if found.measured.events_lost or found.measured.events_doubled else DONE


def _row(side: "Side") -> tuple[object, ...]:
    figures = (side.measured, side.predicted, side.lowest, side.highest, side.ratio)
    return (side.name, *(None if each is None else float(f"{each:.4g}") for each in figures), "differs" * side.differs)


def _tell(found: "Rehearsed", differing: list[str]) -> None:
    counted = found.counted
    note(
        f"{found.devices} devices for {found.days:g} days of {found.day_seconds:g} s in {found.processes} processes: "
        f"{found.processor_seconds:.0f} s of processor, {found.resident_mib:.0f} MiB"
    )
    note(
        f"{found.produced} events produced, {counted.events} stored, {counted.refused} refused as they should be, "
        f"{found.queued} still queued; {counted.resent} batches came twice and count once"
    )
    note(
        f"by the devices' clocks the answer to a launch took {found.answer_p50_seconds:.0f} s (95 %: "
        f"{found.answer_p95_seconds:.0f} s) and decisions were up to {found.late_p95_seconds:.0f} s late (95 %)"
    )
    if found.answer_p95_seconds > _SLOW_SECONDS:
        note(
            "that is slow, and what a machine that stands still sends at once a budget refuses: on an idle machine, or "
            "with a longer --day-seconds, the two come closer"
        )
    if differing:
        note(f"measured and predicted differ in: {'; '.join(differing)}")


def _share(text: str) -> float:
    number = float(text)
    if not 0 <= number < float("inf"):
        raise ArgumentTypeError(f"{text} is no share")
    return number
