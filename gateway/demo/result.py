"""What the demonstration found, as tables for people and as one document for programs."""

from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct
from rich.console import Console
from rich.table import Table

from gateway.client.fleet.reports import FleetReport
from gateway.demo.live import Moment
from gateway.demo.stored import Stored

_MOMENTS_SHOWN: Final = 8
_MIB: Final = 1024 * 1024


class Result(Struct, frozen=True, kw_only=True):
    """Everything that was found; no `faults` means that all is well."""

    faults: list[str]
    fleet: FleetReport
    requests_per_device_day: float
    usual_requests_per_device_day: float
    bytes_per_event: float
    stored: Stored
    history: list[Moment]
    memory_bytes: dict[str, int]
    data: str
    url: str


def print_result(result: Result, *, keeps_data: bool, keeps_serving: bool) -> None:
    """Print the tables, the verdict and where to look next."""
    console = Console(highlight=False, soft_wrap=True)
    for table in (_traffic(result), _refused(result), _releases(result), _conversion(result), _memory(result)):
        if table.row_count:
            console.print(table)
            console.print()
    for fault in result.faults:
        console.print(f"WRONG: {fault}", markup=False)
    if not result.faults:
        fleet, stored = result.fleet, result.stored
        console.print(
            f"All is well: {fleet.produced} events produced = {stored.events} stored + {stored.refused} refused"
            f" + {sum(fleet.dropped.values())} dropped; none twice; every device runs the right release."
        )
    for line in _next(result, keeps_data=keeps_data, keeps_serving=keeps_serving):
        console.print(line, markup=False)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _filled(table: Table, rows: Iterable[Sequence[object]]) -> Table:
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _traffic(result: Result) -> Table:
    fleet = result.fleet
    return _filled(
        _table("Traffic", "", "backhaul", "the usual way"),
        [
            ("requests", fleet.requests, fleet.usual_requests),
            (
                "requests per device-day",
                f"{result.requests_per_device_day:.2f}",
                f"{result.usual_requests_per_device_day:.2f}",
            ),
            ("of these, model downloads", fleet.downloads, fleet.downloads),
            ("device-days", f"{fleet.device_days:.0f}", ""),
            ("launches, decisions", f"{fleet.launches}, {fleet.decisions}", ""),
            ("events", fleet.produced, ""),
            ("bytes per event on the wire", f"{result.bytes_per_event:.0f}", ""),
            ("bytes per request", f"{fleet.bytes_sent / max(1, fleet.flushes):.0f}", ""),
            ("requests or answers lost on the way", fleet.lost_requests, ""),
        ],
    )


def _refused(result: Result) -> Table:
    return _filled(_table("Refused events", "reason", "events"), result.stored.reasons.items())


def _releases(result: Result) -> Table:
    names = sorted({name for moment in result.history for name in moment.releases}, key=int)
    step = max(1, len(result.history) // _MOMENTS_SHOWN)
    shown = [*result.history[:-1:step], *result.history[-1:]]
    shown_at = [f"{moment.seconds:.0f} s" for moment in shown[:-1]] + ["all is said"]
    rows = [(at, *(moment.releases.get(name, 0) for name in names)) for at, moment in zip(shown_at, shown, strict=True)]
    return _filled(_table("Devices per release", "after", *(f"release {name}" for name in names)), rows)


def _conversion(result: Result) -> Table:
    rows = [
        (each.release, each.arm or "-", each.source, each.predictions, each.shown, each.converted, f"{each.rate:.1%}")
        for each in result.stored.conversions
    ]
    columns = ("release", "arm", "source", "decisions", "asked", "bought", "bought of asked")
    return _filled(_table("Conversion", *columns), rows)


def _memory(result: Result) -> Table:
    rows = [(name, f"{size / _MIB:.0f} MiB") for name, size in result.memory_bytes.items()]
    return _filled(_table("Memory", "process", "resident"), rows)


def _next(result: Result, *, keeps_data: bool, keeps_serving: bool) -> list[str]:
    if not keeps_serving:
        return [
            f"What it wrote is kept in {result.data}." if keeps_data else "Nothing is kept.",
            "With --keep it goes on serving, to be asked by `backhaul sql`, `backhaul report` and curl.",
        ]
    sql = "SELECT release, outcome, count() FROM events WHERE type = 'prediction' GROUP BY ALL ORDER BY ALL"
    return [
        "",
        f"It goes on serving at {result.url} until Ctrl-C. Look around from another shell:",
        f'  backhaul sql --data {result.data} "{sql}"',
        f"  backhaul report summary --data {result.data}",
        f"  curl {result.url}/metrics",
        f"  curl {result.url}/openapi.json",
    ]
