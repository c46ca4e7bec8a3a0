"""Rows A1-A10: what becomes of a batch after each answer of the contract, and of events when the app is killed."""

from typing import Final

from aiohttp import web

from gateway.client.conformance.hostile import Say, portal, problem
from gateway.client.conformance.results import Rows, require
from gateway.client.conformance.world import World, until
from schemas.wire import Flush

ROWS: Final = Rows[World]()
_HOUR: Final = 3600.0


@ROWS.row("A1", "reply lost: the same batch again, with the same identity and events, until it is answered")
async def resends_the_same(w: World) -> None:
    """The gateway has the batch; only its identity can tell a resend from news."""
    await w.launch()
    numbers = await w.phone.decide(5)
    w.gateway.replies_to_lose = 2
    for _ in range(4):
        await w.phone.flush()
        await w.later(2 * _HOUR)
    first, *again = [arrived.batch for arrived in w.gateway.arrived][:3]
    for batch in again:
        same = (batch.batch, batch.seq, batch.events) == (first.batch, first.seq, first.events)
        require(same, f"batch {first.batch} ({first.seq}) was resent as {batch.batch} ({batch.seq})")
    _all_there(w, numbers)


@ROWS.row("A2", "400 malformed and 415 unsupported_media: dropped and counted in the ledger, never resent")
async def drops_what_is_refused(w: World) -> None:
    """Resent, a batch that no gateway will ever take blocks all that come after it."""
    await w.launch()
    for status, code in ((400, "malformed"), (415, "unsupported_media")):
        await w.phone.decide(3)
        w.gateway.answers = [problem(status, code)]
        await w.phone.flush()
        refused = w.gateway.arrived[-1].batch.batch
        numbers = await w.phone.decide(1)
        await w.later(_HOUR)
        await w.phone.flush()
        require(refused not in w.gateway.stored, f"a batch answered {status} was sent again")
        ledger = w.gateway.arrived[-1].batch.ledger
        require(
            sum(ledger.dropped.values()) >= 3, f"three events are lost after a {status}, and the ledger says {ledger}"
        )
        sent = [event["id"] for event in w.gateway.events("prediction")]
        require(set(numbers) <= set(sent), f"after a {status} nothing more came")


@ROWS.row("A3", "401 unknown_key and 403 key_revoked: kept, and silent for a lease")
async def keeps_for_a_lease(w: World) -> None:
    """A key that a server forgot comes back; a million devices must not ask for it every second."""
    await w.launch()
    await w.phone.flush()
    numbers: list[int] = []
    for status, code in ((401, "unknown_key"), (403, "key_revoked")):
        numbers += await w.phone.decide(2)
        w.gateway.answers = [problem(status, code)]
        await w.phone.flush()
        count = len(w.gateway.arrived)
        await w.later(w.gateway.flush.lease_seconds / 2)
        await w.phone.flush()
        require(len(w.gateway.arrived) == count, f"half a lease after a {status} something was sent")
        await w.later(w.gateway.flush.lease_seconds)
        await w.phone.flush()
        require(len(w.gateway.arrived) > count, f"a lease after a {status} nothing was sent")
    _all_there(w, numbers)


@ROWS.row("A4", "413 too_large: split in half until it fits; nothing lost, nothing twice")
async def splits_what_is_too_large(w: World) -> None:
    """Bounds differ from gateway to gateway; a queue that grew offline must still get through."""
    await w.launch()
    numbers = await w.phone.decide(40)

    def bounded(batch: object) -> web.StreamResponse:
        arrived = w.gateway.arrived[-1].batch
        return problem(413, "too_large")(arrived) if len(arrived.events) > 7 else w.gateway.reply(arrived)

    w.gateway.answers = [bounded] * 40
    for _ in range(3):
        await w.phone.flush()
        await w.later(_HOUR)
    _all_there(w, numbers)


@ROWS.row("A5", "429 slow_down and 503 unavailable: kept, and silent for at least Retry-After, a restart included")
async def waits_as_told(w: World) -> None:
    """A gateway that is coming back must not be knocked over by those who wait."""
    await w.launch()
    numbers: list[int] = []
    for status, code in ((429, "slow_down"), (503, "unavailable")):
        numbers += await w.phone.decide(2)
        w.gateway.answers = [problem(status, code, **{"Retry-After": "7200"})]
        await w.phone.flush()
        count = len(w.gateway.arrived)
        await w.phone.flush()
        await w.later(_HOUR)
        await w.relaunch()
        await w.phone.flush()
        require(len(w.gateway.arrived) == count, f"within the Retry-After of a {status} something was sent")
        await w.later(2 * _HOUR)
        await w.phone.flush()
        require(len(w.gateway.arrived) > count, f"after the Retry-After of a {status} nothing was sent")
    _all_there(w, numbers)


@ROWS.row(
    "A6", "an answer without the contract's word (a captive portal's 200, a proxy's 400, a redirect): kept and resent"
)
async def heeds_no_stranger(w: World) -> None:
    """Hotels answer 200 to anything; a batch that is deleted for that is lost. And the key goes to no stranger."""
    await w.launch()
    numbers = await w.phone.decide(5)
    strangers: dict[str, Say] = {
        "a captive portal's 200": portal,
        "a proxy's 400": lambda _: web.Response(status=400, text="bad request"),
        "a proxy's 413": lambda _: web.Response(status=413, text="too large"),
        "a redirect": lambda _: web.Response(status=307, headers={"Location": f"{w.url}login"}),
        "a 500": lambda _: web.Response(status=500),
        "another batch's reply": lambda _: web.json_response(
            {
                "batch": "01980f3e-7c51-7a2b-9d44-3e5f60718293",
                "accepted": 5,
                "server_time": w.now_ms,
                "flush": {"events": 50, "seconds": 300, "lease_seconds": 21_600},
            }
        ),
    }
    for say in strangers.values():
        w.gateway.answers = [say]
        await w.phone.flush()
        await w.later(2 * _HOUR)
    await w.phone.flush()
    _all_there(w, numbers)


@ROWS.row("A7", "the reply's flush policy rules: that many events are sent without being asked")
async def follows_the_policy(w: World) -> None:
    """The server holds the fleet to its budget with this."""
    w.gateway.flush = Flush(events=5, seconds=3600, lease_seconds=21_600)
    await w.launch()
    await w.phone.process.call("foreground")
    await w.phone.flush()
    count = len(w.gateway.arrived)
    numbers = await w.phone.decide(4)
    require(len(w.gateway.arrived) == count, "four events were sent where five are the policy")
    numbers += await w.phone.decide(1)
    require(await until(lambda: len(w.gateway.arrived) > count), "the fifth event sent nothing")
    await until(lambda: len(w.gateway.stored) > count)
    _all_there(w, numbers)


@ROWS.row("A8", "the app goes to the background: what waits is sent, however little")
async def sends_in_the_background(w: World) -> None:
    """The system may never let it run again."""
    await w.launch()
    await w.phone.flush()
    numbers = await w.phone.decide(1)
    await w.phone.process.call("background")
    _all_there(w, numbers)


@ROWS.row("A9", "killed after a prediction was answered: its event is not lost, and not sent twice")
async def loses_nothing_to_a_kill(w: World) -> None:
    """What the app was told is recorded before it was told."""
    await w.launch()
    numbers = await w.phone.decide(10)
    await w.kill()
    await w.launch()
    numbers += await w.phone.decide(10)
    await w.phone.flush()
    _all_there(w, numbers)


@ROWS.row("A10", "what is installed is not downloaded again, however often the app asks and starts")
async def downloads_once(w: World) -> None:
    """The copied sample downloads at every check: at five million users $1,580 a day instead of $450 once."""
    await w.launch()
    await w.install(42)
    for _ in range(5):
        await w.later(7 * _HOUR)
        await w.phone.flush()
        await w.relaunch()
    await w.expect(42, "after five flushes and five starts")
    require(w.gateway.fetched() == 1, f"one release cost {w.gateway.fetched()} downloads")


def _all_there(w: World, numbers: list[int]) -> None:
    """Require that exactly these predictions are stored, each once."""
    sent = sorted(event["id"] for event in w.gateway.events("prediction"))
    require(sent == sorted(numbers), f"predictions {sorted(numbers)} were made, {sent} arrived")
