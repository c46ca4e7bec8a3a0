"""What must be true in the end, and what is wrong when it is not.

* Pure: the fleet's report and the warehouse's counts in, sentences out; none means that all is well.
"""

from typing import Final

from gateway.client.fleet.reports import FleetReport
from gateway.demo.stage import SDKS
from gateway.demo.stored import Stored
from schemas.versions import satisfies

_SHOWN: Final = 5


def faults(fleet: FleetReport, stored: Stored) -> list[str]:
    """Return everything that is wrong."""
    return [*_losses(fleet, stored), *_doubles(stored), *_wrong_releases(fleet)]


def right_release(sdk: str) -> int:
    """Return the newest release that the SDK can run."""
    return max(release for release, needs in SDKS.items() if satisfies(sdk, needs))


def _losses(fleet: FleetReport, stored: Stored) -> list[str]:
    dropped = sum(fleet.dropped.values())
    arrived = stored.events + stored.refused
    found = []
    if fleet.produced != arrived + dropped:
        found.append(
            f"produced {fleet.produced} events, but stored {stored.events} + refused {stored.refused}"
            f" + dropped {dropped} = {arrived + dropped}"
        )
    wrong = [
        f"{each.device} produced {each.produced}, stored {stored.by_device.get(each.device, 0)},"
        f" dropped {sum(each.dropped.values())}"
        for each in fleet.each
        if each.produced != stored.by_device.get(each.device, 0) + sum(each.dropped.values())
    ]
    if wrong:
        found.append(f"{len(wrong)} devices' counts do not add up: " + "; ".join(wrong[:_SHOWN]))
    if stored.letters != stored.refused:
        found.append(f"{stored.letters - stored.refused} bodies were refused whole")
    return found


def _doubles(stored: Stored) -> list[str]:
    counts = {
        "events": stored.events - stored.distinct_events,
        "batches": stored.batches - stored.distinct_batches,
        "dead letters": stored.letters - stored.distinct_letters,
    }
    return [f"{count} {name} are stored twice" for name, count in counts.items() if count]


def _wrong_releases(fleet: FleetReport) -> list[str]:
    found = []
    unsettled = [f"{each.device}: {each.unsettled}" for each in fleet.each if each.unsettled]
    if unsettled:
        found.append(f"{len(unsettled)} devices did not settle: " + "; ".join(unsettled[:_SHOWN]))
    wrong = [
        f"{each.device} (SDK {each.sdk}) runs {each.release}, not {right_release(each.sdk)}"
        for each in fleet.each
        if each.release != right_release(each.sdk)
    ]
    if wrong:
        found.append(f"{len(wrong)} devices run the wrong release: " + "; ".join(wrong[:_SHOWN]))
    return found
