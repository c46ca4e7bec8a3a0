"""Rows 17 and 19-24: whom a device believes, what it may run, and whose clock counts."""

import asyncio
import time
from collections.abc import Iterator
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.client.conformance.publisher import DAY_MS, Publisher, script
from gateway.client.conformance.results import Rows, require
from gateway.client.conformance.world import World, until
from schemas.wire import Batch, CatalogueNews

ROWS: Final = Rows[World]()
_DAY: Final = 86_400.0
_YEAR_MS: Final = 365 * DAY_MS
_NOWHERE: Final = "http://127.0.0.1:9/"


@ROWS.row(17, "clock years back or ahead: predictions go on, nothing is bricked, and a right clock installs again")
async def outlives_its_clock(w: World) -> None:
    """Clocks of phones jump; a device that trusts one for ever is lost."""
    w.gateway.server_ms = lambda: time.time_ns() // 1_000_000
    await w.launch()
    await w.install(41)
    w.offer(2, w.publisher.release(41), w.publisher.release(42))
    for name, ahead_ms in (("25 years back", -25 * _YEAR_MS), ("20 years ahead", 20 * _YEAR_MS)):
        w.ahead_ms = ahead_ms
        await w.relaunch()
        found = await w.phone.runs()
        require(found in (41, 42), f"with a clock {name} release {found} answered")
        await w.phone.flush()
        found = await w.phone.runs()
        require(found in (41, 42), f"after a flush with a clock {name} release {found} answered")
    w.ahead_ms = 0
    await w.relaunch()
    for _ in range(2):
        await w.phone.turn(3600)
        await w.phone.flush()
    await w.expect(42, "with the clock right again")


@ROWS.row(19, "two flushes in flight answer differently: the later news wins, whichever answer comes last")
async def obeys_the_later_news(w: World) -> None:
    """A launch and a timer flush at once; an old answer must not undo a new one."""
    releases = [w.publisher.release(number) for number in (42, 43)]
    older, newer = w.publisher.news(1, releases[:1]), w.publisher.news(2, releases)
    w.gateway.offer(newer, 43)
    w.gateway.answers = [
        lambda batch: w.gateway.reply(batch, use=42, news=older),
        lambda batch: w.gateway.reply(batch, use=43, news=newer),
    ]

    async def hold_first(batch: Batch) -> None:
        if batch.batch == w.gateway.arrived[0].batch.batch:
            await until(lambda: len(w.gateway.arrived) > 1, seconds=0.5)
            await asyncio.sleep(0.2)  # so that the second answer is there before

    w.gateway.before_answer = hold_first
    await w.launch()
    await w.phone.decide(1)
    await asyncio.gather(w.phone.flush(), w.phone.flush())
    await w.expect(43, "after two flushes at once, the first of which was told the older release")


@ROWS.row(
    20, "app update with a newer bundled model: the higher of bundle and download, unless the gateway says otherwise"
)
async def takes_the_newer_bundle(w: World) -> None:
    """In the copied sample a stale download beats the model of every app update."""
    await w.launch()
    await w.install(42)
    w.bundle = (50, script(50))
    await w.relaunch(sdk="2.4.0", app_version="6.0.0", url=_NOWHERE)
    await w.expect(50, "after an app update with the newer bundled release")
    await w.relaunch()
    await w.phone.flush()
    await w.expect(42, "when the gateway said so nevertheless")
    w.bundle = (41, script(41))
    await w.relaunch(app_version="6.1.0")
    await w.expect(42, "after an app update with an older bundled release")


@ROWS.row(
    21, "SDK downgrade or other features: what does not fit is not run, the rest stays; versions compare as numbers"
)
async def runs_what_fits(w: World) -> None:
    """A restored backup may bring a model that this SDK never could run; and 2.10 is more than 2.3."""
    await w.launch(sdk="2.10.0")
    await w.install(41)
    w.offer(2, w.publisher.release(41), w.publisher.release(42, sdk=">=2.3"))
    await w.phone.flush()
    await w.expect(42, 'with SDK 2.10.0 and a release for ">=2.3"')
    w.offer(
        3,
        w.publisher.release(41),
        w.publisher.release(42, sdk=">=2.3"),
        w.publisher.release(43, inputs=["battery", "mood"]),
    )
    await w.phone.flush()
    await w.expect(42, "after a release that needs a signal which this app does not have")
    await w.relaunch(sdk="2.2.0", url=_NOWHERE)
    await w.expect(41, "after a downgrade to SDK 2.2.0")


@ROWS.row(22, "revoked (below the floor, not listed): stops in this session, and stays stopped after a kill")
async def stops_what_is_revoked(w: World) -> None:
    """A kill that waits for the next launch decides for hours on a model that was stopped."""
    await w.launch()
    await w.install(41, 42)
    w.gateway.offer(w.publisher.news(3, [w.publisher.release(41)]), None)
    await w.phone.flush()
    found = await w.phone.runs()
    require(found in (1, 41), f"release {found} answered after it was listed no more")
    w.gateway.offer(w.publisher.news(4, [w.publisher.release(number) for number in (41, 42, 43)], floor=43), None)
    await w.phone.flush()
    await w.expect(1, "when what it had was listed, and below the floor")
    await w.kill()
    await w.launch(url=_NOWHERE)
    await w.expect(1, "after a kill and a launch without network")


@ROWS.row(23, 'use "bundled": obeyed though unsigned, since it is the safe state, and not sticky')
async def holds_without_forgetting(w: World) -> None:
    """A hold is how a rollout is paused; coming back must cost no download."""
    await w.launch()
    await w.install(42)
    fetched = w.gateway.fetched()
    w.gateway.use = "bundled"
    await w.phone.flush()
    await w.expect(1, 'when told "bundled"')
    await w.relaunch(url=_NOWHERE)
    await w.expect(1, 'at the launch after it was told "bundled"')
    w.gateway.use = 42
    await w.relaunch()
    await w.phone.flush()
    await w.expect(42, "when told to use it again")
    require(w.gateway.fetched() == fetched, "coming back cost a download")


@ROWS.row(
    24, "catalogue forged, expired, of a lower number, of another app or key: ignored, current model kept, reported"
)
async def believes_only_its_key(w: World) -> None:
    """Whoever breaks into the gateway or the CDN must not be able to make a model run."""
    await w.launch()
    w.offer(5, w.publisher.release(41), floor=2)
    await w.phone.flush()
    await w.expect(41, "from a good catalogue")
    w.gateway.insists = True
    path = w.publisher.release(42).downloads[0].path
    for name, news in _lies(w):
        w.gateway.offer(news, 42)
        before = len(w.gateway.events("model"))
        await w.phone.flush()
        await w.expect(41, f"after a catalogue that is {name}")
        await w.relaunch()  # what is wrong is said once in a session
        await w.phone.flush()
        require(not w.gateway.fetched(path), f"release 42 was fetched for a catalogue that is {name}")
        require(len(w.gateway.events("model")) > before, f"a catalogue that is {name} was not reported")
    w.offer(9, w.publisher.release(41), w.publisher.release(42), floor=2)
    await w.phone.flush()
    await w.expect(42, "from a good catalogue after all the bad ones")


def _lies(w: World) -> Iterator[tuple[str, CatalogueNews]]:
    """Yield what a broken-into gateway could say."""
    honest = w.publisher
    both = [honest.release(41), honest.release(42)]
    good = honest.news(6, both, floor=2)
    stranger = Publisher(w.now_ms)
    stranger.key = Ed25519PrivateKey.generate()
    forged = msgspec.structs.replace(good, document=good.document.replace(b'"number":6', b'"number":7'))
    yield "changed after it was signed", forged
    yield "signed by a stranger", stranger.news(6, both, floor=2)
    yield "signed by nobody", msgspec.structs.replace(good, signatures=[])
    yield "older than the one it has", honest.news(4, both, floor=2)
    yield "another app's", honest.news(6, both, floor=2, app="other")
    yield "another model's", honest.news(6, both, floor=2, model="other")
    yield "of a lower floor", honest.news(6, both, floor=1)
    yield "no catalogue", honest.signed(b"{}")
    yield "expired", honest.news(6, both, floor=2, expires_at=w.now_ms - DAY_MS)
