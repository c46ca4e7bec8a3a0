"""Put the gateway together: its routes and their parts.

* Every part gets what it needs here; nothing is global, so several gateways can live in one process.
* Run it with `auto_decompress=False`: bodies go to the log as they were sent, and `decode` inflates under its own cap.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Final, Protocol

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from gateway.admission import READ_SECONDS, Gate, InFlight
from gateway.artifacts import Artifacts
from gateway.boundary import Boundary
from gateway.checks import Checks
from gateway.decode import Caps
from gateway.fellows import OF_ONE, Fellows
from gateway.flush import FlushControl
from gateway.front import Front
from gateway.ingest import Ingest
from gateway.metrics import CONTENT_TYPE, Metrics, Stalls
from gateway.openapi import openapi
from gateway.publish import Sink
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store
from gateway.whole_request import PATH as BATCHES_PATH
from schemas.wire import Flush

log: Final = logging.getLogger(__name__)

# What may stand before the application: see `front`.
FRONT: Final = web.AppKey[Front]("front")
# Of the bytes that may be in work: what update checks may have on their way to the log, answered already.
_CHECKS_SHARE: Final = 1 / 4
# Of the bytes that may wait for the log: what of them goes to it as one.
_TOGETHER_SHARE: Final = 1 / 4
# Of the grace: what a stop may wait for the log to have them.
_FINISH_SHARE: Final = 0.02
_CONTROL_SECONDS: Final = 1.0
_LEAST_CONTROL_SECONDS: Final = 0.02


class GatewaySettings(Protocol):
    """What a gateway reads of the configuration."""

    @property
    def name(self) -> str: ...
    @property
    def body_max_bytes(self) -> int: ...
    @property
    def inflated_max_bytes(self) -> int: ...
    @property
    def batch_max_events(self) -> int: ...
    @property
    def inflight_max_bytes(self) -> int: ...
    @property
    def log_pending_max_bytes(self) -> int: ...
    @property
    def kafka_pending_max_bytes(self) -> int: ...
    @property
    def flush_events(self) -> int: ...
    @property
    def flush_seconds(self) -> int: ...
    @property
    def lease_seconds(self) -> int: ...
    @property
    def rollout_lease_seconds(self) -> int: ...
    @property
    def flush_budget_requests_per_second(self) -> float: ...
    @property
    def grace_seconds(self) -> float: ...


def now_ms() -> int:
    """Read the wall clock, in epoch milliseconds."""
    return time.time_ns() // 1_000_000


def create_app(
    settings: GatewaySettings,
    *,
    sink: Sink,
    snapshots: SnapshotKeeper,
    store: Store,
    clock: Callable[[], int] = now_ms,
    dice: random.Random | None = None,
    read_seconds: float = READ_SECONDS,
    pressure: Callable[[], float] = lambda: 0.0,
    pace: float = 1.0,
    fellows: Fellows | None = None,
    beside: Callable[[], Awaitable[bytes]] | None = None,
) -> web.Application:
    """Build the application. It owns none of its ports: whoever opened the sink and the snapshots closes them.

    `pressure` says how urgently devices should flush less often: 0 not at all, 1 the sink is nearly full. `fellows` are
    the other workers that answer with this one, where there are any. `beside` returns what `/metrics` shows after all
    of them: the numbers of a process that is no gateway.
    `pace` is how much faster than this machine's clock the devices live, where they do: the flush budget is in their
    seconds.
    """
    dice = dice or random.Random()  # noqa: S311 - spreads devices over time; nothing secret hangs on it
    metrics, stalls, artifacts = Metrics(), Stalls(), Artifacts(store)
    in_flight = InFlight(settings.inflight_max_bytes, dice)
    checks = _checks(settings, sink)
    flush = _flush(settings)
    ingest = Ingest(
        caps=Caps(settings.inflated_max_bytes, settings.batch_max_events),
        flush=flush,
        gateway_name=settings.name,
        gate=Gate(snapshots, in_flight, settings.body_max_bytes, read_seconds),
        in_flight=in_flight,
        sink=sink,
        checks=checks,
        snapshots=snapshots,
        metrics=metrics,
        clock=clock,
        dice=dice,
    )
    _watch(metrics, in_flight, snapshots, stalls, artifacts, flush, checks, sink)

    app = web.Application(middlewares=[Boundary(metrics).middleware])
    app[FRONT] = Front(ingest.take, metrics, in_flight)
    app.on_cleanup.append(lambda _: checks.finish(settings.grace_seconds * _FINISH_SHARE))
    app.cleanup_ctx.extend([_beside(stalls.observe), _beside(lambda: _control(flush, pressure, pace))])
    app.add_routes(_routes(ingest, artifacts))
    app.add_routes([web.get("/readyz", _readyz(sink, snapshots, fellows))])
    app.add_routes([web.get("/metrics", _metrics(metrics, fellows, beside))])
    return app


def _routes(ingest: Ingest, artifacts: Artifacts) -> list[web.RouteDef]:
    return [
        web.post(BATCHES_PATH, ingest.handle, expect_handler=_continue_later),
        web.get("/artifacts/{sha256}", artifacts.handle),
        web.get("/openapi.json", _openapi()),
        web.get("/healthz", _healthz),
    ]


def _checks(settings: GatewaySettings, sink: Sink) -> Checks:
    may_wait_bytes = min(settings.log_pending_max_bytes, settings.kafka_pending_max_bytes)
    max_bytes = int(settings.inflight_max_bytes * _CHECKS_SHARE)
    return Checks(sink, max_bytes, together_max_bytes=int(may_wait_bytes * _TOGETHER_SHARE))


def _flush(settings: GatewaySettings) -> FlushControl:
    return FlushControl(
        Flush(settings.flush_events, settings.flush_seconds, settings.lease_seconds),
        settings.rollout_lease_seconds,
        settings.flush_budget_requests_per_second,
    )


def _watch(
    metrics: Metrics,
    in_flight: InFlight,
    snapshots: SnapshotKeeper,
    stalls: Stalls,
    artifacts: Artifacts,
    flush: FlushControl,
    checks: Checks,
    sink: Sink,
) -> None:
    """Show what the parts know about themselves, read when somebody asks."""
    metrics.watch("lost_checks", "update checks answered that the log did not confirm", lambda: checks.lost)
    metrics.watch_all("sink", sink.gauges)
    metrics.watch("in_flight_bytes", "bytes of bodies in work", lambda: in_flight.bytes)
    metrics.watch("snapshot_age_seconds", "since the store was last read", lambda: snapshots.age_seconds)
    metrics.watch("damaged_documents", "documents in the store that cannot be used", lambda: len(snapshots.damaged))
    metrics.watch("loop_stall_seconds", "longest wait for the event loop, last minutes", stalls.longest_seconds)
    metrics.watch("artifacts_kept_bytes", "artifacts held in memory", lambda: artifacts.kept.bytes)
    metrics.watch("batches_per_second", "batches sent by devices, last minute", lambda: flush.rate_per_second)
    metrics.watch("refused_share", "part of the batches that the flush budget refuses", lambda: flush.refused_share)
    metrics.watch("told_flush_seconds", "the flush interval that replies carry", lambda: flush.everyone.seconds)


async def _continue_later(_: web.Request) -> None:
    """Answer no `Expect: 100-continue` yet: the body is asked for only once its headers are judged."""


def _beside(work: Callable[[], Coroutine[None, None, None]]) -> Callable[[web.Application], AsyncIterator[None]]:
    """Run something for as long as the application does."""

    async def run(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(work())
        yield
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    return run


async def _control(flush: FlushControl, pressure: Callable[[], float], pace: float) -> None:
    """Tick the flush control until cancelled."""
    before = time.monotonic()
    while True:
        await asyncio.sleep(max(_CONTROL_SECONDS / pace, _LEAST_CONTROL_SECONDS))
        now = time.monotonic()
        try:
            flush.tick((now - before) * pace, pressure())
        except Exception:  # the loop's boundary: without a tick the policy would stay as it is for ever
            log.exception("the flush control failed")
        before = now


def _json(value: object, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")


async def _healthz(_: web.Request) -> web.Response:
    return _json({"status": "ok"})


def _readyz(sink: Sink, snapshots: SnapshotKeeper, fellows: Fellows | None) -> Handler:
    async def readyz(request: web.Request) -> web.Response:
        trouble = {"sink": sink.trouble(), "snapshots": snapshots.trouble()}
        if fellows and request.query != OF_ONE:
            trouble |= await fellows.trouble()
        # Batches are taken and decided on by the last good snapshot while the store is away: gateways that all left
        # their balancer at once would take the telemetry along. So it is said, with the age, and ends no readiness;
        # nor do damaged documents, before which something good is in force. `doctor` names both.
        ready = not any(reason for part, reason in trouble.items() if part != "snapshots")
        about = {"damaged_documents": len(snapshots.damaged), "snapshot_age_seconds": round(snapshots.age_seconds, 3)}
        return _json({"ready": ready, "trouble": trouble, **about}, 200 if ready else 503)

    return readyz


def _metrics(metrics: Metrics, fellows: Fellows | None, beside: Callable[[], Awaitable[bytes]] | None) -> Handler:
    async def exposition(request: web.Request) -> web.Response:
        text = metrics.exposition()
        if request.query != OF_ONE:
            text = await fellows.metrics(text) if fellows else text
            text += await beside() if beside is not None else b""
        return web.Response(body=text, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})

    return exposition


def _openapi() -> Handler:
    document = openapi()

    async def describe(_: web.Request) -> web.Response:
        return web.Response(body=document, content_type="application/json")

    return describe
