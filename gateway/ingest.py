"""Take a batch: admit, decode, decide, publish, reply.

* 200 is sent only after the log has the batch and a dead letter for each refused event, in one step.
* A batch without events has nothing to lose: it is answered at once, and published behind its answer (`checks`).
* A body that is no batch is in the dead letters before the device hears 400 and drops it.
* Nothing else here does I/O; no decoded event lives while it is awaited.
* Events end as accepted or refused in one place, `Metrics.settle`, and only once they are durable.
* Tried and not kept, of 70 microseconds that a batch of 50 events takes without its sockets: to end a request that
  waits by a callback instead of in a task wins 2; to publish what comes in one turn of the event loop as one wins 4
  where 32 come at once, nothing where 8 do, and loses 4 where 2 do.
"""

import base64
import random
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final

import msgspec
from aiohttp import web
from msgspec import UNSET, Struct

from gateway.admission import Admitted, Gate, InFlight, head_of
from gateway.answer import JsonAnswer
from gateway.checks import Checks
from gateway.decode import Caps, decode
from gateway.flush import FlushControl
from gateway.letters import event_letters
from gateway.metrics import Metrics
from gateway.problems import MalformedBody, ServiceUnavailable, SlowDown, UnknownKey, spread
from gateway.publish import Sink, Unavailable
from gateway.releases.decide import Decision, decide
from gateway.releases.snapshot import SnapshotKeeper
from gateway.whole_request import Head, Whole
from schemas.records import BatchHeaders, DeadLetter, Record, batch_record, dead_letter_record
from schemas.wire import Refusal, Reply

_reply: Final = msgspec.json.Encoder()


class Taken(Struct, frozen=True):
    """What is left of a batch once its events are gone: the records to publish and what the reply says."""

    records: list[Record]
    batch: str
    events: int
    refusals: list[Refusal]
    decision: Decision


class Ingest:
    """What is at the end of `POST /v1/batches`, on both ways to it."""

    def __init__(
        self,
        *,
        caps: Caps,
        flush: FlushControl,
        gateway_name: str,
        gate: Gate,
        in_flight: InFlight,
        sink: Sink,
        checks: Checks,
        snapshots: SnapshotKeeper,
        metrics: Metrics,
        clock: Callable[[], int],
        dice: random.Random,
    ) -> None:
        self._caps = caps
        self._flush = flush
        self._gateway_name = gateway_name
        self._gate = gate
        self._in_flight = in_flight
        self._sink = sink
        self._checks = checks
        self._snapshots = snapshots
        self._metrics = metrics
        self._clock = clock
        self._dice = dice

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a batch that aiohttp reads. Raises `RequestFailed`."""
        admitted = await self._admitted(head_of(request))
        with self._in_flight.hold() as hold:
            body = await self._gate.read(request, hold)
        reply = self._reply(admitted, body)
        return JsonAnswer(reply if isinstance(reply, bytes) else await reply)

    def take(self, request: Whole) -> bytes | Awaitable[bytes]:
        """Return the reply to a batch that has come whole, or what waits for it. Raises `RequestFailed`."""
        try:
            admitted = self._gate.admit(request.head)
        except UnknownKey:
            return self._take_after_all(request)
        self._keep_to_budget()
        return self._reply(admitted, request.body)

    async def _take_after_all(self, request: Whole) -> bytes:
        reply = self._reply(await self._admitted(request.head), request.body)
        return reply if isinstance(reply, bytes) else await reply

    async def _admitted(self, head: Head) -> Admitted:
        try:
            admitted = self._gate.admit(head)
        except UnknownKey:
            admitted = await self._gate.admit_after_all(head)
        self._keep_to_budget()
        return admitted

    def _reply(self, admitted: Admitted, body: bytes) -> bytes | Awaitable[bytes]:
        """Decode, decide, publish and return the reply's JSON, or what waits until the log has the batch."""
        received_at = self._clock()
        try:
            taken = self._take(admitted, body, received_at)
        except MalformedBody as malformed:
            malformed.forget_frames()
            return self._refuse(_body_letter(admitted, body, received_at, malformed.reason), malformed)
        if not taken.events and self._checks.take(taken.records[0]):
            return self._reply_to(taken)
        return self._reply_once_durable(taken)

    async def _refuse(self, letter: Record, malformed: MalformedBody) -> bytes:
        try:
            await self._publish([letter])
            raise malformed
        finally:
            del malformed  # its traceback has this frame: the two would wait for the garbage collector

    async def _reply_once_durable(self, taken: Taken) -> bytes:
        await self._publish(taken.records)
        self._metrics.settle(taken.events, taken.refusals)
        return self._reply_to(taken)

    def _keep_to_budget(self) -> None:
        """Count the request, and refuse it if it is of the share that the budget has no room for. Raises `SlowDown`."""
        flush = self._flush
        flush.arrived += 1
        if flush.refused_share and self._dice.random() < flush.refused_share:
            flush.refused += 1
            raise SlowDown("more requests come than are budgeted", spread(flush.wait_seconds, self._dice.random()))

    def _take(self, admitted: Admitted, body: bytes, received_at: int) -> Taken:
        """Decode and decide: one step without an await, so that its objects are gone before the next."""
        began = perf_counter()
        decoded = decode(body, admitted.encoding, self._caps)
        self._metrics.decode_seconds.observe(perf_counter() - began)
        models = self._snapshots.current.apps.get(admitted.app, {})
        decision = decide(models, decoded.envelope)
        about = BatchHeaders(
            app=admitted.app,
            content_encoding=admitted.encoding,
            received_at=received_at,
            gateway=self._gateway_name,
            batch=decoded.envelope.batch,
            events=decoded.events,
            refused=tuple(refused.refusal.index for refused in decoded.refused),
            offer=decision.told,
        )
        return Taken(
            records=[
                batch_record(decoded.envelope.device, body, about),
                *(event_letters(about, decoded) if decoded.refused else ()),
            ],
            batch=decoded.envelope.batch,
            events=decoded.events,
            refusals=[refused.refusal for refused in decoded.refused],
            decision=decision,
        )

    async def _publish(self, records: list[Record]) -> None:
        """Return when the records are durable. Raises `ServiceUnavailable`."""
        began = perf_counter()
        with self._in_flight.hold() as hold:
            hold.grow(len(records[0].value))
            try:
                await self._sink.publish(records)
            except Unavailable as error:
                wait_seconds = spread(error.retry_after_seconds, self._dice.random())
                raise ServiceUnavailable("the log takes nothing now", wait_seconds) from error
        self._metrics.publish_seconds.observe(perf_counter() - began)

    def _reply_to(self, taken: Taken) -> bytes:
        decision = taken.decision
        return _reply.encode(
            Reply(
                batch=taken.batch,
                accepted=taken.events - len(taken.refusals),
                refused=taken.refusals or UNSET,
                server_time=self._clock(),
                flush=self._flush.on_trial if decision.on_trial else self._flush.everyone,
                use=decision.use or UNSET,
                catalogues=decision.catalogues or UNSET,
                inline=decision.inline or UNSET,
            )
        )


def _body_letter(admitted: Admitted, body: bytes, received_at: int, reason: str) -> Record:
    return dead_letter_record(
        DeadLetter(
            app=admitted.app,
            received_at=received_at,
            device=None,
            batch=None,
            index=None,
            reason=reason,
            encoding=admitted.encoding,
            body=base64.b64encode(body).decode(),
        )
    )
