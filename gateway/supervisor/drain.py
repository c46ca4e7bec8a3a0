"""Let requests in work end before the server is closed.

* aiohttp's own shutdown first stops reading from every connection (`RequestHandler.data_received`, 3.14), so a body
  that is still arriving would never be answered. Here the requests in work are counted and waited for before that.
* Meanwhile every answer closes its connection, so that a device that keeps its connection open cannot hold up the end.
"""

import asyncio
from contextlib import suppress

from aiohttp import web
from aiohttp.typedefs import Handler


class Drain:
    """Counts the requests in work of one application; `middleware` stands outermost in it."""

    def __init__(self) -> None:
        self._in_work = 0
        self._leaving = False
        self._idle = asyncio.Event()
        self._idle.set()

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count a request while it is in work."""
        self._in_work += 1
        self._idle.clear()
        try:
            response = await handler(request)
            if self._leaving:
                response.force_close()
            return response
        finally:
            self._in_work -= 1
            if not self._in_work:
                self._idle.set()

    async def finish(self, within_seconds: float) -> None:
        """Return when no request is in work, or after that time."""
        self._leaving = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), within_seconds)
