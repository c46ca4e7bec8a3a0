"""Draw what a simulation found: cost, wake-ups, learning, latency, stopped releases, and the gateway's day."""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, repeat
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gateway.client.fleet.simulation.run import PolicyReport, Simulated, rate_of_day
from gateway.client.fleet.simulation.tallies import Histogram, Tallies
from gateway.client.fleet.simulation.workload import DAY_SECONDS, HOUR_SECONDS, Workload

_BINS_A_DAY: Final = 96
# Short of it a logarithm has nothing to show: an event sent at once waited for no time.
_LEAST_LATENCY_HOURS: Final = 10 / HOUR_SECONDS
# Policies differ in one thing and run together in most others: the first one lies wide under those after it.
_FIRST_WIDTH, _WIDTH = 3.5, 1.3


def draw(directory: Path, simulated: Simulated, tallies: Mapping[str, Tallies], workload: Workload) -> list[Path]:
    """Write the plots as SVG files into the directory, made where it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    reports = simulated.policies
    drawings: dict[str, Callable[[Axes], None]] = {
        "requests": lambda axes: _bars(axes, reports, "requests_per_device_day", "requests per device-day"),
        "wake-ups": lambda axes: _bars(axes, reports, "wake_ups_per_device_day", "radio wake-ups per device-day"),
        "stopped": lambda axes: _bars(
            axes, reports, "stopped_release_decisions", "decisions on a stopped release, per device"
        ),
        "learning": lambda axes: _learning(axes, reports, tallies, workload),
        "latency": lambda axes: _latency(axes, tallies),
        "rate": lambda axes: _rate(axes, tallies, workload),
    }
    return [_save(directory / f"{name}.svg", drawing) for name, drawing in drawings.items()]


def _save(path: Path, drawing: Callable[[Axes], None]) -> Path:
    figure = Figure(figsize=(8.0, 4.5), layout="constrained")
    drawing(figure.subplots())
    figure.savefig(path)
    return path


def _bars(axes: Axes, reports: Mapping[str, PolicyReport], figure: str, title: str) -> None:
    values = [getattr(report, figure) for report in reports.values()]
    bars = axes.barh(list(reports), values)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    axes.set_xlabel(title)


def _learning(
    axes: Axes, reports: Mapping[str, PolicyReport], tallies: Mapping[str, Tallies], workload: Workload
) -> None:
    used = next(iter(tallies.values())).used
    everyone = int(used.settle().sum())
    axes.plot(*_shares(used, DAY_SECONDS, everyone), "k:", label="first use after the publication")
    for (name, tally), width in zip(tallies.items(), _widths(), strict=False):
        found = reports[name]
        hours = (found.learn_p50_hours, found.learn_p95_hours, found.learn_p99_hours)
        said = " / ".join("later" if each is None else f"{each:.0f} h" for each in hours)
        axes.plot(*_shares(tally.learned, DAY_SECONDS, everyone), label=f"{name}: {said}", linewidth=width)
    for percent in (50, 95, 99):
        axes.axhline(percent, color="gray", linewidth=0.5)
    axes.set(xlabel="days since the publication", ylabel="devices in use that have heard of it, %", ylim=(0, 101))
    axes.set(xlim=(0, (workload.seconds - workload.published_seconds) / DAY_SECONDS))
    axes.legend(title="until 50 / 95 / 99 % have heard of it")


def _latency(axes: Axes, tallies: Mapping[str, Tallies]) -> None:
    for (name, tally), width in zip(tallies.items(), _widths(), strict=False):
        shares = _shares(tally.latencies, HOUR_SECONDS, int(tally.latencies.settle().sum()))
        axes.plot(*shares, label=name, linewidth=width)
    axes.set(xscale="log", xlabel="hours from the outcome to the gateway", ylabel="events, %")
    axes.set(xlim=(_LEAST_LATENCY_HOURS, None), ylim=(50, 101))
    axes.legend()


def _rate(axes: Axes, tallies: Mapping[str, Tallies], workload: Workload) -> None:
    hours = np.arange(_BINS_A_DAY) * 24 / _BINS_A_DAY
    for (name, tally), width in zip(tallies.items(), _widths(), strict=False):
        per_million = rate_of_day(tally, workload, _BINS_A_DAY) * 1_000_000 / tally.devices
        axes.plot(hours, per_million, label=name, linewidth=width)
    axes.set(xlabel="hour of the day, UTC", ylabel="requests per second from a million devices", ylim=(0, None))
    axes.legend()


def _widths() -> Iterator[float]:
    return chain([_FIRST_WIDTH], repeat(_WIDTH))


def _shares(histogram: Histogram, unit_seconds: float, of: int) -> tuple[list[float], list[float]]:
    """Return up to so many seconds (in the unit given): which part of all, in percent."""
    reached = np.cumsum(histogram.settle())
    shown = np.unique(np.geomspace(1, len(reached), 500).astype(np.int64)) - 1
    times = (shown + 1) * histogram.width / unit_seconds
    return times.tolist(), (reached[shown] / max(of, 1) * 100).tolist()
