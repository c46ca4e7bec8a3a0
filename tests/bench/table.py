"""Render a result: a table for the terminal, and in Markdown the README's table and the page beside the results.

`python -m tests.bench.documents` puts both where they belong.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tests.bench.aims import OURS, Aim, aims

RESULTS: Final = Path(__file__).resolve().parent / "results"
_HEADERS: Final = (
    "program",
    "CPU µs a batch",
    "user + system",
    "x floor",
    "least-most",
    "events/s a core",
    "p99 ms",
    "MiB",
)


def text_table(result: Mapping[str, Any]) -> str:
    """Return the result as a person reads it in a terminal."""
    lines = [_HEADERS, *(_cells(name, row) for name, row in result["programs"].items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADERS))]
    text = [
        "  ".join(_aligned(cell, width, at) for at, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in lines
    ]
    missed = [f"{aim.verdict.capitalize()}: {_short(aim)}." for aim in aims(result) if not aim.met]
    return "\n".join([*text, *_setting(result), *_notes(result), *missed])


def markdown(result: Mapping[str, Any]) -> str:
    """Return the README's table, and in a sentence how much of what is aimed at is met."""
    head = "| what does the job | CPU µs a batch | times the floor (least-most) | events a second and core | peak MiB |"
    lines = [head, "| --- | --- | --- | --- | --- |"]
    for name, row in result["programs"].items():
        shown = f"**{name}**" if name == OURS else name
        cells = [
            f"{row['cpu_us']:.0f}",
            f"{_times(row['quotient_to_floor'])} ({_times(row['quotient_least'])}-{_times(row['quotient_most'])})",
            f"{row['events_per_second']:,.0f}",
            f"{row['peak_mib']:.0f}",
        ]
        lines.append(f"| {shown}: {row['about']} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_setting(result), "", _verdict(list(aims(result)))])


def page(result: Mapping[str, Any]) -> str:
    """Return the page beside the results: what is required and tried for, and all that the README leaves out."""
    found = list(aims(result))
    lines = [
        "# What the bench found",
        "",
        "Made by `python -m tests.bench.documents` from the newest file here; the table of programs is in the README.",
        "What is a number of times (x) is so of processor time.",
        "",
        *_setting(result),
        "",
        "## Required",
        "",
        *_aims_table(aim for aim in found if not aim.tried_for),
        "",
        "## Tried for, beyond what is required",
        "",
        *_aims_table(aim for aim in found if aim.tried_for),
        "",
        "## What else was measured",
        "",
        *(f"* {note}" for note in _notes(result)),
        "* Made with: " + ", ".join(f"{name} {version}" for name, version in result["versions"].items()) + ".",
        "",
        "Not beside it: Karapace, Redpanda Connect and Bento, which the package registries at hand did not give.",
    ]
    return "\n".join(lines) + "\n"


def newest() -> dict[str, Any]:
    """Return the newest result. Raises FileNotFoundError where there is none."""
    files = sorted(RESULTS.glob("*.json"))
    if not files:
        raise FileNotFoundError("no result has been written: run `make bench`")
    found: dict[str, Any] = json.loads(files[-1].read_text())
    return found


def _aims_table(found: Iterable[Aim]) -> Iterator[str]:
    yield "| what is aimed at | | measured | |"
    yield "| --- | --- | --- | --- |"
    for aim in found:
        yield f"| {aim.name} | {aim.aimed} | {aim.measured} | {aim.verdict} |"


def _verdict(found: list[Aim]) -> str:
    required = [aim for aim in found if not aim.tried_for]
    missed = [_short(aim) for aim in required if not aim.met]
    beyond = [_short(aim) for aim in found if aim.tried_for and not aim.met]
    sentences = [f"Of {len(required)} figures that are required {len(required) - len(missed)} are met."]
    sentences += [f"Missed: {'; '.join(missed)}."] if missed else []
    sentences += [f"Tried for and not reached: {'; '.join(beyond)}."] if beyond else []
    all_of_them = "[All of them, with latency, memory and the way to the warehouse](tests/bench/results/README.md)."
    return " ".join([*sentences, all_of_them])


def _short(aim: Aim) -> str:
    return f"{aim.name}: {aim.measured} ({aim.aimed})"


def _cells(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        name,
        f"{row['cpu_us']:.0f}",
        f"{row['user_us']:.0f} + {row['system_us']:.0f}",
        _times(row["quotient_to_floor"]),
        f"{_times(row['quotient_least'])}-{_times(row['quotient_most'])}",
        f"{row['events_per_second']:,.0f}",
        f"{row['p99_ms']:.1f}",
        f"{row['peak_mib']:.0f}",
    )


def _times(quotient: float | None) -> str:
    return "" if quotient is None else f"{quotient:.2f}"


def _aligned(cell: str, width: int, at: int) -> str:
    return cell.rjust(width) if at else cell.ljust(width)


def _setting(result: Mapping[str, Any]) -> Iterator[str]:
    machine = result["machine"]
    alone = ", each server on a core of its own where it is not said otherwise" if machine["cores"] != "1" else ""
    yield (
        f"Batches of {result['events']} events with {result['signals']} signals, gzip, {result['connections']} "
        f"connections; medians over rounds of {result['seconds']:g} s{alone}; quotients are taken in each round, and "
        "then their median; "
        f"{machine['cpu']}, {machine['cores']} cores, {result['date']}, commit {result['commit']}."
    )
    for name, reason in result["left_out"].items():
        yield f"Left out: {name}: {reason}."


def _notes(result: Mapping[str, Any]) -> Iterator[str]:
    yield "Bytes an event: " + ", ".join(f"{count:.1f} ({of})" for of, count in result["bytes_per_event"].items()) + "."
    for events, programs in result.get("other_sizes", {}).items():
        shown = ", ".join(
            f"{name} {row['cpu_us']:.0f} µs ({_times(row['quotient_to_floor'])} x floor)"
            for name, row in programs.items()
        )
        yield f"Batches of {events} events: {shown}."
    if quotients := result.get("quotients"):
        yield "Processor time: " + "; ".join(f"{name} {times:.2f} x" for name, times in quotients.items()) + "."
    yield from _alone(result.get("beside"))
    yield from _warehouse(result.get("filled"))


def _alone(beside: Mapping[str, Any] | None) -> Iterator[str]:
    if not beside:
        return
    half = beside["half_load"]
    yield (
        f"At half load ({half['batches_per_second']:.0f} batches a second): acknowledged in {half['p50_ms']:.1f} ms at "
        f"the median, {half['p99_ms']:.1f} ms at the 99th percentile; {half['cpu_us']:.0f} µs of processor a batch, as "
        f"fewer travel together; the event loop stood still for {beside['loop_stall_ms']:.0f} ms at most. A reply "
        f"without news has {beside['reply_bytes']:.0f} bytes."
    )
    if memory := beside.get("memory"):
        after = list(memory["after_million_events"].items())
        shown = ", ".join(f"{mib:.0f} after {millions}" for millions, mib in (after[0], after[-1]))
        yield (
            f"Memory: MiB {shown} million events; at most {memory['peak_in_stall']:.0f} while Kafka stood still and "
            f"{memory['spooled_batches']} batches were spooled ({memory['peak_before_stall']:.0f} before)."
        )


def _warehouse(filled: Mapping[str, Any] | None) -> Iterator[str]:
    if not filled:
        return
    yield (
        f"Log to warehouse, a whole `backhaul serve` and the load on these cores: {filled['both_us']:.1f} µs an event "
        f"({filled['consumer_us']:.1f} consumer, {filled['clickhouse_us']:.1f} ClickHouse, with rollups and merges)."
    )
    if kept_up := filled.get("kept_up"):
        taken, stored = (f"{kept_up[name]:,.0f}" for name in ("taken_per_second", "stored_per_second"))
        yield (
            f"At full load for {filled['seconds']:.0f} s, the first third not counted, the gateway took {taken} events "
            f"a second and {stored} a second were stored; at most {kept_up['behind_seconds']:.1f} s of intake waited. "
            f"The last event was stored {filled['behind_seconds']:.1f} s after the load."
        )
    if half := filled.get("half_load"):
        yield (
            f"At half of that, {half['events_per_second']:,.0f} events a second: acknowledged in {half['p50_ms']:.1f} "
            f"ms at the median, {half['p99_ms']:.1f} ms at the 99th percentile; the event loop stood still for "
            f"{half['loop_stall_ms']:.0f} ms at most, full load included."
        )
