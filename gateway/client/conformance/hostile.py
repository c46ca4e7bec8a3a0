"""The gateway and the CDN that the kit plays: honest by the contract, unless a row tells them to lie.

* What arrives is judged as a real gateway would: a body that is not of the contract fails the row.
* Each batch is stored once, as the warehouse stores it, so that loss and doubles show.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from msgspec import Struct

from gateway.client.conformance.publisher import MODEL, Publisher
from gateway.decode import Caps, decode
from gateway.problems import RequestFailed
from schemas.encoding import inflate
from schemas.releases import Catalogue
from schemas.wire import Batch, CatalogueNews, Flush, Problem, Reply, Use

Say = Callable[[Batch], web.StreamResponse]
Serve = Callable[[web.Request, bytes], Awaitable[web.StreamResponse]]
_CAPS: Final = Caps(inflated_max_bytes=8 * 1024 * 1024, batch_max_events=1000)
_batch: Final = msgspec.json.Decoder(Batch)
TAG: Final = '"first"'


class Fetch(Struct, frozen=True):
    """A request for an artifact."""

    path: str
    range: str
    if_range: str


class Arrived(Struct, frozen=True):
    """A batch as it came, and when by the kit's monotonic clock."""

    batch: Batch
    authorization: str
    at: float


class Hostile:
    """One row's gateway and CDN."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self.server_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
        self.flush = Flush(events=50, seconds=300, lease_seconds=21_600)
        self.news: CatalogueNews | None = None
        self.use: Use | None = None
        self.insists = False  # sends the news also to who has them
        self.answers: list[Say | None] = []
        self.replies_to_lose = 0
        self.before_answer: Callable[[Batch], Awaitable[None]] | None = None
        self.serve: Serve | None = None
        self.arrived: list[Arrived] = []
        self.stored: dict[str, Batch] = {}
        self.fetches: list[Fetch] = []
        self.breaches: list[str] = []
        self._asking, self._asked_at = 0, 0.0

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**26, middlewares=[self._watch])
        app.router.add_post("/v1/batches", self._post)
        app.router.add_get("/artifacts/{digest}", self._get)
        app.router.add_get("/latest.json", self._latest)
        app.router.add_route("*", "/{elsewhere:.*}", self._elsewhere)
        return app

    def offer(self, news: CatalogueNews, use: Use | None) -> None:
        """Publish, and tell every device what to use."""
        self.news, self.use = news, use

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return every stored event of a type, in the order of the batches."""
        batches = sorted(self.stored.values(), key=lambda batch: batch.seq)
        return [each for batch in batches for each in map(msgspec.to_builtins, batch.events) if each["type"] == kind]

    def steps(self, release: int) -> list[tuple[str, str]]:
        """Return (state, detail) of everything that was reported of a release; 0 is what no release was blamed for."""
        return [(e["state"], e.get("detail", "")) for e in self.events("model") if e["release"] == release]

    def fetched(self, path: str | None = None) -> int:
        """Count the requests for an artifact, or for any."""
        return sum(path is None or fetch.path == f"/{path}" for fetch in self.fetches)

    def reply(self, batch: Batch, *, use: Use | None = None, news: CatalogueNews | None = None) -> web.Response:
        """Store a batch and answer it as the contract says; `use` and `news` say something else than all hear."""
        self.stored.setdefault(batch.batch, batch)
        have = batch.have.get(MODEL)
        news, use = news or self.news, self.use if use is None else use
        known = 0 if have is None else have.catalogue
        has_news = news is not None and (self.insists or known < _number(news))
        tells = use is not None and (self.insists or have is None or have.use != use)
        reply = Reply(
            batch=batch.batch,
            accepted=len(batch.events),
            server_time=self.server_ms(),
            flush=self.flush,
            use={MODEL: use} if tells and use is not None else msgspec.UNSET,
            catalogues={MODEL: news} if has_news and news is not None else msgspec.UNSET,
        )
        return web.Response(body=msgspec.json.encode(reply), content_type="application/json")

    def quiet(self, seconds: float) -> bool:
        """Say whether nothing is asked, and was not for so long."""
        return not self._asking and time.monotonic() - self._asked_at >= seconds

    @web.middleware
    async def _watch(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._asking += 1
        try:
            return await handler(request)
        finally:
            self._asking -= 1
            self._asked_at = time.monotonic()

    async def _post(self, request: web.Request) -> web.StreamResponse:
        body, encoding = await request.read(), request.headers.get("Content-Encoding", "identity")
        try:
            decoded = decode(body, encoding, _CAPS)
        except RequestFailed as error:
            self.breaches.append(f"a body that no gateway takes: {error.detail}")
            return problem(400, "malformed")(_NO_BATCH)
        self.breaches += [f"an event is refused: {each.refusal.reason}" for each in decoded.refused]
        batch = _NO_BATCH
        if not decoded.refused:
            batch = _batch.decode(inflate(body, encoding, _CAPS.inflated_max_bytes))
        if request.content_type != "application/json":
            self.breaches.append(f"the media type is {request.content_type!r}")
        self.arrived.append(Arrived(batch, request.headers.get("Authorization", ""), time.monotonic()))
        say = self.answers.pop(0) if self.answers else None
        if self.before_answer is not None:
            await self.before_answer(batch)
        answer = self.reply(batch) if say is None else say(batch)
        if self.replies_to_lose and request.transport is not None:
            self.replies_to_lose -= 1
            request.transport.close()
        return answer

    async def _get(self, request: web.Request) -> web.StreamResponse:
        header = request.headers.get
        self.fetches.append(Fetch(request.path, header("Range", ""), header("If-Range", "")))
        if "Authorization" in request.headers:
            self.breaches.append("the app key was sent to the CDN")
        data = self.publisher.artifacts.get(request.match_info["digest"])
        if data is None:
            return web.Response(status=404, text="no such artifact")
        try:
            return await (self.serve or honest)(request, data)
        except ConnectionError:  # the client went away: a row may have meant it to
            return web.Response(status=500)

    async def _latest(self, _: web.Request) -> web.Response:
        """Say where the newest model is, for clients that poll instead of reading replies."""
        if self.news is None or not isinstance(self.use, int):
            return web.Response(status=404)
        releases = msgspec.json.decode(self.news.document, type=Catalogue).releases
        listed = [each for each in releases if each.release == self.use]
        whole = [way.path for each in listed for way in each.downloads if way.encoding == "identity"]
        return web.json_response({"url": f"/{whole[0]}"}) if whole else web.Response(status=404)

    async def _elsewhere(self, request: web.Request) -> web.Response:
        """Play the captive portal, where redirects lead; nothing that matters may come here."""
        if "Authorization" in request.headers:
            self.breaches.append("the app key was sent to a stranger")
        return web.Response(text=PORTAL, content_type="text/html")


PORTAL: Final = "<html>please log in to the hotel's network</html>"
_NO_BATCH: Final = Batch(
    device="00000000-0000-0000-0000-000000000000",
    batch="00000000-0000-0000-0000-000000000000",
    seq=0,
    sent_at=0,
    sdk="0",
    events=[],
)


def problem(status: int, code: str, **headers: str) -> Say:
    """Return an answer that refuses in the contract's words."""
    body = msgspec.json.encode(Problem(title="as told", status=status, code=code, detail="the kit says so"))
    return lambda _: web.Response(status=status, body=body, content_type="application/problem+json", headers=headers)


def portal(_: Batch) -> web.Response:
    """Answer 200 with a page, as a captive portal does."""
    return web.Response(text=PORTAL, content_type="text/html")


async def honest(request: web.Request, data: bytes, tag: str = TAG) -> web.Response:
    """Serve a range as RFC 9110 says."""
    asked, headers = request.headers.get("Range", ""), {"ETag": tag}
    if asked and request.headers.get("If-Range", tag) == tag:
        begin = int(asked.removeprefix("bytes=").partition("-")[0])
        headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        return web.Response(status=206, body=data[begin:], headers=headers)
    return web.Response(body=data, headers=headers)


def stalling(size: int, until: asyncio.Event, reached: asyncio.Event) -> Serve:
    """Serve so many bytes, say so, and no more until something else happens."""

    async def serve(request: web.Request, data: bytes) -> web.StreamResponse:
        response = web.StreamResponse(headers={"ETag": TAG, "Content-Length": str(len(data))})
        await response.prepare(request)
        await response.write(data[:size])
        reached.set()
        await until.wait()
        return response

    return serve


def _number(news: CatalogueNews) -> int:
    try:
        return msgspec.json.decode(news.document, type=Catalogue).number
    except ValueError:
        return 2**53
