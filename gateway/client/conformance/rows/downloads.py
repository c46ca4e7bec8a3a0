"""Rows 1-6 and 25-27: getting an artifact through a bad network onto a bad disk."""

import lzma
from typing import Final

from aiohttp import web

from gateway.client.conformance.hostile import PORTAL, TAG, Serve, honest
from gateway.client.conformance.process import Refused
from gateway.client.conformance.publisher import script
from gateway.client.conformance.results import Failed, Rows, require
from gateway.client.conformance.world import World
from schemas.releases import MAX_CATALOGUE_BYTES, Download

ROWS: Final = Rows[World]()
_LARGE: Final = 300_000
_DAY: Final = 86_400.0
# Sockets hold some megabytes whatever the client reads; who stops at the signed size never comes near this.
_ENDLESS_BYTES, _STOPPED_BYTES = 64 * 1024 * 1024, 24 * 1024 * 1024
_BOMB_BYTES, _GROWTH_BYTES = 64 * 1024 * 1024, 48 * 1024 * 1024
_MOST_FETCHES: Final = 6
# An SDK may count in MiB, and ask for some blocks more.
_SPARE_BYTES, _ROUNDING_BYTES = 8_000_000, 1_000_000


@ROWS.row(
    1,
    "partial download, app killed: goes on where it stopped (Range, If-Range), begins again after a 200,"
    " is never visible to a prediction",
)
async def resumes(w: World) -> None:
    """A phone is killed at any byte; without resuming, a large model never arrives over a bad line."""
    first, second = script(42, size=_LARGE), script(43, size=_LARGE)
    await w.launch()
    w.offer(1, w.publisher.release(42, first))
    await w.interrupt(42, first, after_bytes=200_000)
    await w.launch()
    await w.expect(1, "after being killed in the middle of a download")
    await w.phone.flush()
    await w.expect(42, "after the download was finished")
    last = w.gateway.fetches[-1]
    require(last.range.startswith("bytes=") and last.if_range == TAG, f"it began again instead of going on: {last}")

    w.offer(2, w.publisher.release(42, first), w.publisher.release(43, second))
    await w.interrupt(43, second, after_bytes=200_000)
    w.gateway.serve = lambda request, data: honest(request, data, tag='"second"')
    await w.launch()
    await w.phone.flush()
    await w.expect(43, "after the file changed under its tag and came whole")


def _page(status: int, **headers: str) -> Serve:
    async def serve(_: web.Request, __: bytes) -> web.Response:
        return web.Response(status=status, text=PORTAL, content_type="text/html", headers=headers)

    return serve


@ROWS.row(2, "status other than 200 and 206, captive portal, HTML: a failure of the network, never stored as a model")
async def keeps_no_page(w: World) -> None:
    """The copied sample keeps the page of a 404 as a model, and runs on the bundle while it lies there."""
    await w.launch()
    await w.install(41)
    w.offer(2, w.publisher.release(41), w.publisher.release(42))
    answers = {
        "a captive portal's 200": _page(200),
        "a redirect to a login": _page(302, Location="/login"),
        "a 404": _page(404),
        "a 500": _page(500),
        "a 206 that nobody asked for": _page(206, **{"Content-Range": "bytes 0-48/49"}),
    }
    for name, serve in answers.items():
        w.gateway.serve = serve
        await w.later(2 * _DAY)
        await w.phone.flush()
        await w.expect(41, f"after {name} instead of release 42")
        require(not w.holding(PORTAL.encode()), f"the page of {name} is kept")
    w.gateway.serve = None
    await w.expect_report(42, "failed")
    await w.later(2 * _DAY)
    await w.phone.flush()
    await w.expect(42, "when the network was good again")


@ROWS.row(3, "body longer than the signed size: stops reading, and says so")
async def stops_reading(w: World) -> None:
    """An endless body costs the user's data plan and disk."""
    sent = 0

    async def endless(request: web.Request, data: bytes) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(data)
        while sent < _ENDLESS_BYTES:
            await response.write(bytes(65_536))
            sent += 65_536
        return response

    await w.launch()
    await w.install(41)
    w.offer(2, w.publisher.release(41), w.publisher.release(42))
    w.gateway.serve = endless
    await w.phone.flush()
    require(sent < _STOPPED_BYTES, f"it read on after the signed size, {sent} bytes and more")
    await w.expect(41, "after a body without end")
    w.gateway.serve = None
    await w.expect_report(42, "failed")


@ROWS.row(
    4, "checksum mismatch: deleted, tried again after 1 minute, then 4, 16..., no more after six times, and reported"
)
async def gives_up_wrong_bytes(w: World) -> None:
    """A corrupt file often still parses and predicts otherwise; and a broken CDN must not be asked for ever."""
    data = script(42)
    wrong = data.replace(b"0.8", b"0.9")

    async def corrupt(_: web.Request, __: bytes) -> web.Response:
        return web.Response(body=wrong)

    await w.launch()
    await w.install(41)
    release = w.publisher.release(42, data)
    path = release.downloads[0].path
    w.offer(2, w.publisher.release(41), release)
    w.gateway.serve = corrupt
    for seconds, fetches in ((0, 1), (0, 1), (61, 2), (61, 2), (200, 3)):
        await w.later(seconds)
        await w.phone.flush()
        found = w.gateway.fetched(path)
        require(found == fetches, f"fetched {found} times, not {fetches}, {seconds} s after the last flush")
    await w.expect(41, "after wrong bytes of the right length")
    require(not w.holding(wrong), "the wrong bytes are kept")
    for _ in range(8):
        await w.later(1.1 * _DAY)
        await w.phone.flush()
    found = w.gateway.fetched(path)
    require(found <= _MOST_FETCHES, f"wrong bytes were asked for {found} times")
    require(any(state == "failed" for state, _ in w.gateway.steps(42)), "the failure was never reported")


@ROWS.row(5, "delta: base missing or result hash wrong: falls back to the full file once")
async def falls_back_from_a_patch(w: World) -> None:
    """A patch on the wrong base yields garbage of the right length without a word."""
    first, second = script(42, size=20_000), script(43, size=20_000)
    stranger = script(41, size=19_000)
    await w.launch()
    whole = w.publisher.release(42, first)
    missing = w.publisher.patch(stranger, first)
    w.offer(1, w.publisher.release(42, first, downloads=[missing, *whole.downloads]))
    await w.phone.flush()
    await w.expect(42, "where the base of the patch is not on the device")

    after = w.publisher.release(43, second)
    wrong = w.publisher.patch(stranger, second, says=first)
    w.offer(2, whole, w.publisher.release(43, second, downloads=[wrong, *after.downloads]))
    await w.phone.flush()
    await w.expect(43, "where the patch was made from other bytes than it says")
    full = w.gateway.fetched(after.downloads[0].path)
    require(full == 1, f"the full file was fetched {full} times")


@ROWS.row(
    6,
    "disk full at any write: the old model stays, no exception to the app, every event is counted;"
    " disk low: nothing is fetched without room for three times its size and 8 MB",
)
async def survives_a_full_disk(w: World) -> None:
    """Full phones are common; a client that raises takes the app with it, one that fills the disk takes the phone."""
    await w.launch()
    await w.install(41)
    w.offer(2, w.publisher.release(41), w.publisher.release(42, script(42, size=_LARGE)))
    for beyond in (0, 4096, 120_000, 250_000):
        w.phone.process.refuse_writes(beyond)
        await _undisturbed(w, beyond)
        await w.later(_DAY)
    w.phone.process.refuse_writes(None)
    await w.later(_DAY)
    await w.phone.flush()
    await w.expect(42, "when the disk had room again")
    await w.later(3600)
    await w.phone.flush()
    require(w.gateway.arrived, "no batch ever arrived")
    ledger = w.gateway.arrived[-1].batch.ledger
    stored = sum(len(batch.events) for batch in w.gateway.stored.values())
    lost = ledger.produced - stored - sum(ledger.dropped.values())
    require(lost == 0, f"of {ledger.produced} events {lost} are neither stored nor counted as dropped")
    await _wants_room(w)


async def _wants_room(w: World) -> None:
    """Last, so that what a driver without `space` does on a full disk is seen nevertheless."""
    release = w.publisher.release(43, script(43, size=_LARGE))
    path, wanted = release.downloads[0].path, 3 * release.size + _SPARE_BYTES
    w.offer(3, w.publisher.release(41), release)
    await w.phone.process.call("space", free_bytes=wanted - 1)
    await w.phone.flush()
    require(not w.gateway.fetched(path), f"{release.size} bytes were fetched with {wanted - 1} free")
    await w.phone.process.call("space", free_bytes=wanted + _ROUNDING_BYTES)
    await w.later(_DAY)
    await w.phone.flush()
    await w.expect(43, f"with {wanted + _ROUNDING_BYTES} bytes free for {release.size}")


async def _undisturbed(w: World, beyond: int) -> None:
    when = f"with no room beyond {beyond} bytes a file"
    try:
        for _ in range(3):
            await w.expect(41, when)
        await w.phone.flush()
        await w.expect(41, when)
    except Refused as error:
        raise Failed(f"{when} an exception reached the app: {error}") from error


@ROWS.row(25, "Low Data Mode, expensive network, low power: nothing above 200 KB is downloaded, unless it is urgent")
async def spares_the_user(w: World) -> None:
    """A model of a megabyte over roaming is the user's money. (The flags of URLSession themselves are a phone's.)"""
    await w.launch()
    await w.install(41)
    large = w.publisher.release(42, script(42, size=_LARGE))
    w.offer(2, w.publisher.release(41), large)
    for condition in ("expensive", "low_power"):
        await w.phone.process.call("conditions", **{condition: True})
        await w.phone.flush()
        require(not w.gateway.fetched(large.downloads[0].path), f"300 KB were downloaded though {condition}")
    await w.phone.process.call("conditions")
    await w.later(_DAY)
    await w.phone.flush()
    await w.expect(42, "when the network was cheap and the power back")
    urgent = w.publisher.release(43, script(43, size=_LARGE), urgent=True)
    w.offer(3, w.publisher.release(41), large, urgent)
    await w.phone.process.call("conditions", low_power=True, expensive=True)
    await w.phone.flush()
    await w.expect(43, "after an urgent release, however expensive")


ROWS.phone_only(
    26,
    "background time over (about 30 s): stops at the next safe point, the background URLSession owns the transfer",
    "the system's background time and its URLSession (what a kill in a download leaves is row 1)",
)


@ROWS.row(27, "catalogue, artifact or reply absurd (bomb, thousands of releases): refused within bounds of memory")
async def refuses_the_absurd(w: World) -> None:
    """What is signed may still be a mistake, and what is not signed may be an attack."""
    await w.launch()
    await w.install(41)
    memory = w.phone.process.memory_bytes()
    good = w.publisher.release(42)
    crowd = [w.publisher.release(42 + n, script(42, size=n), probe=[]) for n in range(400)]
    too_long = w.publisher.news(2, [w.publisher.release(41), *crowd])
    require(len(too_long.document) > MAX_CATALOGUE_BYTES, "the kit's own catalogue is too short")
    w.gateway.offer(too_long, 42)
    await w.phone.flush()
    await w.expect(41, "after a catalogue of more than 64 KiB")

    bomb = lzma.compress(bytes(_BOMB_BYTES), preset=0)
    way = Download("xz", w.publisher.put(bomb), min(len(bomb), good.size - 1))
    w.offer(3, w.publisher.release(41), w.publisher.release(42, downloads=[way]))
    await w.phone.flush()
    await w.expect(41, "after a download that unpacks to 64 MiB")

    w.gateway.answers = [lambda _: web.Response(body=b'{"flush":"' + bytes(_BOMB_BYTES) + b'"}')]
    await w.phone.flush()
    await w.expect(41, "after a reply of 64 MiB")
    grown = w.phone.process.memory_bytes() - memory
    require(grown < _GROWTH_BYTES, f"memory grew by {grown} bytes")
