"""The kit on our own gateway, row by row; on gateways that break a rule each; and from the command line."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.app import create_app
from gateway.cli import main
from gateway.client.conformance import Result
from gateway.client.conformance.asked import Asked
from gateway.client.conformance.contract import ROWS
from gateway.client.conformance.gateways import Target, Unreached, judge
from gateway.client.conformance.results import Row
from gateway.config import Config
from gateway.publish.embedded import EmbeddedLog
from gateway.releases import apps
from gateway.releases.keys import public_bytes
from gateway.releases.publish import publish_release
from gateway.releases.rollouts import change
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store
from gateway.releases.transitions import Change as Said
from gateway.releases.transitions import Plan, start

MODELS: Final = Path(__file__).parents[1] / "models"
# What a gateway that must not keep anything can still be asked.
READ_ONLY: Final = {"G1", "G2", "G3", "G4", "G5", "G6"}


@asynccontextmanager
async def gateway(directory: Path, *breaches: Middleware, baseline: float = 0.0) -> AsyncIterator[Target]:
    """Let our gateway listen, with two releases, behind what breaks its rules; with a baseline, in an experiment."""
    store, key = Store.open("memory://"), Ed25519PrivateKey.generate()
    known = await apps.create_app(store, "shop", 1)
    revoked = await apps.add_key(store, "shop", 2)
    await apps.revoke_key(store, "shop", revoked, 3)
    for number in (1, 2):
        await publish_release(
            store,
            app="shop",
            model="upsell",
            file=MODELS / f"upsell-{number}.mlmodel",
            sdk="",
            signing_key=key,
            now_ms=time.time_ns() // 1_000_000,
            trusted=[public_bytes(key)],
        )
    if baseline:
        plan = Plan(app="shop", model="upsell", challenger=2, champion=1, baseline=baseline, stages=[1.0])
        await change(store, "shop", "upsell", lambda last: start(last, plan, Said("ann", "try it", 4)))
    snapshots = SnapshotKeeper(store)
    await snapshots.refresh()
    sink = await EmbeddedLog.open(directory, max_bytes=2**30, max_pending_bytes=2**26)
    app = create_app(Config(inline_bytes=0), sink=sink, snapshots=snapshots, store=store)
    for breach in breaches:
        app.middlewares.insert(0, breach)
    runner = web.AppRunner(app, auto_decompress=False, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield Target(f"http://{host}:{port}/", known, "upsell", [public_bytes(key)], revoked)
    finally:
        await runner.cleanup()
        await sink.close()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
    async def judged() -> list[Result]:
        async with gateway(tmp_path_factory.mktemp("log")) as target:
            return await judge(target)

    return {result.row: result for result in asyncio.run(judged())}


@pytest.mark.parametrize("row", ROWS.rows, ids=lambda row: f"{row.name}: {row.sentence}")
def test_our_gateway_holds_row(row: Row[Asked], results: dict[str, Result]) -> None:
    result = results[row.name]
    if row.check is None:
        pytest.skip(result.why)
    assert (result.outcome, result.why) == ("passed", "")


async def test_a_gateway_with_an_experiment_under_way_holds_what_it_says_to_a_device_for_that_device(
    tmp_path: Path,
) -> None:
    async with gateway(tmp_path, baseline=0.3) as target:
        results = [result for _ in range(8) for result in await judge(target, only=["G14", "G17"])]
    assert {(result.outcome, result.why) for result in results} == {("passed", "")}


async def test_read_only_asks_nothing_that_is_kept(tmp_path: Path) -> None:
    posted: list[int] = []

    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if request.method == "POST":
            posted.append(response.status)
        return response

    async with gateway(tmp_path, watch) as target:
        results = await judge(msgspec.structs.replace(target, read_only=True))
    assert {result.row for result in results if result.outcome == "passed"} == READ_ONLY
    assert {result.outcome for result in results} == {"passed", "skipped"}
    assert set(posted) == {401, 403, 415}, "nothing that is kept has such an answer"


Headers = dict[str, str]
Change = Callable[[web.Request, int, Headers, bytes], tuple[int, Headers, bytes]]


def breaking(change: Change) -> Middleware:
    """Return what changes every answer."""

    @web.middleware
    async def breach(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        assert isinstance(response, web.Response)
        assert isinstance(response.body, bytes)
        status, headers, body = change(request, response.status, dict(response.headers), response.body)
        headers.pop("Content-Length", None)
        return web.Response(status=status, headers=headers, body=body)

    return breach


def changing(**fields: Any) -> Middleware:
    """Return what changes fields of every reply to a batch; None takes one away."""

    def change(request: web.Request, status: int, headers: Headers, body: bytes) -> tuple[int, Headers, bytes]:
        if request.path == "/v1/batches" and status == 200:
            told = {**json.loads(body), **fields}
            body = json.dumps({name: value for name, value in told.items() if value is not None}).encode()
        return status, headers, body

    return breaking(change)


def untagged(headers: Headers) -> Headers:
    return {name: value for name, value in headers.items() if name.lower() != "etag"}


BREACHES: Final[dict[str, tuple[Middleware, set[str]]]] = {
    "problems that are pages": (
        breaking(lambda _, status, headers, body: (status, {**headers, "Content-Type": "text/html"}, body)),
        {"G3", "G4", "G5", "G6", "G7", "G8"},
    ),
    "refusals that are not said": (changing(refused=None), {"G9", "G10"}),
    "an answer to another batch": (changing(batch="01980f3e-7c51-7a2b-9d44-3e5f60718293"), {"G10"}),
    "a clock of 1970": (changing(server_time=0), {"G15"}),
    "a flush policy without an end": (changing(flush={"events": 50, "seconds": 10**9, "lease_seconds": 1}), {"G15"}),
    "a long reply": (changing(motd="x" * 200), {"G14"}),
    "an order that never ends": (changing(use={"upsell": "none"}), {"G14", "G17"}),
    "a release that nobody signed": (changing(use={"upsell": 77}), {"G14", "G17"}),
    "no entity tags": (
        breaking(lambda _, status, headers, body: (status, untagged(headers), body)),
        {"G18"},
    ),
    "other bytes of an artifact": (
        breaking(
            lambda asked, status, headers, body: (status, headers, body[:: -1 if "artifacts" in asked.path else 1])
        ),
        {"G18"},
    ),
    "no key that is refused": (
        breaking(lambda _, status, headers, body: (200 if status in (401, 403) else status, headers, body)),
        {"G4", "G5"},
    ),
}


@pytest.mark.parametrize("breach", BREACHES)
async def test_a_gateway_that_breaks_a_rule_fails_its_rows(breach: str, tmp_path: Path) -> None:
    middleware, broken = BREACHES[breach]
    async with gateway(tmp_path, middleware) as target:
        results = await judge(target)
    assert broken <= {result.row for result in results if result.outcome == "failed"}


async def test_another_publishers_key_fails_the_signature_alone(tmp_path: Path) -> None:
    async with gateway(tmp_path) as target:
        stranger = public_bytes(Ed25519PrivateKey.generate())
        results = await judge(msgspec.structs.replace(target, public_keys=[stranger]))
    assert [(result.row, result.why) for result in results if result.outcome == "failed"] == [
        ("G16", "the catalogue does not hold: unknown_key")
    ]


async def test_a_gateway_that_is_not_there_is_not_judged() -> None:
    with pytest.raises(Unreached):
        await judge(Target("http://127.0.0.1:9", "shop.secret"))


@contextmanager
def serving(directory: Path) -> Iterator[Target]:
    """Let a gateway listen in a thread: the command line has a loop of its own."""
    begun: list[Target] = []
    ready, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with gateway(directory) as target:
            begun.append(target)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(60)
        yield begun[0]
    finally:
        over.set()
        thread.join()


def test_the_command_says_what_holds_by_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(tmp_path) as target:
        words = ["device", "check", target.url, "--app-key", target.app_key, "--row", "G1", "--row", "G11"]
        assert main([*words, "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["passed"], [row["row"] for row in said["rows"]]) == (2, ["G1", "G11"])
        assert main([*words, "--row", "G16", "--model", "none"]) == 0
        said_of_none = capsys.readouterr()
        assert "the app has no catalogue of 'none'" in said_of_none.out
        assert said_of_none.err.splitlines()[-1].startswith("nothing of updates was checked: publish a release")
        assert main([*words[:4], "shop.wrong", *words[5:]]) == 1
        assert capsys.readouterr().err == "backhaul: the gateway refuses this app key: 401\n"


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (["http://127.0.0.1:9"], 2, "give its --app-key"),
        (["http://127.0.0.1:9", "--app-key", "shop.secret"], 3, "does not answer"),
        ([], 2, "name either a gateway's URL or a --driver"),
        (["http://127.0.0.1:9", "--driver", "x"], 2, "name either"),
        (["--driver", "/nowhere/driver"], 3, "the driver's command '/nowhere/driver' is not there"),
        (["--driver", "true", "--row", "77"], 2, "there is no row 77"),
        (["--driver", "true", "--row", "28"], 1, ""),
    ],
)
def test_the_command_says_what_it_cannot_do(
    words: list[str], code: int, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["device", "check", *words]) == code
    assert why in capsys.readouterr().err
