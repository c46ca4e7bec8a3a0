"""Show how the demonstration goes: a table that changes in place on a terminal, a line now and then anywhere else.

* Everything goes to stderr; stdout is for the result.
"""

import sys
import time
from typing import Final

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from gateway.client.fleet.reports import FleetReport
from gateway.demo.stored import Stored

_LINE_EVERY_SECONDS: Final = 5.0


class Moment(msgspec.Struct, frozen=True):
    """How many devices ran which release at a moment, in seconds since the fleet began."""

    seconds: float
    releases: dict[str, int]


class Progress:
    """What has happened so far."""

    def __init__(self, seconds: float) -> None:
        self.history: list[Moment] = []
        self._seconds = seconds
        self._phase = "starting"
        self._began = 0.0
        self._fleet: FleetReport | None = None
        self._stored = self._counted = Stored()
        self._last_line = 0.0
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, refresh_per_second=4) if self._console.is_terminal else None

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal to whoever prints next."""
        if self._live:
            self._live.stop()

    def say(self, phase: str) -> None:
        """Begin a new phase."""
        self._phase = phase
        self._last_line = 0.0
        self._show()

    def fleet(self, report: FleetReport) -> None:
        """Take what the fleet has done."""
        self._began = self._began or time.monotonic()
        self._fleet, self._stored = report, self._counted
        self.history.append(Moment(round(time.monotonic() - self._began, 1), report.releases))
        self._show()

    def stored(self, stored: Stored) -> None:
        """Take what the warehouse holds; what is newer than the fleet's own count is shown with the next of these."""
        self._counted = stored
        if self._fleet is None or stored.events + stored.refused <= self._fleet.produced:
            self._stored = stored
            self._show()

    def _show(self) -> None:
        if self._live:
            self._live.update(self._table())
        elif time.monotonic() - self._last_line >= _LINE_EVERY_SECONDS:
            self._last_line = time.monotonic()
            (_, phase), *facts = self._facts()
            sys.stderr.write(f"{phase} ({', '.join(f'{name} {value}' for name, value in facts)})\n")
            sys.stderr.flush()

    def _facts(self) -> list[tuple[str, str]]:
        facts = [("", self._phase)]
        if self._fleet is not None:
            fleet = self._fleet
            running = ", ".join(f"{count} on release {name}" for name, count in sorted(fleet.releases.items()))
            facts += [
                ("seconds", f"{min(time.monotonic() - self._began, self._seconds):.0f} of {self._seconds:.0f}"),
                ("device-days", f"{fleet.device_days:.0f}"),
                ("devices", running),
                ("decisions", f"{fleet.decisions}"),
                ("requests", f"{fleet.requests}"),
                ("events produced", f"{fleet.produced}"),
            ]
        return [*facts, ("events stored", f"{self._stored.events}"), ("refused", f"{self._stored.refused}")]

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for name, value in self._facts():
            table.add_row(name, value)
        return table
