"""The demonstration's verdict: what it must notice."""

import msgspec
import pytest

from gateway.client.fleet.life import Tally
from gateway.client.fleet.radio import Meter
from gateway.client.fleet.reports import DeviceReport, FleetReport, fleet_report
from gateway.demo.stored import Stored
from gateway.demo.verdict import faults, right_release

NEW = DeviceReport(device="new", sdk="2.3.0", app_version="5", release=2, produced=10, dropped={}, queued=0)
OLD = DeviceReport(device="old", sdk="2.2.4", app_version="4", release=1, produced=7, dropped={"disk": 2}, queued=0)
STORED = Stored(
    events=14,
    distinct_events=14,
    batches=3,
    distinct_batches=3,
    refused=1,
    letters=1,
    distinct_letters=1,
    by_device={"new": 10, "old": 5},
)


def fleet(*devices: DeviceReport) -> FleetReport:
    return fleet_report(devices, 1.0, Tally(), Meter())


def changed(**fields: object) -> Stored:
    return msgspec.structs.replace(STORED, **fields)


def test_a_fleet_that_adds_up_and_runs_what_it_should_has_no_faults() -> None:
    assert faults(fleet(NEW, OLD), STORED) == []


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (changed(events=13, distinct_events=13), "produced 17 events, but stored 13"),
        (changed(events=15), "1 events are stored twice"),
        (changed(distinct_batches=2), "1 batches are stored twice"),
        (changed(distinct_letters=0), "1 dead letters are stored twice"),
        (changed(letters=2, distinct_letters=2), "1 bodies were refused whole"),
        (changed(by_device={"new": 9, "old": 6}), "2 devices' counts do not add up: new produced 10, stored 9"),
    ],
)
def test_every_kind_of_loss_and_doubling_is_named(stored: Stored, said: str) -> None:
    assert any(said in fault for fault in faults(fleet(NEW, OLD), stored))


def test_a_device_on_the_wrong_release_is_named_and_so_is_one_that_has_not_settled() -> None:
    behind = msgspec.structs.replace(NEW, release=1)
    ahead = msgspec.structs.replace(OLD, release=2, unsettled="the gateway has not answered")
    found = " | ".join(faults(fleet(behind, ahead), STORED))
    assert "2 devices run the wrong release: new (SDK 2.3.0) runs 1, not 2; old (SDK 2.2.4) runs 2, not 1" in found
    assert "1 devices did not settle: old: the gateway has not answered" in found


def test_the_right_release_is_the_newest_that_the_sdk_can_run() -> None:
    assert [right_release(sdk) for sdk in ("2.2.9", "2.3", "3.0.0")] == [1, 2, 2]
