"""aiohttp alone: reads the body and answers a constant, on uvloop and without an access log, as our gateway runs."""

import gc
import os

import uvloop
from aiohttp import web

_ANSWER = b'{"accepted":%s}'


async def answer(request: web.Request) -> web.Response:
    """Read all of the body and say what the load generator wants to hear."""
    await request.read()
    return web.Response(body=_ANSWER % os.environb[b"EVENTS"], content_type="application/json")


def main() -> None:
    """Serve until SIGTERM."""
    app = web.Application(handler_args={"auto_decompress": False})
    app.add_routes([web.post("/v1/batches", answer)])
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    uvloop.install()
    web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=None, print=None)


if __name__ == "__main__":
    main()
