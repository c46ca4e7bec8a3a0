"""Stand before aiohttp and take in batches that come whole: its machinery costs them a sixth of all that they cost.

* Only what `whole_request` reads is answered here. At the first request that is strange, or does not come whole within
  a second, the connection is given to aiohttp with all its bytes and stays there. So nothing is judged in two ways.
* One request at a time: what comes before the answer waits, in the kernel but for one read.
* Bytes of a request that is not whole yet count as in flight.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, cast

from gateway.admission import InFlight
from gateway.answer import json_answer, problem_answer
from gateway.boundary import failure_of
from gateway.metrics import Metrics
from gateway.problems import SlowDown
from gateway.whole_request import PATH, Unread, Whole, read

# Above the idle time of most load balancers (60 s), so that they and not we end a connection that is used no more.
IDLE_SECONDS: Final = 75.0
_PATIENCE_SECONDS: Final = 1.0

Take = Callable[[Whole], bytes | Awaitable[bytes]]


class Front:
    """All connections that aiohttp has not been given. `take` returns a reply's JSON, or waits for it, or raises."""

    def __init__(
        self, take: Take, metrics: Metrics, in_flight: InFlight, *, idle_seconds: float = IDLE_SECONDS
    ) -> None:
        self.take = take
        self.metrics = metrics
        self.in_flight = in_flight
        self.idle_seconds = idle_seconds
        self.connections: set[Connection] = set()
        self.leaving = False

    def meet(self, usual: Callable[[], asyncio.Protocol]) -> asyncio.Protocol:
        """Return the protocol of a new connection; `usual` makes aiohttp's for when it is not for here."""
        return Connection(self, usual)

    async def finish(self, within_seconds: float) -> None:
        """Let the requests in work end, for so long at most, and close all connections."""
        self.leaving = True
        loop = asyncio.get_running_loop()
        end = loop.time() + within_seconds
        while in_work := [each.task for each in self.connections if each.task is not None]:
            if loop.time() >= end:
                break
            await asyncio.wait(in_work, timeout=end - loop.time())
        for connection in list(self.connections):
            connection.close()


class Connection(asyncio.Protocol):
    """One connection, until aiohttp gets it."""

    def __init__(self, front: Front, usual: Callable[[], asyncio.Protocol]) -> None:
        self.task: asyncio.Task[None] | None = None
        self._front = front
        self._usual = usual
        self._loop = asyncio.get_running_loop()
        self._used_at = self._loop.time()
        self._transport: asyncio.Transport
        self._idle_timer: asyncio.TimerHandle
        self._early = b""
        self._hold = front.in_flight.hold()
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._idle_timer = self._loop.call_later(self._front.idle_seconds, self._close_idle)
        self._front.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def pause_writing(self) -> None:
        """Read nothing from a device that does not read its answers."""
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if self.task is not None:
            self._early += data
            self._transport.pause_reading()
            return
        if self._early:
            data = self._early + data
        request = read(data)
        if isinstance(request, Whole):
            if self._early:
                self._forget_early()
            self._take(request)
        elif request is Unread.STRANGE or not self._keep(data):
            self._give_away(data)

    def close(self) -> None:
        """Hang up."""
        self._transport.close()

    def _take(self, request: Whole) -> None:
        try:
            reply = self._front.take(request)
        except Exception as error:  # the boundary: nothing may pass unanswered
            self._fail(error)
        else:
            if isinstance(reply, bytes):
                self._answer(reply)
            else:
                self.task = self._loop.create_task(self._answer_later(reply))

    async def _answer_later(self, reply: Awaitable[bytes]) -> None:
        try:
            body = await reply
        except Exception as error:  # the boundary
            self._fail(error)
        else:
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        self._write(json_answer(body, closing=self._front.leaving), 200, "")

    def _fail(self, error: Exception) -> None:
        self._write(*problem_answer(failure_of(error), closing=self._front.leaving))

    def _write(self, answer: bytes, status: int, code: str) -> None:
        front = self._front
        self.task = None
        front.metrics.answered(PATH, status, code)
        if self._transport.is_closing():
            return
        self._transport.write(answer)
        self._used_at = self._loop.time()
        if front.leaving:
            self.close()
        elif self._early:
            self._transport.resume_reading()
            self._give_away(self._early)

    def _keep(self, data: bytes) -> bool:
        """Wait for the rest; say whether there is room for what is here."""
        try:
            self._hold.grow(len(data) - len(self._early))
        except SlowDown:
            return False
        self._early = data
        if self._patience is None:
            self._patience = self._loop.call_later(_PATIENCE_SECONDS, self._lose_patience)
        return True

    def _lose_patience(self) -> None:
        if not self._transport.is_closing():
            self._give_away(self._early)

    def _forget_early(self) -> None:
        self._early = b""
        self._hold.release()
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_away(self, data: bytes) -> None:
        self._leave()
        usual = self._usual()
        self._transport.set_protocol(usual)
        usual.connection_made(self._transport)
        usual.data_received(data)

    def _leave(self) -> None:
        self._idle_timer.cancel()
        self._forget_early()
        self._front.connections.discard(self)

    def _close_idle(self) -> None:
        due = self._used_at + self._front.idle_seconds
        if self.task is None and due <= self._loop.time():
            self.close()
        else:
            later = max(due, self._loop.time() + 1.0)
            self._idle_timer = self._loop.call_at(later, self._close_idle)
