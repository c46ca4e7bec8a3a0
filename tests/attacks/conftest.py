"""An attacker's world: a real publisher and real devices, and between them a gateway and a CDN that lie as told."""

import gzip
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.client import Bundled, Client, Limits
from gateway.client.runtimes.coreml import CoreMLRuntime
from gateway.releases.apps import create_app
from gateway.releases.documents import CATALOGUES, Series, newest
from gateway.releases.keylists import next_keys, write_keys
from gateway.releases.keys import key_name, public_bytes, sign
from gateway.releases.publish import publish_release
from gateway.releases.rules import read_catalogue
from gateway.releases.store import Store
from schemas.releases import KEYS_CONTEXT, Catalogue, Parameters
from schemas.wire import Batch, CatalogueNews, Flush, Reply, Signature, SignedKeys, Use

MODELS: Final = Path(__file__).resolve().parents[1] / "models"
SIGNALS: Final = ("battery_level", "charging", "session_seconds", "items_viewed")
NOW_MS: Final = 1_795_334_400_000
DAY_MS: Final = 86_400_000


class SetClock:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.ms = NOW_MS

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.ms / 1000

    async def sleep(self, seconds: float) -> None:
        if seconds > 0:
            raise AssertionError("nothing here waits")


class Publisher:
    """The honest side: a store, root keys, release keys."""

    def __init__(self) -> None:
        self.store = Store.open("memory://")
        self.keys = {name: Ed25519PrivateKey.generate() for name in ("root1", "root2", "release", "next", "attacker")}

    def public(self, name: str) -> bytes:
        return public_bytes(self.keys[name])

    async def app(self, name: str) -> None:
        await create_app(self.store, name, NOW_MS)

    async def publish(
        self, file: int | Path, *, app: str = "shop", model: str = "upsell", key: str = "root1", **terms: Any
    ) -> CatalogueNews:
        """Publish a file, or one of the two example models, as the next release; return the catalogue."""
        path = file if isinstance(file, Path) else MODELS / f"upsell-{file}.mlmodel"
        await publish_release(
            self.store,
            **{"app": app, "model": model, "file": path, "sdk": "", "now_ms": NOW_MS, **terms},
            signing_key=self.keys[key],
            trusted=[self.public(name) for name in self.keys],
        )
        return await self.news(app, model)

    async def news(self, app: str = "shop", model: str = "upsell") -> CatalogueNews:
        """Return the newest catalogue as it travels."""
        found = await newest(self.store, Series(CATALOGUES, app, model))
        assert found is not None
        signed, _ = read_catalogue(found[1], app, model, found[0])
        return CatalogueNews(signed.document, signed.signatures)

    async def list_keys(self, *names: str, signers: Sequence[str] = ("root1",), **terms: Any) -> SignedKeys:
        """Write the next key list; only these names are on it."""
        roots = [self.public(name) for name in ("root1", "root2")]
        known = {key_name(self.public(name)) for name in self.keys}
        wanted = {key_name(self.public(name)) for name in names}
        plain: dict[str, Any] = {"threshold": None, "expires_in_days": 365, "now_ms": NOW_MS}
        document = await next_keys(
            self.store,
            terms.pop("app", "shop"),
            roots=roots,
            add=[self.public(name) for name in self.keys if name in names or not name.startswith("root")],
            remove={name for name in known - wanted if name not in {key_name(root) for root in roots}},
            **{**plain, **terms},
        )
        signatures = [sign(self.keys[name], document, KEYS_CONTEXT) for name in signers]
        await write_keys(self.store, document, signatures, roots)
        return SignedKeys(document, signatures)

    def signed(self, key: str, document: bytes, context: bytes, *, named: str = "") -> list[Signature]:
        """Sign anything with any key, under its own name or another's."""
        made = sign(self.keys[key], document, context)
        return [Signature(key_name(self.public(named)) if named else made.key, made.sig)]


def changed(news: CatalogueNews, **changes: Any) -> bytes:
    """Return a catalogue's bytes with some of it changed."""
    catalogue = msgspec.json.decode(news.document, type=Catalogue)
    return msgspec.json.encode(msgspec.structs.replace(catalogue, **changes))


Say = Callable[[Batch], "Reply | bytes | web.StreamResponse"]


class Hostile:
    """The gateway and the CDN: they say and serve what the test tells them to."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self.news: dict[str, CatalogueNews] = {}
        self.use: dict[str, Use] = {}
        self.inline: dict[str, bytes] = {}
        self.say: Say = self.honest
        self.now_ms: Callable[[], int] = lambda: NOW_MS
        self.serve: Callable[[web.Request, bytes], Any] | None = None
        self.batches: list[Batch] = []
        self.replies: list[bytes] = []
        self.fetched: list[str] = []

    def honest(self, batch: Batch) -> Reply:
        return Reply(
            batch=batch.batch,
            accepted=len(batch.events),
            server_time=self.now_ms(),
            flush=Flush(50, 300, 21_600),
            use=self.use,
            catalogues=self.news,
            inline=self.inline,
        )

    def reported(self) -> list[tuple[int, str, str]]:
        """Return (release, state, detail) of every model event that came."""
        events = [msgspec.to_builtins(event) for batch in self.batches for event in batch.events]
        return [(e["release"], e["state"], e.get("detail", "")) for e in events if e["type"] == "model"]

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/batches", self._post)
        app.router.add_get("/artifacts/{sha256}", self._get)
        return app

    async def _post(self, request: web.Request) -> web.StreamResponse:
        batch = msgspec.json.decode(gzip.decompress(await request.read()), type=Batch)
        self.batches.append(batch)
        said = self.say(batch)
        if isinstance(said, web.StreamResponse):
            return said
        body = said if isinstance(said, bytes) else msgspec.json.encode(said)
        self.replies.append(body)
        return web.Response(body=body, content_type="application/json")

    async def _get(self, request: web.Request) -> web.StreamResponse:
        path = f"artifacts/{request.match_info['sha256']}"
        self.fetched.append(path)
        data = await self.publisher.store.get(path)
        if self.serve is not None:
            response: web.StreamResponse = await self.serve(request, data)
            return response
        return web.Response(body=data)


class World:
    """One device between an honest publisher and a hostile network."""

    def __init__(
        self, publisher: Publisher, hostile: Hostile, url: str, directory: Path, stack: AsyncExitStack
    ) -> None:
        self.publisher = publisher
        self.hostile = hostile
        self.clock = SetClock()
        hostile.now_ms = self.clock.now_ms
        self._url = url
        self.directory = directory
        self._stack = stack

    async def device(self, *, roots: Sequence[str] = ("root1",), threshold: int = 1, **options: Any) -> Client:
        bundle = Bundled(1, MODELS / "upsell-1.mlmodel", Parameters(), SIGNALS[:2], SIGNALS)
        client = Client(
            "shop.secret",
            self._url,
            [self.publisher.public(name) for name in roots],
            **{
                "directory": self.directory,
                "bundled": {"upsell": bundle},
                "runtime": CoreMLRuntime(),
                "clock": self.clock,
                "dice": random.Random(3),  # noqa: S311 - spreads and explores, guards nothing
                "limits": Limits(jitter_seconds=0.0, backoff_first_seconds=0.0, backoff_last_seconds=0.0),
                **options,
            },
            root_threshold=threshold,
        )
        return await self._stack.enter_async_context(client)

    def offers(self, news: CatalogueNews, use: Use, model: str = "upsell") -> None:
        self.hostile.news[model], self.hostile.use[model] = news, use


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    publisher = Publisher()
    await publisher.app("shop")
    hostile = Hostile(publisher)
    async with AsyncExitStack() as stack:
        server = TestServer(hostile.app())
        await server.start_server(auto_decompress=False)
        stack.push_async_callback(server.close)
        yield World(publisher, hostile, str(server.make_url("/")), tmp_path / "device", stack)


@pytest.fixture
def running() -> Callable[[Client], tuple[str, int]]:
    """Return a function that says what decides on a device: (where it came from, its release)."""

    def said(client: Client) -> tuple[str, int]:
        standing = client.status().models["upsell"]
        predicted = client.predict("upsell", dict.fromkeys(SIGNALS, 0.5))
        assert (predicted.source, predicted.release) == (standing.source, standing.release)
        return standing.source, standing.release

    return said


@pytest.fixture
def catalogue_with() -> Callable[..., bytes]:
    return changed


@pytest.fixture
def digest() -> Callable[[int], str]:
    return lambda number: sha256((MODELS / f"upsell-{number}.mlmodel").read_bytes()).hexdigest()
