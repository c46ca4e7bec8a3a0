"""The rows that a gateway must hold (G1-G18): section 1 of the contract, as black-box requests.

* The vectors of `schemas/vectors` are sent as they stand, under new identities, so that no run is a resend of another.
"""

import base64
import gzip
import sys
import uuid
from collections.abc import Callable
from hashlib import sha256
from typing import Any, Final
from urllib.parse import urljoin

import msgspec
from msgspec import UNSET, UnsetType

from gateway.client.conformance.asked import JSON, Answer, Asked, now_ms, text_of, vectors
from gateway.client.conformance.results import NO_CATALOGUE, Failed, Rows, Skipped, require
from gateway.client.keyring import Keyring, judge_keys
from gateway.client.verify import verify
from schemas.releases import Catalogue, KeyList
from schemas.wire import LARGEST_UINT32, CatalogueNews, Reply

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_STEADY_BYTES: Final = 160
_CLOCK_MS: Final = 300_000
# The bounds of the settings that set them (`gateway.config`): a day of silence is a policy, a year is a mistake.
_FLUSH_BOUNDS: Final = {"events": 100_000, "seconds": 604_800, "lease_seconds": 7_776_000}


ROWS: Final = Rows[Asked]()


@ROWS.row("G1", "/healthz and /readyz answer 200 with JSON")
async def is_healthy(asked: Asked) -> None:
    """Load balancers and orchestrators go by them."""
    for path in ("/healthz", "/readyz"):
        answer = await asked.get(path)
        require(answer.status == 200, f"{path} is answered {answer.status}: {answer.body[:200]!r}")
        require(isinstance(answer.json, dict), f"{path} says {answer.body[:200]!r}")


@ROWS.row("G2", "/openapi.json describes POST /v1/batches, with the batch's JSON Schema in it")
async def describes_itself(asked: Asked) -> None:
    """SDKs are generated from it."""
    document = (await asked.get("/openapi.json")).json
    require(str(document.get("openapi", "")).startswith("3."), "it is no OpenAPI 3 document")
    require("post" in document["paths"]["/v1/batches"], "POST /v1/batches is not in it")
    require({"Prediction", "Outcome"} <= set(document["components"]["schemas"]), "the events' schemas are not in it")


@ROWS.row("G3", "another path is 404 and another method 405, as problem documents")
async def says_what_is_not_there(asked: Asked) -> None:
    """A device takes a status only with the contract's word."""
    _problem(await asked.get("/v1/nothing"), 404, "not_found")
    _problem(await asked.get("/v1/batches"), 405, "method_not_allowed")
    _problem(await asked.get(f"/artifacts/{'0' * 64}"), 404, "not_found")


@ROWS.row("G4", "no key and an unknown key are 401 unknown_key, before anything else is judged")
async def knows_its_keys(asked: Asked) -> None:
    """A stranger must cost nothing."""
    await _refuses(asked, {401})


@ROWS.row("G5", "a revoked key is 403 key_revoked")
async def knows_revoked_keys(asked: Asked) -> None:
    """A stolen key must end."""
    if "revoked" not in asked.keys:
        raise Skipped("no revoked key was given")
    await _refuses(asked, {403})


@ROWS.row("G6", "another media type or encoding is 415 unsupported_media")
async def refuses_other_media(asked: Asked) -> None:
    """The device drops it: nothing of it will ever be taken."""
    await _refuses(asked, {415})


@ROWS.row("G7", "what is past a cap, also only after inflating, is 413 too_large (at the default caps)")
async def holds_its_caps(asked: Asked) -> None:
    """A bomb of a kilobyte must not cost a gigabyte. (A gateway with higher caps fails here, and keeps the batches.)"""
    if asked.read_only:
        raise Skipped("read only: a gateway with higher caps would keep what is sent")
    await _refuses(asked, {413})


@ROWS.row("G8", "a body that is no batch is 400 malformed")
async def refuses_what_is_no_batch(asked: Asked) -> None:
    """Every body gets an answer of the contract, whatever its bytes."""
    if asked.read_only:
        raise Skipped("read only: the gateway would keep the bodies as dead letters")
    await _refuses(asked, {400})


@ROWS.row("G9", "every event of the vectors is accepted, or refused by its index with its reason, in one batch")
async def judges_each_event(asked: Asked) -> None:
    """One bad event never sinks its batch."""
    told = vectors("batches")
    texts = [text_of(each) for each in told["events"]]
    answer = await asked.post(asked.batch(*texts, signals=told["envelope"]["signals"]))
    reply = answer.reply()
    found = {each.index: each.reason for each in _refused(reply)}
    for index, each in enumerate(told["events"]):
        said = found.get(index)
        require(said == each["reason"], f"{each['name']}: {said or 'accepted'}, not {each['reason'] or 'accepted'}")
    good = sum(each["reason"] is None for each in told["events"])
    require(reply.accepted == good, f"{reply.accepted} events are accepted, not {good}")


@ROWS.row("G10", "every batch of the vectors is answered with what was accepted and refused")
async def judges_each_batch(asked: Asked) -> None:
    """Empty ones, bare ones, ones with unknown fields, ones at every bound."""
    for vector in vectors("batches")["batches"]:
        identity = {"device": str(uuid.uuid4()), "batch": str(uuid.uuid4())}
        reply = (await asked.post(msgspec.json.encode({**vector["batch"], **identity}))).reply()
        require(reply.batch == identity["batch"], f"{vector['name']}: the reply is to batch {reply.batch}")
        said = (reply.accepted, [[each.index, each.reason] for each in _refused(reply)])
        meant = (vector["accepted"], [[each["index"], each["reason"]] for each in vector["refused"]])
        require(said == meant, f"{vector['name']}: answered {said}, not {meant}")


@ROWS.row("G11", "identity, gzip and zstd are taken alike")
async def inflates(asked: Asked) -> None:
    """A phone compresses with what it has."""
    event = text_of(vectors("batches")["events"][1])
    packers: dict[str, Callable[[bytes], bytes]] = {"identity": bytes, "gzip": gzip.compress, "zstd": zstd.compress}
    for encoding, pack in packers.items():
        answer = await asked.post(pack(asked.batch(event)), {**JSON, "Content-Encoding": encoding})
        require(answer.reply().accepted == 1, f"{encoding}: {answer.body[:200]!r}")


@ROWS.row("G12", "a batch that comes again is answered like the first time")
async def answers_a_resend(asked: Asked) -> None:
    """The reply may have been lost: the device must hear the same."""
    told = vectors("batches")
    body = asked.batch(*map(text_of, told["events"][::7]), signals=told["envelope"]["signals"])
    first, second = [(await asked.post(body)).reply() for _ in range(2)]
    said = [(each.batch, each.accepted, _refused(each)) for each in (first, second)]
    require(said[0] == said[1], f"answered {said[0]}, then {said[1]}")


@ROWS.row("G13", "fields that the contract does not know are ignored, and absent optional ones are no fault")
async def ignores_the_unknown(asked: Asked) -> None:
    """So version 1 can grow, and an older gateway takes a newer SDK."""
    event = msgspec.json.decode(text_of(vectors("batches")["events"][1]))
    body = asked.batch(msgspec.json.encode({**event, "mood": {"a": [1]}}), battery="full")
    require((await asked.post(body)).reply().accepted == 1, "an event with an unknown field is refused")


@ROWS.row("G14", "the steady state, nothing new, is an empty batch's reply under 160 bytes that says no news")
async def is_short_when_nothing_is_new(asked: Asked) -> None:
    """Times millions of devices, many times a day."""
    have = await _settled(asked)
    answer, reply = await asked.update(**have)
    require(reply.accepted == 0, f"an empty batch has {reply.accepted} events")
    news = [name for name in ("use", "catalogues", "inline", "refused") if getattr(reply, name) is not UNSET]
    require(not news, f"a device that has everything is sent {news}")
    require(len(answer.body) < _STEADY_BYTES, f"the reply has {len(answer.body)} bytes: {answer.body!r}")
    require(answer.body.startswith(b'{"batch":"'), "the batch does not stand first, where a device finds it")


@ROWS.row("G15", "server_time is the time, and the flush policy is within bounds")
async def tells_the_time(asked: Asked) -> None:
    """Devices judge by it what has expired, and when to call next."""
    _, reply = await asked.update(catalogue=0, use="bundled")
    off_ms = abs(reply.server_time - now_ms())
    require(off_ms < _CLOCK_MS, f"server_time is {off_ms / 1000:.0f} s from this machine's clock")
    for name, most in _FLUSH_BOUNDS.items():
        value = getattr(reply.flush, name)
        require(1 <= value <= most, f"flush.{name} is {value}")


@ROWS.row("G16", "a catalogue is sent only to who has an older one, names this app and model, and holds under the key")
async def signs_its_news(asked: Asked) -> None:
    """The one thing that a device runs is what an offline key has signed."""
    news, catalogue = await _catalogue(asked)
    require((catalogue.app, catalogue.model) == (asked.app, asked.model), "it is another app's or model's")
    _, again = await asked.update(catalogue=catalogue.number, use="bundled")
    require(_news(again, asked.model) is None, "it is sent to a device that has it")
    _, ahead = await asked.update(catalogue=catalogue.number + 1, use="bundled")
    require(_news(ahead, asked.model) is None, "an older one is sent to a device that has a newer")
    if not asked.trusted:
        raise Skipped("no public key was given: the signature was not checked")
    roots = Keyring(asked.trusted)
    if not isinstance(news.keys, UnsetType):
        judged = judge_keys(news.keys, roots, app=asked.app, now_ms=now_ms())
        require(judged.code == "ok", f"the key list does not hold: {judged.code}")
        roots = msgspec.structs.replace(roots, listed=judged.keys)
    verdict = verify(
        news.document,
        news.signatures,
        keys=roots.trusted(),
        app=asked.app,
        model=asked.model,
        seen=0,
        floor=0,
        now_ms=now_ms(),
    )
    require(verdict.code == "ok", f"the catalogue does not hold: {verdict.code}")


@ROWS.row("G17", "what to use is listed, fits the device, and is said only to who does not use it yet")
async def offers_what_is_listed(asked: Asked) -> None:
    """A gateway chooses among signed releases; it cannot make one."""
    _, catalogue = await _catalogue(asked)
    signals, device = _inputs(catalogue), str(uuid.uuid4())  # of one device: another may have another arm
    _, reply = await asked.update(device=device, catalogue=catalogue.number, use=LARGEST_UINT32, signals=signals)
    use = None if reply.use is UNSET else reply.use.get(asked.model)
    listed = {release.release for release in catalogue.releases if release.release >= catalogue.floor}
    require(use in ("bundled", "none") or use in listed, f"{use!r} is to be used, and {sorted(listed)} are listed")
    _, again = await asked.update(device=device, catalogue=catalogue.number, use=use, signals=signals)
    told = None if again.use is UNSET else again.use.get(asked.model)
    require(told is None, f"who uses {use!r} is told to use {told!r}")


@ROWS.row("G18", "an artifact is served under its SHA-256, whole and by Range with If-Range")
async def serves_artifacts(asked: Asked) -> None:
    """A download over a bad line must be able to go on."""
    news, catalogue = await _catalogue(asked)
    ways = [way for release in catalogue.releases for way in release.downloads]
    if not ways:
        raise Skipped("the catalogue lists no download")
    way = min(ways, key=lambda each: each.size)
    url = urljoin(urljoin(f"{asked.url}/", news.base_url), way.path)
    whole = await asked.get(url)
    require(whole.status == 200, f"{way.path} is answered {whole.status}")
    digest = sha256(whole.body).hexdigest()
    require((len(whole.body), digest) == (way.size, way.path.rpartition("/")[2]), "other bytes come than are listed")
    tag = whole.headers.get("ETag", "")
    require(tag and not tag.startswith("W/"), f"the entity tag is {tag!r}: no download can go on under it")
    rest = await asked.get(url, **{"Range": "bytes=1-", "If-Range": tag})
    require((rest.status, rest.body) == (206, whole.body[1:]), f"Range: bytes=1- is answered {rest.status}")
    other = await asked.get(url, **{"Range": "bytes=1-", "If-Range": '"other"'})
    require((other.status, other.body) == (200, whole.body), f"under another tag it is answered {other.status}")


ROWS.skipped(
    "G19",
    "429 slow_down and 503 unavailable carry Retry-After",
    "nobody can fill up a gateway or take its log away from outside without harm",
)


async def _refuses(asked: Asked, statuses: set[int]) -> None:
    """Send the vectors that are refused whole with one of these statuses."""
    for vector in vectors("refusals")["requests"]:
        if vector["status"] not in statuses or (vector["key"] or "known") not in asked.keys:
            continue
        body = vector["body"].encode() if "body" in vector else base64.b64decode(vector["body_base64"])
        answer = await asked.send(body, vector["headers"], vector["key"])
        try:
            _problem(answer, vector["status"], vector["code"])
        except Failed as failed:
            raise Failed(f"{vector['name']}: {failed}") from failed


def _problem(answer: Answer, status: int, code: str) -> None:
    require(answer.status == status, f"answered {answer.status}, not {status}: {answer.body[:200]!r}")
    media = answer.headers.get("Content-Type", "").partition(";")[0]
    require(media == "application/problem+json", f"the {status} is {media!r}, no problem document")
    said = answer.json
    require((said["status"], said["code"]) == (status, code), f"the problem is {said}")
    require(all(isinstance(said[name], str) for name in ("title", "detail")), f"the problem is {said}")
    if status in (429, 503):
        require(answer.headers.get("Retry-After", "").isdigit(), f"the {status} has no Retry-After")


async def _catalogue(asked: Asked) -> tuple[CatalogueNews, Catalogue]:
    """Return the model's catalogue. Raises `Skipped` where the app has none."""
    news = await _newest(asked)
    if news is None:
        raise Skipped(f"{NO_CATALOGUE} of {asked.model!r}")
    return news, msgspec.json.decode(news.document, type=Catalogue)


async def _newest(asked: Asked) -> CatalogueNews | None:
    """Return what a device is sent that has nothing, and take note of the key list."""
    asked.key_list = 0
    _, reply = await asked.update(catalogue=0, use="bundled")
    news = _news(reply, asked.model)
    if news is not None and not isinstance(news.keys, UnsetType):
        asked.key_list = msgspec.json.decode(news.keys.document, type=KeyList).version
    return news


async def _settled(asked: Asked) -> dict[str, Any]:
    """Return what a device has that has followed every offer."""
    news = await _newest(asked)
    number = 0 if news is None else msgspec.json.decode(news.document, type=Catalogue).number
    device = str(uuid.uuid4())  # the same all along: another may have another arm
    _, reply = await asked.update(device=device, catalogue=number, use="bundled")
    use = "bundled" if reply.use is UNSET else reply.use.get(asked.model, "bundled")
    return {"device": device, "catalogue": number, "use": use}


def _news(reply: Reply, model: str) -> CatalogueNews | None:
    return None if reply.catalogues is UNSET else reply.catalogues.get(model)


def _refused(reply: Reply) -> list[Any]:
    return [] if reply.refused is UNSET else list(reply.refused)


def _inputs(catalogue: Catalogue) -> list[str]:
    return sorted({name for release in catalogue.releases for name in release.inputs})
