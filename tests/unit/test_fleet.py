"""The fleet's made-up parts: its users, phones, radios and calendar. The real client is tested beside them."""

import resource
from gzip import compress
from pathlib import Path
from random import Random

import msgspec
import pytest
from aiohttp import ClientConnectionError, ClientSession, TCPConnector, web
from hypothesis import given
from hypothesis import strategies as st

from gateway.client.clock import ScaledClock
from gateway.client.fleet.calendar import Calendar, go_on
from gateway.client.fleet.files import allow_open_files
from gateway.client.fleet.life import Tally
from gateway.client.fleet.loaded import LoadedOnce
from gateway.client.fleet.phones import (
    CURRENT_SDK,
    LAUNCHES_PER_DAY,
    NEXT_APP,
    OLD_SDK,
    Phone,
    phone,
    seconds_to_launch,
    updated,
)
from gateway.client.fleet.radio import Meter, Radio, in_percent
from gateway.client.fleet.reports import DeviceReport, fleet_report
from gateway.client.fleet.run import FleetOptions, KeyRefused, bundled_upsell, run_fleet
from gateway.client.fleet.shoppers import first_moment, next_moment, purchase_probability
from gateway.client.runtimes import BadModel
from gateway.client.runtimes.coreml import CoreMLRuntime
from gateway.problems import KeyRevoked, RequestFailed, UnknownKey

HOUR = 3600.0
MODELS = Path(__file__).parents[1] / "models"


def dice(seed: object) -> Random:
    return Random(str(seed))  # noqa: S311 - a seeded draw


def test_a_seed_gives_the_same_phones_every_time() -> None:
    assert [phone(7, i) for i in range(50)] == [phone(7, i) for i in range(50)]
    assert phone(7, 0) != phone(8, 0)


def test_a_tenth_of_the_phones_have_the_old_sdk_and_a_twentieth_the_buggy_app() -> None:
    phones = [phone(1, i) for i in range(200)]
    assert sum(each.sdk == OLD_SDK for each in phones) == 20
    assert sum(each.has_percent_bug for each in phones) == 10
    assert all(each.sdk == CURRENT_SDK for each in phones if each.has_percent_bug)


def test_phones_launch_as_often_as_the_policy_was_simulated_with() -> None:
    phones = [phone(1, i) for i in range(4000)]
    assert sum(each.launches_per_day for each in phones) / 4000 == pytest.approx(LAUNCHES_PER_DAY, rel=0.05)
    rolls, now, launches = dice(1), 0.0, 0
    while now < 2000 * 24 * HOUR:
        now += seconds_to_launch(phones[0], now, rolls)
        launches += 1
    assert launches / 2000 == pytest.approx(phones[0].launches_per_day, rel=0.1)


@given(st.integers(0, 500), st.floats(0, 1e9), st.integers())
def test_nobody_opens_the_app_asleep(index: int, now: float, seed: int) -> None:
    user: Phone = phone(1, index)
    wait = seconds_to_launch(user, now, dice(seed))
    local = now + wait + user.utc_offset_seconds
    assert wait >= 0.0
    assert 7 * HOUR - 1 <= local % (24 * HOUR) <= 23 * HOUR + 1


def test_a_session_goes_forward_and_its_chances_stay_probabilities() -> None:
    rolls = dice(2)
    moment = first_moment(rolls)
    for _ in range(200):
        later = next_moment(moment, rolls)
        assert later.session_seconds > moment.session_seconds
        assert later.items_viewed >= moment.items_viewed
        assert 0.0 < purchase_probability(later) < 1.0
        moment = later


def test_the_percent_bug_spoils_the_same_events_every_time() -> None:
    events = [{"type": "prediction", "id": i, "score": 0.5} for i in range(1, 17)] + [{"type": "outcome", "id": 8}]
    document = msgspec.json.encode({"batch": "b", "events": events})
    spoilt = msgspec.json.decode(in_percent(document))["events"]
    assert [event["id"] for event in spoilt if event.get("score", 0) > 1] == [4, 8, 12, 16]
    assert in_percent(document) == in_percent(document)


async def serve_echo(app: web.Application) -> tuple[web.AppRunner, str]:
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/"


async def test_a_radio_counts_what_leaves_and_loses_some_of_it() -> None:
    received = []

    async def take(request: web.Request) -> web.Response:
        received.append(await request.read())
        return web.Response(status=503 if len(received) % 2 else 200)

    app = web.Application()
    app.router.add_post("/", take)
    runner, url = await serve_echo(app)
    meter = Meter()
    radio = Radio(meter, dice(4))
    raised = 0
    async with (
        TCPConnector() as connector,
        ClientSession(connector=connector, connector_owner=False, middlewares=(radio,)) as session,
    ):
        for _ in range(400):
            try:
                async with session.post(url, data=b"12345"):
                    pass
            except ClientConnectionError:
                raised += 1
        radio.online = False
        with pytest.raises(ClientConnectionError, match="offline"):
            await session.get(url)
    await runner.cleanup()
    assert (meter.flushes, meter.downloads, meter.bytes_sent) == (400, 0, 2000)
    assert 0 < meter.lost == raised < 20
    assert 400 - raised <= len(received) < 400
    assert meter.problems > 100


async def test_a_buggy_build_spoils_a_compressed_body_and_nothing_else() -> None:
    received = []

    async def take(request: web.Request) -> web.Response:
        received.append((request.headers.get("Content-Encoding"), await request.json()))
        return web.Response()

    app = web.Application()
    app.router.add_post("/", take)
    runner, url = await serve_echo(app)
    document = {"batch": "b", "events": [{"type": "prediction", "id": 8, "score": 0.25, "t": 1}]}
    body = compress(msgspec.json.encode(document))
    async with ClientSession(middlewares=(Radio(Meter(), dice(1), has_percent_bug=True),)) as session:
        await session.post(url, data=body, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})
    await runner.cleanup()
    document["events"] = [{"type": "prediction", "id": 8, "score": 25.0, "t": 1}]
    assert received == [("identity", document)]


def test_device_time_goes_on_where_it_was_after_a_crash(tmp_path: Path) -> None:
    first = go_on(tmp_path, day_seconds=10.0)
    assert first.rate == 8640.0
    earlier = Calendar(first.real_ms - 5000, first.device_ms, first.rate)
    (tmp_path / "calendar.json").write_bytes(msgspec.json.encode(earlier))
    second = go_on(tmp_path, day_seconds=20.0)
    assert second.rate == 4320.0
    assert second.device_ms >= first.device_ms + 5000 * 8640


def test_a_clock_that_is_set_moves_what_is_dated_and_not_what_is_measured() -> None:
    clock = ScaledClock(1.0, start_ms=1_000_000)
    measured = clock.monotonic()
    clock.move(-500.0)
    assert 500_000 <= clock.now_ms() < 510_000
    assert measured <= clock.monotonic() < 10


def test_only_the_current_build_is_updated() -> None:
    now = {updated(phone(1, index)).app_version for index in range(40)}
    before = {phone(1, index).app_version for index in range(40)}
    assert now - before == {NEXT_APP}
    assert before - now == {phone(1, 0).app_version}


@pytest.mark.parametrize("torn", [b"", b"{", b'{"real_ms":1}', bytes(range(128, 148))])
def test_a_torn_calendar_starts_again(tmp_path: Path, torn: bytes) -> None:
    (tmp_path / "calendar.json").write_bytes(torn)
    calendar = go_on(tmp_path, day_seconds=10.0)
    assert calendar.device_ms == calendar.real_ms


def test_a_model_is_loaded_once_for_all_devices_and_a_bad_one_never() -> None:
    runtime = LoadedOnce(CoreMLRuntime())
    data = (MODELS / "upsell-1.mlmodel").read_bytes()
    assert runtime.load(data) is runtime.load(bytes(bytearray(data)))
    for _ in range(2):
        with pytest.raises(BadModel):
            runtime.load(b"<html>")


def test_more_devices_than_the_system_has_files_for_are_refused_before_they_are_made() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most == resource.RLIM_INFINITY:
        pytest.skip("this system sets no limit")
    with pytest.raises(OSError, match="open files"):
        allow_open_files(most)


def test_the_usual_way_is_counted_beside_what_was_done() -> None:
    one = DeviceReport(device="a", sdk="2", app_version="5", release=1, produced=9, dropped={"queue_full": 2}, queued=1)
    two = msgspec.structs.replace(one, release=2, produced=4, dropped={}, unsettled="an update is under way")
    tally = Tally(launches=7, polls=6, decisions=21, asked=7, bought=2, outcomes=7)
    meter = Meter(flushes=11, downloads=3)
    report = fleet_report([one, two], 2.0, tally, meter, lived=Meter(flushes=5, downloads=1))
    assert (report.produced, report.queued, report.dropped) == (13, 2, {"queue_full": 2})
    assert (report.releases, report.unsettled) == ({"1": 1, "2": 1}, 1)
    assert (report.requests, report.lived_requests, report.settling_requests) == (14, 6, 8)
    assert (report.downloads, report.lived_downloads, report.settling_downloads) == (3, 1, 2)
    assert report.usual_requests == 21 + 6 + 1
    assert (report.requests_per_device_day, report.usual_requests_per_device_day) == (3.0, 14.0)


@pytest.mark.parametrize(
    ("problem", "said"),
    [(UnknownKey("the app key is not known"), "401 unknown_key"), (KeyRevoked("it was revoked"), "403 key_revoked")],
)
async def test_a_fleet_whose_key_is_refused_stops_at_once(tmp_path: Path, problem: RequestFailed, said: str) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=problem.status, body=problem.document())

    app = web.Application()
    app.router.add_post("/v1/batches", refuse)
    runner, url = await serve_echo(app)
    bundled = bundled_upsell(MODELS / "upsell-1.mlmodel")
    options = FleetOptions(url, "shop.key", (bytes(32),), bundled, tmp_path, devices=3, seconds=60.0, day_seconds=0.5)
    with pytest.raises(KeyRefused, match=f"refuses this app key: {said}"):
        await run_fleet(options)
    await runner.cleanup()
