"""Rows 7-12 and 30: models that fail to compile, to prove themselves, to load and to predict."""

from typing import Any, Final, Literal

from gateway.client.conformance.process import Died
from gateway.client.conformance.publisher import MODEL, SCORES, script
from gateway.client.conformance.results import Rows, require
from gateway.client.conformance.scripted import Fault
from gateway.client.conformance.world import World
from schemas.releases import Probe, Release

ROWS: Final = Rows[World]()
_HOUR, _DAY = 3600.0, 86_400.0
_OLD, _NEXT, _NEW = "iOS 19.1", "iOS 19.2", "iOS 20.0"
_MOST_DEATHS: Final = 2


@ROWS.row(7, "compile fails: not tried again on this SDK and OS; tried again after an update of either")
async def does_not_compile(w: World) -> None:
    """A model that this OS cannot compile costs a download and a compilation at every check, unless that is kept."""
    await w.launch(os=_OLD)
    await w.install(41)
    w.offer(2, w.publisher.release(41), _faulty(w, 42, Fault("compile", "fail", os=_OLD)))
    await w.phone.flush()
    await w.expect(41, "after a release that does not compile")
    await w.expect_report(42, "failed", "quarantined")
    fetched = w.gateway.fetched()
    await w.relaunch()
    await w.later(5 * _DAY)
    await w.phone.flush()
    require(w.gateway.fetched() == fetched, "what does not compile here was fetched again")
    await w.relaunch(os=_NEW)
    await w.phone.flush()
    await w.expect(42, "after an update of the OS that can compile it")


@ROWS.row(
    8,
    "compile, probe or first prediction aborts the process: counted before it begins, quarantined after two deaths",
)
async def aborts_while_it_is_tried(w: World) -> None:
    """An abort cannot be caught: only what was written before it can stop a crash loop."""
    await w.launch()
    await w.install(41)
    faults = {
        42: ("compile", Fault("compile", "crash")),
        43: ("probe", Fault("predict", "crash")),
        50: ("first prediction", Fault("predict", "crash", above=0.9)),
    }
    for change, (number, (at, fault)) in enumerate(faults.items(), 2):
        w.offer(change, w.publisher.release(41), _faulty(w, number, fault))
        deaths = await _crashes(w, starts=4, best=41, battery=0.95)
        require(deaths <= _MOST_DEATHS, f"a release that aborts in its {at} killed {deaths} of 4 starts")
        reported = [state for state, _ in w.gateway.steps(number)]
        require({"quarantined", "failed"} & set(reported), f"release {number} was never reported: {reported}")


@ROWS.row(9, "probe (golden vectors) differs by more than 1e-5, or other input shape: rejected before activation")
async def proves_itself(w: World) -> None:
    """A runtime that computes otherwise than the publisher's must not decide."""
    await w.launch()
    await w.install(41)
    differs = w.publisher.release(42, probe=[Probe([0.5, 1.0], {"Purchased": SCORES[42] + 0.005 + 3e-5})])
    w.offer(2, w.publisher.release(41), differs)
    await w.phone.flush()
    await w.expect(41, "after a release whose probe differs by 3e-5")
    wide = w.publisher.release(43, script(43, inputs=3))
    w.offer(3, w.publisher.release(41), wide)
    await w.phone.flush()
    await w.expect(41, "after a release that takes three inputs where two are named")
    await w.expect_report(42, "failed", "quarantined")
    await w.expect_report(43, "failed", "quarantined")


@ROWS.row(
    10, "load aborts the process: two deaths, then the previous release, then the bundle; the quarantine ends some day"
)
async def aborts_at_launch(w: World) -> None:
    """The copied sample loads such a model at every launch: 50 of 50 crash."""
    await w.launch(os=_OLD)
    first = _faulty(w, 41, Fault("load", "crash", os="iOS 21.0"))
    until_ms = w.now_ms + round(_DAY * 1000)
    crashing = (Fault("load", "crash", os=_NEW, before_ms=until_ms), Fault("load", "crash", os="iOS 21.0"))
    second = _faulty(w, 42, *crashing)
    for number, releases in enumerate(((first,), (first, second)), 1):
        w.offer(number, *releases)
        await w.phone.flush()
    await w.expect(42, "before the OS update that makes it crash")
    await w.phone.process.end()
    deaths = await _crashes(w, starts=4, best=41, os=_NEW)
    require(deaths <= _MOST_DEATHS, f"a release that aborts when it is loaded killed {deaths} of 4 starts")
    await w.later(2 * _DAY)
    await w.phone.flush()
    await w.expect(42, "two days later, when it no longer crashed")
    await w.phone.process.end()
    deaths = await _crashes(w, starts=5, best=1, os="iOS 21.0")
    require(deaths <= 2 * _MOST_DEATHS, f"two releases that abort killed {deaths} of 5 starts")


@ROWS.row(
    11,
    "load throws: compiled once more from the kept source, as after an OS update; if that throws too, the next best"
    " answers in the same launch, and it is not fetched and tried for ever",
)
async def throws_at_launch(w: World) -> None:
    """A model that an OS update broke must neither silence the app nor be downloaded at each launch."""
    await w.launch(os=_OLD)
    await w.install(41)
    day_ms = round(_DAY * 1000)
    faults = (
        Fault("load", "fail", rots_ms=w.now_ms + day_ms),
        Fault("load", "crash", rots_ms=w.now_ms + 3 * day_ms, os=_NEXT),
        Fault("load", "fail", os=_NEW),
    )
    w.offer(2, w.publisher.release(41), _faulty(w, 42, *faults))
    await w.phone.flush()
    await w.expect(42, "before what was compiled of it grew old")
    fetched = w.gateway.fetched()
    for system, when in ((_OLD, "in the launch in which what was compiled throws"), (_NEXT, "after an OS update")):
        await w.phone.process.call("stop")
        w.ahead_ms += 2 * day_ms
        await w.launch(os=system)
        await w.expect(42, f"{when}, and compiling it again helps")
    await w.relaunch(os=_NEW)
    await w.expect(41, "in the launch in which the load throws")
    require(w.gateway.fetched() == fetched, "what only had to be compiled again was fetched again")
    for _ in range(3):
        await w.later(_HOUR)
        await w.phone.flush()
        await w.relaunch()
    await w.expect(41, "in the launches after that")
    require(w.gateway.fetched() <= fetched + 1, "the same broken artifact was fetched again and again")
    await w.expect_report(42, "failed", "quarantined")


@ROWS.row(12, "predict throws or gives no number: answered by the previous release or the bundle in the same call")
async def throws_in_a_prediction(w: World) -> None:
    """The app asks now; and what cannot answer once is not asked again."""
    kinds: tuple[Literal["fail", "nan"], ...] = ("fail", "nan")
    await w.launch()
    await w.install(41)
    for number, does in enumerate(kinds):
        w.offer(2 + number, w.publisher.release(41), _faulty(w, 42 + number, Fault("predict", does, above=0.9)))
        await w.phone.flush()
        await w.expect(42 + number, "before the input that it cannot answer")
        found = await w.phone.runs(battery=0.95)
        require(found == 41, f"a prediction that would {does} was answered by release {found}, not by 41")
        await w.expect(41, "after it could not answer once")
        await w.phone.flush()
        reported = [state for state, _ in w.gateway.steps(42 + number)]
        require({"quarantined", "failed"} & set(reported), f"release {42 + number} was never reported: {reported}")


@ROWS.row(30, "every prediction and outcome carries what really ran: release and source")
async def says_what_ran(w: World) -> None:
    """A rollout is judged by these events; a fallback that signs as the challenger falsifies it."""
    await w.launch()
    await w.phone.decide(1)
    await w.install(41)
    w.offer(2, w.publisher.release(41), _faulty(w, 42, Fault("predict", "fail", above=0.9)))
    await w.phone.flush()
    (number,) = await w.phone.decide(1)
    await w.phone.runs(battery=0.95)
    await w.phone.flush()
    await w.phone.process.call("outcome", prediction=number, model=MODEL, label="purchased", value=1.0)
    await w.phone.flush()
    ran = [(e["release"], e["source"]) for e in w.gateway.events("prediction")]
    for wanted in ((1, "bundled"), (41, "ota"), (42, "ota"), (41, "previous")):
        require(wanted in ran, f"no prediction says {wanted}: {ran}")
    for event in w.gateway.events("prediction"):
        near = abs(event["score"] - SCORES.get(event["release"], -1.0)) < 0.0101
        require(near, f"a prediction says release {event['release']} and has the score {event['score']}")
    outcomes = [(e["id"], e["outcome"]) for e in w.gateway.events("outcome")]
    require(outcomes == [(number, "purchased")], f"the outcomes that came are {outcomes}")


def _faulty(w: World, number: int, *faults: Fault) -> Release:
    return w.publisher.release(number, script(number, *faults))


async def _crashes(w: World, *, starts: int, best: int, battery: float = 0.5, **terms: Any) -> int:
    """Start the app so often, flush in it, and return how often that killed it; at last `best` must answer."""
    deaths = 0
    for _ in range(starts):
        try:
            if not w.phone.process.alive:
                await w.launch(**terms)
            await w.phone.runs(battery=battery)
            await w.phone.flush()
            await w.phone.flush()
            await w.phone.process.end()
        except Died:
            deaths += 1
    await w.launch(**terms)
    await w.expect(best, f"after {starts} starts with a release that aborts")
    return deaths
