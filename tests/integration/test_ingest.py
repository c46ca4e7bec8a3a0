"""Batches through a gateway that really listens, onto a real log: the contract's section 1, status by status."""

import asyncio
import base64
import gzip
import hashlib
import random
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec
import orjson
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consumers.source import EmbeddedSource
from gateway.app import FRONT, create_app
from gateway.config import Config
from gateway.publish.embedded import EmbeddedLog
from gateway.releases import apps
from gateway.releases.publish import publish_release
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store
from gateway.supervisor.door import Door
from schemas import reasons
from schemas.reading import read_batch
from schemas.records import DeadLetter, StoredRecord, dead_letter
from schemas.releases import Catalogue
from schemas.topics import BATCHES, DEAD_LETTERS

VECTORS: Final = Path(reasons.__file__).parent / "vectors"
BATCH_VECTORS: Final = orjson.loads((VECTORS / "batches.json").read_bytes())
REFUSAL_VECTORS: Final = orjson.loads((VECTORS / "refusals.json").read_bytes())
ENVELOPE: Final[dict[str, Any]] = BATCH_VECTORS["envelope"]
GOOD: Final[dict[str, Any]] = BATCH_VECTORS["events"][0]["event"]
MODEL: Final = Path(__file__).parents[1] / "models" / "upsell-1.mlmodel"
JSON: Final = {"Content-Type": "application/json"}


def body_of(*events: object, **changes: object) -> bytes:
    return orjson.dumps({**ENVELOPE, **changes, "events": list(events)})


class Answer(NamedTuple):
    """A response, read whole."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


async def read(response: aiohttp.ClientResponse) -> Answer:
    return Answer(response.status, response.headers, await response.read())


class Gateway(NamedTuple):
    """A gateway that listens, with what stands around it."""

    url: str
    keys: Mapping[str, str]
    session: aiohttp.ClientSession
    source: EmbeddedSource
    store: Store
    snapshots: SnapshotKeeper

    async def post(self, body: Any, *, key: str | None = "known", headers: Mapping[str, str] = JSON) -> Answer:
        authorization = {} if key is None else {"Authorization": f"Bearer {self.keys[key]}"}
        sent = {**headers, **authorization}
        url = f"{self.url}/v1/batches"
        async with self.session.post(url, data=body, headers=sent, skip_auto_headers=["Content-Type"]) as response:
            return await read(response)

    async def get(self, path: str, **headers: str) -> Answer:
        async with self.session.get(self.url + path, headers=headers) as response:
            return await read(response)

    async def records(self, topic: str) -> list[StoredRecord]:
        return await self.source.read(topic, 0, 0, max_records=10_000, max_bytes=2**40)

    async def batches(self, least: int) -> list[StoredRecord]:
        """Return all batches once there are so many: one without events is answered before it is on the log."""
        async with asyncio.timeout(20):
            while len(await self.records(BATCHES)) < least:  # noqa: ASYNC110 - the state is on a disk
                await asyncio.sleep(0.001)
        return await self.records(BATCHES)

    async def letters(self) -> list[DeadLetter]:
        return [dead_letter(record) for record in await self.records(DEAD_LETTERS)]

    async def until(self, sample: str, least: float) -> None:
        """Wait until a metric is at least so much."""
        async with asyncio.timeout(20):
            while await self.metric(sample) < least:  # noqa: ASYNC110 - the state is another's, over HTTP
                await asyncio.sleep(0.01)

    async def metric(self, sample: str) -> float:
        lines = (await self.get("/metrics")).body.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample))


async def make_keys(store: Store) -> dict[str, str]:
    known = await apps.create_app(store, "shop", 1)
    revoked = await apps.add_key(store, "shop", 2)
    await apps.revoke_key(store, "shop", revoked, 3)
    return {"known": known, "revoked": revoked, "unknown": "shop.nobody-made-this-key"}


@pytest.fixture(params=["met by the front", "aiohttp alone"])
async def gateway(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Gateway]:
    store = Store.open("memory://")
    keys = await make_keys(store)
    snapshots = SnapshotKeeper(store)
    await snapshots.refresh()
    sink = await EmbeddedLog.open(tmp_path, max_bytes=2**30, max_pending_bytes=2**26)
    app = create_app(Config(gateway_name="here"), sink=sink, snapshots=snapshots, store=store)
    runner = web.AppRunner(app, auto_decompress=False, access_log=None)
    await runner.setup()
    listening = socket.create_server(("127.0.0.1", 0))
    front = app[FRONT] if request.param == "met by the front" else None
    await Door(runner, listening, 100, random.Random(1), front).start()  # noqa: S311 - no secret
    host, port = listening.getsockname()
    source = await EmbeddedSource.open(tmp_path, "reader")
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield Gateway(f"http://{host}:{port}", keys, session, source, store, snapshots)
    await source.close()
    await app[FRONT].finish(5)
    await runner.cleanup()
    await sink.close()


@pytest.mark.parametrize("vector", BATCH_VECTORS["batches"], ids=lambda vector: vector["name"])
async def test_a_batch_is_answered_as_its_vector_says(gateway: Gateway, vector: dict[str, Any]) -> None:
    answer = await gateway.post(orjson.dumps(vector["batch"]))
    assert (answer.status, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.json["batch"] == vector["batch"]["batch"]
    assert answer.json["accepted"] == vector["accepted"]
    assert answer.json.get("refused", []) == vector["refused"]
    assert ("refused" in answer.json) == bool(vector["refused"])
    assert len(await gateway.batches(1)) == 1, "also without an accepted event, or without any"
    assert [letter.index for letter in await gateway.letters()] == [refusal["index"] for refusal in vector["refused"]]


@pytest.mark.parametrize("vector", REFUSAL_VECTORS["requests"], ids=lambda vector: vector["name"])
async def test_a_request_fails_as_its_vector_says(gateway: Gateway, vector: dict[str, Any]) -> None:
    body = vector["body"].encode() if "body" in vector else base64.b64decode(vector["body_base64"])
    answer = await gateway.post(body, key=vector["key"], headers=vector["headers"])
    assert (answer.status, answer.json["code"]) == (vector["status"], vector["code"])
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["status"] == vector["status"]
    assert answer.json["detail"]
    letters = await gateway.letters()
    assert [letter.reason for letter in letters] == [vector["dead_letter"]] * (vector["dead_letter"] is not None)
    assert await gateway.records(BATCHES) == []
    for letter in letters:
        assert base64.b64decode(letter.body) == body
        assert letter.encoding == vector["headers"].get("Content-Encoding", "identity")
        assert (letter.app, letter.device, letter.batch, letter.index) == ("shop", None, None, None)


async def test_a_reply_without_news_is_under_160_bytes(gateway: Gateway) -> None:
    answer = await gateway.post(body_of(*[GOOD] * 50))
    assert answer.json["accepted"] == 50
    assert len(answer.body) < 160


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("identity", bytes), (None, bytes)])
async def test_the_log_has_the_body_as_it_was_sent(
    gateway: Gateway, encoding: str | None, pack: Callable[[bytes], bytes]
) -> None:
    bad = {**GOOD, "score": 7}
    sent = pack(body_of(GOOD, bad, GOOD))
    answer = await gateway.post(sent, headers={**JSON, **({"Content-Encoding": encoding} if encoding else {})})
    [record] = await gateway.records(BATCHES)
    about, batch, events = read_batch(record)
    assert record.value == sent
    assert record.key.decode() == ENVELOPE["device"] == batch.device
    assert (about.app, about.gateway, about.batch) == ("shop", "here", ENVELOPE["batch"])
    assert (about.content_encoding, about.events, about.refused) == (encoding or "identity", 3, (1,))
    assert [index for index, _ in events] == [0, 2]
    assert answer.json["server_time"] >= about.received_at > 1_700_000_000_000
    [letter] = await gateway.letters()
    assert orjson.loads(letter.body) == bad
    assert (letter.device, letter.batch, letter.index) == (ENVELOPE["device"], ENVELOPE["batch"], 1)
    assert (letter.reason, letter.encoding, letter.received_at) == ("score_out_of_range", "json", about.received_at)


async def test_a_batch_sent_again_is_answered_alike(gateway: Gateway) -> None:
    body = body_of(GOOD, {})
    answers = [{**(await gateway.post(body)).json, "server_time": 0} for _ in range(2)]
    assert answers[0] == answers[1]


async def test_a_device_learns_of_a_release_from_the_reply(gateway: Gateway) -> None:
    published = await publish_release(
        gateway.store,
        app="shop",
        model="upsell",
        file=MODEL,
        sdk=">=2.3",
        signing_key=Ed25519PrivateKey.generate(),
        now_ms=1,
    )
    await gateway.snapshots.refresh()
    have = {"upsell": {"catalogue": 0, "use": "bundled"}}
    news = (await gateway.post(body_of(have=have))).json
    assert news["use"] == {"upsell": 1}
    document = base64.b64decode(news["catalogues"]["upsell"]["document"])
    assert msgspec.json.decode(document, type=Catalogue) == published
    [inline] = news["inline"].items()
    assert hashlib.sha256(base64.b64decode(inline[1])).hexdigest() == inline[0]
    have = {"upsell": {"catalogue": published.number, "use": 1}}
    assert {"use", "catalogues", "inline"}.isdisjoint((await gateway.post(body_of(have=have))).json)
    offers = [read_batch(record)[0].offer["upsell"].use for record in await gateway.batches(2)]
    assert offers == [1, 1]


async def test_headers_are_read_as_http_means_them(gateway: Gateway) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8", "Content-Encoding": "GZIP"}
    assert (await gateway.post(gzip.compress(body_of()), headers=headers)).status == 200
    bearer = {**JSON, "Authorization": f"bEARER  {gateway.keys['known']} "}
    assert (await gateway.post(body_of(), key=None, headers=bearer)).status == 200
    for wrong in ("", "Bearer", "Basic abc", "Bearer ", gateway.keys["known"], "Bearer schlüssel"):
        answer = await gateway.post(body_of(), key=None, headers={**JSON, "Authorization": wrong})
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_chunked_body_is_a_body_and_capped_like_one(gateway: Gateway) -> None:
    body = body_of(GOOD)
    assert (await gateway.post(chunks(body[:10], body[10:]))).json["accepted"] == 1
    answer = await gateway.post(chunks(*[b" " * 65_536] * 17))
    assert (answer.status, answer.json["code"]) == (413, "too_large")


async def test_a_body_that_announces_too_much_is_refused_before_it_is_sent(gateway: Gateway) -> None:
    head = f"Content-Length: {2**20 + 1}\r\nExpect: 100-continue\r\n"
    assert (await first_line(gateway, head)).startswith(b"HTTP/1.1 413 ")


async def test_who_asks_whether_to_go_on_is_told_so_once_admitted(gateway: Gateway) -> None:
    body = body_of()
    head = f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n"
    assert await first_line(gateway, head) == b"HTTP/1.1 100 Continue\r\n"
    assert (await first_line(gateway, head, key="unknown")).startswith(b"HTTP/1.1 401 ")


async def dial(
    gateway: Gateway, head: str, *parts: bytes, key: str = "known"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Speak HTTP by hand, each part in a packet of its own."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    start = f"POST /v1/batches HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.keys[key]}\r\n"
    writer.write((start + "Content-Type: application/json\r\n" + head + "\r\n").encode())
    for part in parts:
        await asyncio.sleep(0.05)
        writer.write(part)
    return reader, writer


async def first_line(gateway: Gateway, head: str, *parts: bytes, key: str = "known") -> bytes:
    reader, writer = await dial(gateway, head, *parts, key=key)
    line = await reader.readline()
    writer.close()
    return line


async def test_what_is_not_there_is_a_problem_too(gateway: Gateway) -> None:
    missing, wrong = await gateway.get("/v2/batches"), await gateway.get("/v1/batches")
    assert (missing.status, missing.json["code"]) == (404, "not_found")
    assert (wrong.status, wrong.json["code"], wrong.headers["Allow"]) == (405, "method_not_allowed", "POST")
    assert missing.headers["Content-Type"] == wrong.headers["Content-Type"] == "application/problem+json"


async def test_every_event_is_counted_once_under_how_it_ended(gateway: Gateway) -> None:
    await gateway.post(body_of(GOOD, GOOD, {}, {**GOOD, "score": 2}, 7))
    await gateway.post(b"{")
    await gateway.post(body_of(GOOD), key="unknown")
    assert await gateway.metric("backhaul_events_total{") == 5
    assert await gateway.metric('backhaul_events_total{outcome="accepted"') == 2
    assert await gateway.metric('backhaul_events_total{outcome="refused",reason="score_out_of_range"') == 1
    route = 'backhaul_requests_total{code="%s",route="/v1/batches",status="%d"}'
    for code, status in (("", 200), ("malformed", 400), ("unknown_key", 401)):
        assert await gateway.metric(route % (code, status)) == 1
    for sample in ("backhaul_decode_seconds_count", "backhaul_sink_log_", "backhaul_snapshot_age_seconds"):
        assert await gateway.metric(sample) > 0
    assert await gateway.metric("backhaul_in_flight_bytes") == 0


async def test_a_ready_gateway_says_so(gateway: Gateway) -> None:
    ready = await gateway.get("/readyz")
    assert (ready.status, ready.json["ready"], ready.json["trouble"]) == (200, True, {"sink": None, "snapshots": None})
    assert ready.json["snapshot_age_seconds"] >= 0
    assert ready.json["damaged_documents"] == 0
    assert (await gateway.get("/healthz")).json == {"status": "ok"}
