"""A device's world: a gateway that can be honest or hostile, a publisher, a clock turned by hand, models that fail."""

import asyncio
import gzip
import json
import lzma
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.client import Bundled, Client, Limits
from gateway.client.runtimes import BadModel, PredictionFailed
from gateway.decode import Caps, decode
from schemas.releases import CATALOGUE_CONTEXT, Catalogue, Download, Parameters, Probe, Release
from schemas.wire import Batch, CatalogueNews, Flush, Reply, Signature, Use

CODES = {400: "malformed", 401: "unknown_key", 403: "key_revoked", 413: "too_large", 415: "unsupported_media"}
CAPS = Caps(inflated_max_bytes=8 * 1024 * 1024, batch_max_events=1000)
START_MS = 1_795_334_400_000
DAY_MS = 86_400_000


class HandClock:
    """A clock that only moves when told; `wall` and `monotonic` can be moved apart."""

    def __init__(self) -> None:
        self.wall_ms = START_MS
        self.seconds = 0.0
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        if seconds > 0:
            future = asyncio.get_running_loop().create_future()
            self._sleepers.append((self.seconds + seconds, future))
            await future

    def turn(self, seconds: float) -> None:
        self.seconds += seconds
        self.wall_ms += round(seconds * 1000)
        for until, future in self._sleepers:
            if until <= self.seconds and not future.done():
                future.set_result(None)


class MockModel:
    """A model whose whole behaviour is in its bytes."""

    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told
        self.input_size: int = told.get("inputs", 2)
        self.labels: Sequence[str] = told.get("labels", ["Dismissed", "Purchased"])
        self.metadata: Mapping[str, str] = {}

    def predict(self, inputs: Sequence[float]) -> dict[str, float]:
        assert len(inputs) == self.input_size
        way = self._told.get("predict", "ok")
        if way == "failed":
            raise PredictionFailed("as told")
        if way == "raises":
            raise RuntimeError("as told")
        score = float("nan") if way == "nan" else self._told["score"] + 0.01 * inputs[0]
        return {"Purchased": score, "Dismissed": 1 - score}


class MockRuntime:
    """Implements the port; fails as the artifact says."""

    format = "opaque"

    def __init__(self) -> None:
        self.loads: list[float] = []
        self.on_load: Callable[[dict[str, Any]], None] = lambda told: None

    def load(self, data: bytes) -> MockModel:
        try:
            told = json.loads(data)
        except ValueError as error:
            raise BadModel("not JSON") from error
        self.on_load(told)
        if told.get("load") == "raises":
            raise RuntimeError("as told")
        if told.get("load") == "bad":
            raise BadModel("as told")
        self.loads.append(told["score"])
        return MockModel(told)


class CompilingRuntime(MockRuntime):
    """Compiles; `rots` says of which compilation, by their count, the form no longer loads."""

    compiler = "mock 1"

    def __init__(self) -> None:
        super().__init__()
        self.compiled: list[float] = []
        self.rots: Callable[[int], bool] = lambda compilation: False

    def compile(self, data: bytes) -> bytes:
        told = json.loads(data)
        self.compiled.append(told["score"])
        return msgspec.json.encode({**told, "compilation": len(self.compiled)})

    def load(self, data: bytes) -> MockModel:
        if self.rots(json.loads(data)["compilation"]):
            raise BadModel("grown stale")
        return super().load(data)


def artifact(score: float, **told: Any) -> bytes:
    return msgspec.json.encode({"score": score, **told})


@dataclass
class Publisher:
    """Holds the key, signs catalogues."""

    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    artifacts: dict[str, bytes] = field(default_factory=dict)

    @property
    def public(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def put(self, data: bytes) -> str:
        digest = sha256(data).hexdigest()
        self.artifacts[digest] = data
        return digest

    def release(self, number: int, data: bytes, *, packed: bool = False, **changes: Any) -> Release:
        digest = self.put(data)
        downloads = [Download("identity", f"artifacts/{digest}", len(data))]
        if packed:
            wire = lzma.compress(data, lzma.FORMAT_XZ)
            downloads.append(Download("xz", f"artifacts/{self.put(wire)}", len(wire)))
        told = json.loads(data) if data.startswith(b"{") else {"score": 0.0}
        score = round(told["score"] + 0.005, 12)
        whole: dict[str, Any] = {
            "release": number,
            "format": "opaque",
            "sha256": digest,
            "size": len(data),
            "inputs": ["battery", "charging"],
            "parameters": Parameters(threshold=0.5),
            "probe": [Probe([0.5, 1.0], {"Purchased": score})],
            "downloads": downloads,
            **changes,
        }
        return Release(**whole)

    def news(
        self, number: int, releases: Sequence[Release], *, floor: int = 0, base_url: str = "/", **changes: Any
    ) -> CatalogueNews:
        whole: dict[str, Any] = {
            "app": "shop",
            "model": "upsell",
            "number": number,
            "issued_at": START_MS,
            "expires_at": START_MS + 90 * DAY_MS,
            "floor": floor,
            "releases": list(releases),
            **changes,
        }
        document = msgspec.json.encode(Catalogue(**whole))
        name = sha256(self.public).hexdigest()[:16]
        return CatalogueNews(document, [Signature(name, self.key.sign(CATALOGUE_CONTEXT + document))], base_url)


Handler = Callable[[web.Request], Any]


class Gateway:
    """Plays the gateway: honest unless told otherwise. `stored` counts each batch once, as the warehouse does."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self.flush = Flush(events=50, seconds=300, lease_seconds=21_600)
        self.bodies: list[bytes] = []
        self.stored: dict[str, Batch] = {}
        self.answers: list[Callable[[Batch], web.StreamResponse] | None] = []
        self.most_events = 1000
        self.catalogues: dict[str, CatalogueNews] = {}
        self.use: dict[str, Use] = {}
        self.inline: dict[str, bytes] = {}
        self.fetches: list[tuple[str, str]] = []
        self.serve_artifact: Handler | None = None
        self.before_answer: Callable[[], Any] | None = None
        self.cut_next = False

    @property
    def batches(self) -> list[Batch]:
        return [msgspec.json.decode(gzip.decompress(body), type=Batch) for body in self.bodies]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return every stored event of a type, as plain JSON, in the order of the batches."""
        batches = sorted(self.stored.values(), key=lambda batch: batch.seq)
        raw = [msgspec.to_builtins(event) for batch in batches for event in batch.events]
        return [event for event in raw if event["type"] == kind]

    def steps(self, release: int | None = None) -> list[tuple[Any, ...]]:
        """Return the (release, state, detail) of every model event."""
        found = [(e["release"], e["state"], e.get("detail", "")) for e in self.events("model")]
        return [step[1:] for step in found if step[0] == release] if release is not None else found

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**24)
        app.router.add_post("/v1/batches", self._post)
        app.router.add_get("/artifacts/{digest}", self._get)
        app.router.add_get("/cdn/artifacts/{digest}", self._get)
        return app

    def reply(self, batch: Batch) -> web.Response:
        """Store a batch and answer it as the contract says."""
        self.stored.setdefault(batch.batch, batch)
        have = batch.have
        news = {
            model: found
            for model, found in self.catalogues.items()
            if have[model].catalogue < msgspec.json.decode(found.document)["number"]
        }
        use = {model: told for model, told in self.use.items() if have[model].use != told}
        reply = Reply(
            batch=batch.batch,
            accepted=len(batch.events),
            server_time=START_MS,
            flush=self.flush,
            use=use or msgspec.UNSET,
            catalogues=news or msgspec.UNSET,
            inline=self.inline or msgspec.UNSET,
        )
        return web.Response(body=msgspec.json.encode(reply), content_type="application/json")

    @staticmethod
    def problem(status: int, code: str = "", **headers: str) -> Callable[[Batch], web.StreamResponse]:
        """Return an answer that refuses, in the contract's words unless told otherwise."""
        body = msgspec.json.encode({"title": "as told", "status": status, "code": code or CODES.get(status, "as_told")})
        return lambda batch: web.Response(
            status=status, body=body, content_type="application/problem+json", headers=headers
        )

    async def _post(self, request: web.Request) -> web.StreamResponse:
        assert request.headers["Authorization"].startswith("Bearer shop.secret")
        assert request.headers["Content-Type"] == "application/json"
        body = await request.read()
        self.bodies.append(body)
        if self.cut_next:
            self.cut_next = False
            assert request.transport is not None
            request.transport.close()
        assert not decode(body, request.headers["Content-Encoding"], CAPS).refused, "the gateway takes it whole"
        batch = msgspec.json.decode(gzip.decompress(body), type=Batch)
        if self.before_answer is not None:
            await self.before_answer()
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            return answer(batch)
        if len(batch.events) > self.most_events:
            return self.problem(413)(batch)
        return self.reply(batch)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        self.fetches.append((request.path, request.headers.get("Range", "")))
        assert "Authorization" not in request.headers
        if self.serve_artifact is not None:
            response: web.StreamResponse = await self.serve_artifact(request)
            return response
        data = self.publisher.artifacts[request.match_info["digest"]]
        return partial(request, data)


def partial(request: web.Request, data: bytes) -> web.Response:
    """Serve a range as RFC 9110 says."""
    tag, asked = '"v1"', request.headers.get("Range", "")
    headers = {"ETag": tag}
    if asked and request.headers.get("If-Range") == tag:
        begin = int(asked.removeprefix("bytes=").rstrip("-"))
        headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
        return web.Response(status=206, body=data[begin:], headers=headers)
    return web.Response(body=data, headers=headers)


class World:
    """Everything around one device's directory."""

    def __init__(self, directory: Path, gateway: Gateway, url: str, stack: AsyncExitStack) -> None:
        self.directory = directory
        self.gateway = gateway
        self.publisher = gateway.publisher
        self.url = url
        self.clock = HandClock()
        self.runtime: MockRuntime = MockRuntime()
        self.bundle = Bundled(1, artifact(0.2), Parameters(threshold=0.5), ["battery", "charging"])
        self._stack = stack

    def client(self, **changes: Any) -> Client:
        options: dict[str, Any] = {
            "directory": self.directory,
            "bundled": {"upsell": self.bundle},
            "runtime": self.runtime,
            "clock": self.clock,
            "dice": random.Random(7),  # noqa: S311 - a seeded draw, no secret
            "limits": Limits(jitter_seconds=0.0),
            **changes,
        }
        app_key = options.pop("app_key", "shop.secret")
        return Client(app_key, self.url, [self.publisher.public], **options)

    @staticmethod
    def artifact(score: float, **told: Any) -> bytes:
        """Return a model that answers so."""
        return artifact(score, **told)

    async def open(self, **changes: Any) -> Client:
        """Open a client that is closed with the world."""
        return await self._stack.enter_async_context(self.client(**changes))

    def offer(self, number: int, releases: Sequence[Release], use: Use, **changes: Any) -> None:
        """Let the gateway publish a catalogue and tell every device what to use."""
        self.gateway.catalogues["upsell"] = self.publisher.news(number, releases, **changes)
        self.gateway.use["upsell"] = use

    def offer_42(self, data: bytes | None = None, **changes: Any) -> bytes:
        """Publish release 42 and tell every device to use it."""
        data = artifact(0.8) if data is None else data
        self.offer(17, [self.publisher.release(42, data, **changes)], 42)
        return data

    @staticmethod
    def runs(client: Client) -> tuple[int, str, object]:
        """Return what runs: its number, where it came from, and what the gateway is told."""
        status = client.status().models["upsell"]
        return status.release, status.source, status.use

    async def steps(self, client: Client) -> list[tuple[Any, ...]]:
        """Flush what the device has to say and return all that the gateway was told."""
        self.clock.turn(5000)
        await client.flush()
        return self.gateway.steps()

    async def settle(self) -> None:
        """Let every task go as far as it can without the clock."""
        for _ in range(200):
            await asyncio.sleep(0.001)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    gateway = Gateway(Publisher())
    async with AsyncExitStack() as stack:
        server = TestServer(gateway.app())
        await server.start_server(auto_decompress=False)
        stack.push_async_callback(server.close)
        yield World(tmp_path / "device", gateway, str(server.make_url("/")), stack)
