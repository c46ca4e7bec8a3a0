"""A consumer's numbers, shown by its own process at `consumer_listen` and fetched by the gateway that runs beside it.

* `/metrics` for Prometheus, `/readyz` with what the consumer waits for, `/healthz` as long as its loop turns.
* Under `backhaul serve` the supervisor holds the socket, so a consumer that is being started again keeps its address.
* A gateway whose consumer does not answer within a second says `backhaul_consumer_up 0` in its place.
"""

import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import msgspec
from aiohttp import web

from consumers.standing import Standing
from gateway.config import Config
from gateway.metrics import CONTENT_TYPE
from gateway.supervisor.ports import listen, url_of

_log = logging.getLogger(__name__)

_FETCH_SECONDS: Final = 1.0
_DOWN: Final = b"""# HELP backhaul_consumer_up whether the consumer answers
# TYPE backhaul_consumer_up gauge
backhaul_consumer_up{consumer="warehouse"} 0.0
"""


@asynccontextmanager
async def showing(standing: Standing, config: Config, held: socket.socket | None) -> AsyncIterator[None]:
    """Show the numbers, at the socket that a supervisor holds or where it is configured. Raises `CannotListen`."""
    if held is None and not config.consumer_listen:
        yield
        return
    listening = held or listen(*config.consumer_address, key="consumer_listen")
    runner = web.AppRunner(_app(standing), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.SockSite(runner, listening).start()
        if held is None:
            _log.info("numbers at %s/metrics", url_of(listening))
        yield
    finally:
        await runner.cleanup()


def numbers_beside(config: Config) -> Callable[[], Awaitable[bytes]]:
    """Return the way to what the consumer of the same supervisor shows; nothing where there is none."""
    shown = config.warehouse == "on" and config.consumer_listen
    url = f"http://{config.consumer_listen}/metrics"

    async def fetch() -> bytes:
        if not shown:
            return b""
        try:
            timeout = aiohttp.ClientTimeout(total=_FETCH_SECONDS)
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url) as reply:
                return await reply.read() if reply.status == 200 else _DOWN
        except (aiohttp.ClientError, OSError):  # a timeout is an OSError
            return _DOWN

    return fetch


def _app(standing: Standing) -> web.Application:
    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=standing.exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def readyz(_: web.Request) -> web.Response:
        trouble = standing.trouble()
        body = msgspec.json.encode({"ready": not trouble, "trouble": trouble})
        return web.Response(body=body, status=503 if trouble else 200, content_type="application/json")

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(body=b'{"status":"ok"}', content_type="application/json")

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/readyz", readyz), web.get("/healthz", healthz)])
    return app
