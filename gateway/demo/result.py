"""What the demonstration found, as tables for people and as one document for programs."""

import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import UNSET, Struct, UnsetType
from rich.console import Console
from rich.table import Table

from gateway.client.fleet.phones import BUGGY_APP
from gateway.client.fleet.reports import FleetReport
from gateway.demo.live import Moment
from gateway.demo.stage import SDKS
from gateway.demo.stored import Stored
from gateway.demo.verdict import right_release

_MOMENTS_SHOWN: Final = 8
_MIB: Final = 1024 * 1024


class Result(Struct, frozen=True, kw_only=True):
    """Everything that was found; no `faults` means that all is well.

    `data` is there where the directory is kept, `url` where the gateway goes on serving.
    """

    faults: list[str]
    fleet: FleetReport
    requests_per_device_day: float
    usual_requests_per_device_day: float
    bytes_per_event: float
    stored: Stored
    history: list[Moment]
    memory_bytes: dict[str, int]
    data: str | UnsetType = UNSET
    url: str | UnsetType = UNSET


def print_result(result: Result, command: str) -> None:
    """Print the tables, the verdict and where to look next; `command` starts backhaul from any shell."""
    console = Console(highlight=False, soft_wrap=True)
    parts = (
        (_requests(result), ""),
        (_events(result), ""),
        (_refused(result), _why_refused(result)),
        (_releases(result), _why_behind(result)),
        (_conversion(result), ""),
        (_memory(result), ""),
    )
    for table, why in parts:
        if table.row_count:
            console.print(table)
            if why:
                console.print(why, markup=False)
            console.print()
    for fault in result.faults:
        console.print(f"WRONG: {fault}", markup=False)
    if not result.faults:
        fleet, stored = result.fleet, result.stored
        console.print(
            f"All is well: {fleet.produced} events produced = {stored.events} stored + {stored.refused} refused"
            f" + {sum(fleet.dropped.values())} dropped; none twice; every device runs the right release."
        )
    for line in _next(result, command):
        console.print(line, markup=False)


def stopped(data: str, command: str) -> str:
    """Say what is left of a demonstration that was kept, how to serve it again and how to forget it."""
    place = shlex.quote(data)
    return (
        f"Stopped. What it wrote is kept in {data}\n"
        f"  {command} serve --data {place}    serves it again\n"
        f"  rm -r {place}    forgets it"
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def _filled(table: Table, rows: Iterable[Sequence[object]]) -> Table:
    for row in rows:
        table.add_row(*map(str, row))
    return table


def _requests(result: Result) -> Table:
    fleet = result.fleet
    flushes = fleet.lived_requests - fleet.lived_downloads
    return _filled(
        _table(f"Requests in {fleet.device_days:.0f} device-days", "", "backhaul", "the usual way"),
        [
            ("batches out, model news back", flushes, ""),
            ("one for each decision, its outcome in it", "", fleet.decisions),
            ("polls for news, at a launch and every hour", "", fleet.polls),
            ("model downloads", fleet.lived_downloads, fleet.lived_downloads),
            ("together", fleet.lived_requests, fleet.usual_requests),
            (
                "per device-day",
                f"{result.requests_per_device_day:.2f}",
                f"{result.usual_requests_per_device_day:.2f}",
            ),
            ("besides, to close: what was left to say at the end", fleet.settling_requests, ""),
            ("of all of these, lost on the way on purpose", fleet.lost_requests, ""),
        ],
    )


def _events(result: Result) -> Table:
    fleet, stored = result.fleet, result.stored
    return _filled(
        _table("Events", "", "count"),
        [
            ("launches", fleet.launches),
            ("decisions", fleet.decisions),
            ("events produced", fleet.produced),
            ("  stored", stored.events),
            ("  refused", stored.refused),
            ("  dropped on the devices", sum(fleet.dropped.values())),
            ("bytes sent in all batches", fleet.bytes_sent),
            (f"  per batch, of {fleet.flushes}", f"{fleet.bytes_sent / max(1, fleet.flushes):.0f}"),
            (f"  per event, of {stored.events + stored.refused}", f"{result.bytes_per_event:.0f}"),
        ],
    )


def _refused(result: Result) -> Table:
    return _filled(_table("Refused events", "reason", "events"), result.stored.reasons.items())


def _why_refused(result: Result) -> str:
    buggy = sum(each.app_version == BUGGY_APP for each in result.fleet.each)
    if not buggy or set(result.stored.reasons) != {"score_out_of_range"}:
        return ""
    return (
        f"Rightly so: {_devices(buggy)} with the old app version {BUGGY_APP} send some scores in percent. "
        "Each stands in dead_letters; the rest of its batch is stored."
    )


def _releases(result: Result) -> Table:
    names = sorted({name for moment in result.history for name in moment.releases}, key=int)
    step = max(1, len(result.history) // _MOMENTS_SHOWN)
    shown = [*result.history[:-1:step], *result.history[-1:]]
    shown_at = [f"{moment.seconds:.0f} s" for moment in shown[:-1]] + ["all is said"]
    rows = [(at, *(moment.releases.get(name, 0) for name in names)) for at, moment in zip(shown_at, shown, strict=True)]
    return _filled(_table("Devices per release", "after", *(f"release {name}" for name in names)), rows)


def _why_behind(result: Result) -> str:
    newest = max(SDKS)
    behind = Counter(each.sdk for each in result.fleet.each if each.release == right_release(each.sdk) != newest)
    if not behind:
        return ""
    old = " and ".join(f"{_devices(count)} with SDK {sdk}" for sdk, count in sorted(behind.items()))
    return f"Rightly so: {old} cannot run release {newest}, which needs SDK {SDKS[newest]}."


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


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


def _next(result: Result, command: str) -> list[str]:
    if isinstance(result.data, UnsetType):
        return ["Nothing is kept. With --keep it goes on serving, to be asked by `backhaul sql` and curl."]
    if isinstance(result.url, UnsetType):
        return [f"What it wrote is kept in {result.data}"]
    data = shlex.quote(result.data)
    sql = "SELECT release, outcome, count() FROM events WHERE type = 'prediction' GROUP BY ALL ORDER BY ALL"
    return [
        "",
        f"It goes on serving at {result.url} until Ctrl-C. Look around from another shell:",
        f'  {command} sql --data {data} "{sql}"',
        f"  {command} report summary --data {data}",
        f"  curl {result.url}/metrics",
        f"  curl {result.url}/openapi.json",
    ]
