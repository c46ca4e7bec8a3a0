"""The synchronous face: from plain threads, in a script, across a fork."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import os
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.client import Bundled, Client, CoreMLRuntime, Limits, SyncClient
from schemas.releases import Parameters

if TYPE_CHECKING:
    from tests.integration.client.conftest import World

SIGNALS = {"battery": 0.5, "charging": 1.0}
ROOT = Path(__file__).parents[3]
MODEL = ROOT / "tests/models/upsell-1.mlmodel"


def client_of(world: World, **changes: Any) -> SyncClient:
    options: dict[str, Any] = {
        "directory": world.directory,
        "bundled": {"upsell": world.bundle},
        "runtime": world.runtime,
        "limits": Limits(jitter_seconds=0.0),
        **changes,
    }
    return SyncClient("shop.secret", world.url, [world.publisher.public], **options)


def every_method() -> list[str]:
    public = [name for name in vars(Client) if not name.startswith("_")]
    return [*public, "__init__"]


@pytest.mark.parametrize("name", every_method())
def test_it_has_every_method_of_the_client_with_the_same_parameters(name: str) -> None:
    theirs, ours = getattr(Client, name), getattr(SyncClient, name)
    if callable(theirs):
        assert inspect.signature(ours).parameters == inspect.signature(theirs).parameters


async def test_it_predicts_sends_and_updates_without_an_event_loop_of_the_app(world: World) -> None:
    world.offer_42()

    def app() -> None:
        with client_of(world) as client:
            made = client.predict("upsell", SIGNALS)
            assert (made.id, made.release, made.source) == (1, 1, "bundled")
            client.outcome(made.id, "upsell", "purchased", 1.0)
            assert client.flush() == "sent"
            assert client.predict("upsell", SIGNALS).release == 42
            client.foreground()
            client.background()
            assert client.status().queued_events == 0
            assert client.ledger.produced == 6

    await asyncio.to_thread(app)
    first, second = world.gateway.events("prediction")
    assert (first["outcome"], second["release"]) == ("purchased", 42)


async def test_a_prediction_does_not_wait_for_a_flush(world: World) -> None:
    asked, answer = asyncio.Event(), asyncio.Event()

    async def hold() -> None:
        asked.set()
        await answer.wait()

    world.gateway.before_answer = hold
    with ThreadPoolExecutor() as threads, client_of(world) as client:
        run = asyncio.get_running_loop().run_in_executor
        flush = run(threads, client.flush)
        await asked.wait()
        made = await run(threads, client.predict, "upsell", SIGNALS)
        assert made.id == 1
        assert not flush.done()
        answer.set()
        assert await flush == "sent"


async def test_many_threads_predict_at_once_and_nothing_is_lost(world: World) -> None:
    def some(client: SyncClient) -> list[int]:
        ids = [client.predict("upsell", SIGNALS).id for _ in range(25)]
        for number in ids:
            client.outcome(number, "upsell", "dismissed")
        return ids

    def app() -> list[int]:
        with ThreadPoolExecutor(8) as threads, client_of(world) as client:
            found = [number for ids in threads.map(some, [client] * 8) for number in ids]
            client.flush()
            return found

    ids = await asyncio.to_thread(app)
    assert sorted(ids) == list(range(1, 201))
    assert sorted(event["id"] for event in world.gateway.events("prediction")) == sorted(ids)


async def test_closing_ends_a_flush_that_waits_and_keeps_its_batch(world: World) -> None:
    asked = asyncio.Event()

    async def never() -> None:
        asked.set()
        await asyncio.Event().wait()

    world.gateway.before_answer = never
    client = client_of(world).open()
    await asyncio.to_thread(client.predict, "upsell", SIGNALS)
    flush = asyncio.create_task(asyncio.to_thread(client.flush))
    await asked.wait()
    await asyncio.to_thread(client.close)
    with pytest.raises(RuntimeError, match="closed"):
        await flush
    with pytest.raises(RuntimeError, match="not open"):
        client.predict("upsell", SIGNALS)
    world.gateway.before_answer = None
    with client:
        assert client.status().queued_events == 1
        assert await asyncio.to_thread(client.flush) == "sent"


async def test_the_hooks_may_be_told_before_it_opens(world: World) -> None:
    world.offer_42(world.artifact(0.8, pad="x" * 3000))
    client = client_of(world, limits=Limits(expensive_download_bytes=1000))
    client.low_power(True)
    client.expensive_network(True)
    with client:
        await asyncio.to_thread(client.flush)
        assert client.predict("upsell", SIGNALS).release == 1
        client.low_power(False)
        client.expensive_network(False)
        await asyncio.to_thread(client.flush)
        assert client.predict("upsell", SIGNALS).release == 42


def test_wrong_parameters_are_said_at_once(world: World) -> None:
    with pytest.raises(TypeError, match="session"):
        client_of(world, session=object())
    with pytest.raises(ValueError, match="root keys"):
        client_of(world, root_threshold=2)
    with pytest.raises(ValueError, match="base64"):
        SyncClient("shop.secret", world.url, [b"A" * 44], directory=world.directory, bundled={}, runtime=world.runtime)
    with pytest.raises(KeyError), client_of(world) as client:
        client.predict("unknown", SIGNALS)


SCRIPT = r"""
import json, os, sys, threading
from pathlib import Path
from gateway.client import Bundled, Limits, SyncClient
from gateway.client.runtimes.coreml import CoreMLRuntime
from schemas.releases import Parameters

told = json.loads(sys.argv[1])
client = SyncClient(
    "shop.secret", told["url"], [bytes.fromhex(told["key"])], directory=Path(told["directory"]),
    bundled={"upsell": Bundled(1, Path(told["model"]), Parameters(), ["battery", "charging"])},
    runtime=CoreMLRuntime(), limits=Limits(jitter_seconds=0.0, backoff_first_seconds=0.05),
)
client.open()
ids = [client.predict("upsell", {"battery": 0.5}).id]
busy = threading.Thread(target=lambda: ids.extend(client.predict("upsell", {}).id for _ in range(50)))
if told["fork"]:
    busy.start()
    child = os.fork()
    ids.extend(client.predict("upsell", {"battery": 0.5}).id for _ in range(20))
    if child == 0:
        while client.flush() == "waiting":
            pass
        client.close()
        os._exit(0)
    busy.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    while client.flush() != "sent":
        pass
print(len(set(ids)) == len(ids), flush=True)
"""


async def run_script(world: World, *, fork: bool) -> tuple[int, str, str]:
    told = {
        "url": world.url,
        "key": world.publisher.public.hex(),
        "directory": str(world.directory),
        "model": str(MODEL),
        "fork": fork,
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "ignore::DeprecationWarning", "-c", SCRIPT, json.dumps(told)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaints = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, said.decode().strip(), complaints.decode()


async def test_a_script_that_forgets_to_close_ends_and_keeps_its_events(world: World) -> None:
    assert await run_script(world, fork=False) == (0, "True", "")
    bundle = Bundled(1, world.bundle.data, Parameters(), ["battery", "charging"])
    with client_of(world, bundled={"upsell": bundle}) as client:
        assert client.status().queued_events == 1


async def test_what_the_readme_shows_runs(world: World, tmp_path: Path) -> None:
    section = (ROOT / "README.md").read_text("utf-8").partition("\n## Use it from Python\n")[2]
    shown = re.findall(r"^```python\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)[0]
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    (tmp_path / "release.pem.pub").write_bytes(base64.b64encode(world.publisher.public) + b"\n")
    four = ["battery_level", "charging", "session_seconds", "items_viewed"]
    data = (ROOT / "tests/models/upsell-2.mlmodel").read_bytes()
    newer = world.publisher.release(2, data, format="mlmodel", inputs=four, probe=[])
    world.offer(1, [newer], 2, expires_at=time.time_ns() // 1_000_000 + 86_400_000)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", shown.replace("http://127.0.0.1:8080", world.url)),
        stdout=asyncio.subprocess.PIPE,
        cwd=tmp_path,
        env=os.environ | {"KEY": "shop.secret", "PYTHONPATH": str(ROOT)},
    )
    said, _ = await process.communicate()
    printed = re.findall(r"print\(.*# (.*?)(?:, unless .*)?\n", shown)
    assert said.decode().splitlines() == printed == ["1 bundled 0.26 sent", "2"]
    [event] = world.gateway.events("prediction")
    assert event["signals"] == [0.81, 1.0, 90.0, 4.0]


def test_paths_may_be_plain_text_and_a_bundle_that_is_not_there_is_said_before_anything_is_open(tmp_path: Path) -> None:
    shipped = Bundled(1, str(MODEL), Parameters(), ["battery", "charging"])
    assert shipped.sha256 == sha256(MODEL.read_bytes()).hexdigest()
    directory = str(tmp_path / "device")
    with SyncClient(
        "shop.secret",
        "http://127.0.0.1:9",
        [bytes(32)],
        directory=directory,
        bundled={"upsell": shipped},
        runtime=CoreMLRuntime(),
    ) as client:
        assert client.predict("upsell", SIGNALS).source == "bundled"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Bundled(1, "nowhere.mlmodel", Parameters(), ["battery", "charging"])


def test_the_log_hears_once_of_a_signal_that_the_bundle_does_not_name(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with client_of(world) as client:
        for _ in range(3):
            assert client.predict("upsell", {**SIGNALS, "batery": 0.5}).source == "bundled"
    assert caplog.messages == ["upsell: the signal 'batery' is not used: Bundled does not name it"]


async def test_a_fork_leaves_two_processes_that_share_the_queue(world: World) -> None:
    assert await run_script(world, fork=True) == (0, "True", "")
    ids = sorted(event["id"] for event in world.gateway.events("prediction"))
    assert ids == list(range(1, 92)), "1 before the fork, 20 in each process after it, 50 beside it"
    assert len({batch.device for batch in world.gateway.batches}) == 1
