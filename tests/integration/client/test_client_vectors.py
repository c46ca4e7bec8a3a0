"""The golden vectors of replies and refusals as a device meets them: through its own transport, from real servers."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.app import create_app
from gateway.client.limits import Limits
from gateway.client.policy import Fate, fate_of
from gateway.client.transport import Transport, pack
from gateway.config import Config
from gateway.publish.embedded import EmbeddedLog
from gateway.releases import apps
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store
from schemas import reasons
from schemas.wire import Reply

if TYPE_CHECKING:
    from tests.integration.client.conftest import World

Json = dict[str, Any]
VECTORS: Final = Path(reasons.__file__).parent / "vectors"
REFUSALS: Final[list[Json]] = json.loads((VECTORS / "refusals.json").read_bytes())["requests"]
REPLIES: Final[list[Json]] = json.loads((VECTORS / "replies.json").read_bytes())["replies"]
SIGNALS: Final = {"battery": 0.5, "charging": 1.0}
# What a device does, as the vectors name it, and what it is here.
FATES: Final = {"drop": {Fate.DROPPED}, "keep": {Fate.LEASE, Fate.WAIT}, "split": {Fate.SPLIT}}
# A device always sends JSON, compressed: the vectors about other headers are not its own.
SENDABLE: Final = [
    vector
    for vector in REFUSALS
    if vector["headers"].get("Content-Type") == "application/json"
    and vector["headers"].get("Content-Encoding", "identity") in ("gzip", "identity")
]


def body_of(vector: Json) -> bytes:
    body = vector["body"].encode() if "body" in vector else base64.b64decode(vector["body_base64"])
    return body if vector["headers"].get("Content-Encoding") == "gzip" else pack(body)


@pytest.fixture
async def transport_to(tmp_path: Path) -> AsyncIterator[Callable[[str], Transport]]:
    """Run a gateway; return what makes a device's way to it, by the kind of its app key."""
    store = Store.open("memory://")
    known, revoked = await apps.create_app(store, "shop", 1), await apps.add_key(store, "shop", 2)
    await apps.revoke_key(store, "shop", revoked, 3)
    keys = {"known": known, "revoked": revoked, "unknown": "shop.nobody-made-this-key"}
    snapshots = SnapshotKeeper(store)
    await snapshots.refresh()
    log = await EmbeddedLog.open(tmp_path, max_bytes=2**30, max_pending_bytes=2**26)
    server = TestServer(create_app(Config(), sink=log, snapshots=snapshots, store=store))
    await server.start_server(auto_decompress=False)
    async with aiohttp.ClientSession() as session:
        url = str(server.make_url("/"))
        yield lambda kind: Transport(session, url, keys[kind], Limits())
    await server.close()
    await log.close()


@pytest.mark.parametrize("vector", SENDABLE, ids=lambda vector: vector["name"])
async def test_a_device_does_what_the_vector_says_when_the_gateway_refuses(
    transport_to: Callable[[str], Transport], vector: Json
) -> None:
    transport = transport_to(vector["key"] or "unknown")
    answer = await transport.send("00000000-0000-4000-8000-000000000000", body_of(vector))
    assert (answer.status, answer.code, answer.delivered) == (vector["status"], vector["code"], False)
    assert fate_of(answer.status, answer.code) in FATES[vector["device"]]


def test_most_refusals_are_ones_that_a_device_can_meet() -> None:
    assert len(SENDABLE) > len(REFUSALS) / 2
    assert {vector["device"] for vector in SENDABLE} == set(FATES)


@pytest.mark.parametrize(
    ("status", "code", "does"), sorted({(vector["status"], vector["code"], vector["device"]) for vector in REFUSALS})
)
async def test_what_the_vector_says_happens_to_the_events(world: World, status: int, code: str, does: str) -> None:
    world.gateway.answers = [world.gateway.problem(status, code)]
    client = await world.open()
    client.predict("upsell", SIGNALS)
    client.predict("upsell", SIGNALS)
    assert await client.flush() == {"drop": "dropped", "keep": "kept", "split": "sent"}[does]
    assert client.ledger.dropped == ({code: 2} if does == "drop" else {})
    assert client.status().queued_events == (2 if does == "keep" else 0)
    assert [len(batch.events) for batch in world.gateway.batches] == {"drop": [2], "keep": [2], "split": [2, 1, 1]}[
        does
    ]


@pytest.mark.parametrize("vector", REPLIES, ids=lambda vector: vector["name"])
async def test_a_device_reads_what_the_vector_says_in_a_reply(vector: Json) -> None:
    said = {name: value for name, value in vector["means"].items() if value not in ([], {})}
    batch = vector["means"]["batch"]

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=vector["text"], content_type="application/json")

    app = web.Application()
    app.router.add_post("/v1/batches", answer)
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        transport = Transport(session, str(server.make_url("/")), "shop.secret", Limits())
        answered = await transport.send(batch, pack(b"{}"))
        other = await transport.send("00000000-0000-4000-8000-000000000000", pack(b"{}"))
    assert (answered.status, answered.delivered) == (200, True)
    assert answered.reply == msgspec.convert(said, Reply)
    assert not other.delivered
