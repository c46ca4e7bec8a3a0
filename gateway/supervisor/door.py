"""The gateway's listening side: how many connections it keeps, and for how long it waits for a request's headers.

* Descriptors are for the log and the store first. A connection above the bound is told 503 and closed, at once: a
  device keeps its batch then, while one that nobody accepts would wait for its own timeout.
* aiohttp's time for an idle connection is also what a sender has to complete its headers; its default is an hour.
"""

import asyncio
import random
import resource
import socket
from typing import Final, cast

from aiohttp import web

from gateway.answer import problem_answer
from gateway.front import Front
from gateway.problems import ServiceUnavailable, spread
from gateway.supervisor.ports import BACKLOG

_MOST_DESCRIPTORS: Final = 16_384
_KEPT_DESCRIPTORS: Final = 256
_RETRY_SECONDS: Final = 10.0


def most_connections() -> int:
    """Raise the limit of open files as far as it may be, and return how many connections fit beside all else."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return max(allowed - _KEPT_DESCRIPTORS, allowed // 2)


class Door(web.SockSite):
    """A site that takes no more connections at a time than told. Batches meet `front` first, where there is one."""

    def __init__(
        self,
        runner: web.AppRunner,
        listening: socket.socket,
        most: int,
        dice: random.Random,
        front: Front | None = None,
    ) -> None:
        super().__init__(runner, listening, backlog=BACKLOG)
        self._most = most
        self._dice = dice
        self._front = front

    async def start(self) -> None:
        """Accept connections. As `web.SockSite.start`, with our choice of protocol for each."""
        await web.BaseSite.start(self)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, sock=self._sock, backlog=self._backlog)

    def _protocol(self) -> asyncio.BaseProtocol:
        server, front = self._runner.server, self._front
        met = len(front.connections) if front is not None else 0
        if server is None or len(server.connections) + met >= self._most:
            return _Full(spread(_RETRY_SECONDS, self._dice.random()))
        return server() if front is None else front.meet(server)


class _Full(asyncio.Protocol):
    """Says that there is no room, and hangs up."""

    def __init__(self, retry_after_seconds: int) -> None:
        self._failed = ServiceUnavailable("there are too many connections here", retry_after_seconds)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none of asyncio's classes, so an `isinstance` would not know them.
        cast("asyncio.WriteTransport", transport).write(problem_answer(self._failed, closing=True)[0])
        transport.close()
