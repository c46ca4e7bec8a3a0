"""What a fleet has done so far, and what the usual way of doing it would have cost."""

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct

from gateway.client.fleet.life import Tally
from gateway.client.fleet.radio import Meter


class DeviceReport(Struct, frozen=True, kw_only=True):
    """One device: what it runs and what it still has to say.

    `unsettled` says what it waits for, `refused` why it refuses the catalogue that it was sent; both empty when all is
    well.
    """

    device: str
    sdk: str
    app_version: str
    release: int
    produced: int
    dropped: dict[str, int]
    queued: int
    unsettled: str = ""
    refused: str = ""


class FleetReport(Struct, frozen=True, kw_only=True):
    """A fleet's totals. Counts of events are since install; requests, bytes and decisions since the process began.

    * `settling_requests` are those of `requests` that only ended the run, and `settling_downloads` those among these
      that fetched a model; no life asked for them.
    * produced = queued + dropped + what the gateway has taken, when nothing is on its way.
    * `usual_requests`: one request for every decision (its outcome in it), `polls` for news (one at every launch that
      has network, one for every hour in the foreground), and the same downloads while the lives lasted.
    """

    devices: int
    device_days: float
    launches: int
    crashes: int
    updates: int
    clock_changes: int
    decisions: int
    asked: int
    bought: int
    produced: int
    dropped: dict[str, int]
    queued: int
    requests: int
    settling_requests: int
    settling_downloads: int
    flushes: int
    downloads: int
    lost_requests: int
    problem_answers: int
    bytes_sent: int
    polls: int
    usual_requests: int
    releases: dict[str, int]
    unsettled: int
    refused: dict[str, int]
    each: list[DeviceReport] = []

    @property
    def lived_requests(self) -> int:
        """The requests that the lives asked for."""
        return self.requests - self.settling_requests

    @property
    def lived_downloads(self) -> int:
        """Those among them that fetched a model."""
        return self.downloads - self.settling_downloads

    @property
    def requests_per_device_day(self) -> float:
        """What this fleet's phones asked of their radios."""
        return self.lived_requests / self.device_days if self.device_days else 0.0

    @property
    def usual_requests_per_device_day(self) -> float:
        """What they would have asked the usual way."""
        return self.usual_requests / self.device_days if self.device_days else 0.0


def fleet_report(
    devices: Iterable[DeviceReport], device_days: float, tally: Tally, meter: Meter, lived: Meter | None = None
) -> FleetReport:
    """Add up; `lived` is what the radios had counted when the lives ended, where they have."""
    lived = lived or meter
    each = list(devices)
    dropped: Counter[str] = Counter()
    for device in each:
        dropped.update(device.dropped)
    return FleetReport(
        devices=len(each),
        device_days=device_days,
        launches=tally.launches,
        crashes=tally.crashes,
        updates=tally.updates,
        clock_changes=tally.clock_changes,
        decisions=tally.decisions,
        asked=tally.asked,
        bought=tally.bought,
        produced=sum(device.produced for device in each),
        dropped=dict(dropped),
        queued=sum(device.queued for device in each),
        requests=meter.requests,
        settling_requests=meter.requests - lived.requests,
        settling_downloads=meter.downloads - lived.downloads,
        flushes=meter.flushes,
        downloads=meter.downloads,
        lost_requests=meter.lost,
        problem_answers=meter.problems,
        bytes_sent=meter.bytes_sent,
        polls=tally.polls,
        usual_requests=tally.decisions + tally.polls + lived.downloads,
        releases=dict(Counter(str(device.release) for device in each)),
        unsettled=sum(1 for device in each if device.unsettled),
        refused=dict(Counter(device.refused for device in each if device.refused)),
        each=each,
    )
