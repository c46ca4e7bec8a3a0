"""Processes that are killed, and models that kill their processes, one or several of a device."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.client import Bundled
from gateway.client.storage import Storage
from schemas.releases import Parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schemas.releases import Release
    from tests.integration.client.conftest import World

SIGNALS = {"battery": 0.5, "charging": 1.0}
DAY_SECONDS = 86_400

# A real process with the real client; its runtime ends the process when the artifact says so.
CHILD = r"""
import asyncio, json, os, sys
from pathlib import Path
from gateway.client import Bundled, Client, Limits
from gateway.client.runtimes import BadModel
from schemas.releases import Parameters

told = json.loads(sys.argv[1])

class Model:
    input_size, labels, metadata = 2, ["Dismissed", "Purchased"], {}
    def __init__(self, score, most):
        self.score, self.most = score, most
    def predict(self, inputs):
        if inputs[0] > self.most:
            os._exit(66)
        return {"Purchased": self.score + 0.01 * inputs[0], "Dismissed": 0.0}

class Runtime:
    format = "opaque"
    def load(self, data):
        told = json.loads(data)
        if told.get("load") == "crash":
            os._exit(66)
        if told.get("load") == "slow":
            print("load", flush=True)
            sys.stdin.readline()
        return Model(told["score"], told.get("crashes_above", 1e9))

class Clock:
    def now_ms(self):
        return told["now_ms"]
    def monotonic(self):
        return asyncio.get_running_loop().time() if told["timer"] else 0.0
    async def sleep(self, seconds):
        await asyncio.sleep(seconds)

async def main():
    client = Client(
        "shop.secret", told["url"], [bytes.fromhex(told["key"])], directory=Path(told["directory"]),
        bundled={"upsell": Bundled(1, told["bundle"].encode(), Parameters(), ["battery", "charging"])},
        runtime=Runtime(), clock=Clock(), limits=Limits(**told["limits"]),
    )
    async with client:
        print("open", client.status().models["upsell"].release, flush=True)
        for _ in range(told["flushes"]):
            await client.flush()
        if told["told"]:
            await asyncio.to_thread(sys.stdin.readline)
        for battery in told["batteries"]:
            client.predict("upsell", {"battery": battery, "charging": 1.0})
        while told["busy"]:
            for _ in range(7):
                made = client.predict("upsell", {"battery": 0.5, "charging": 1.0})
                if made.id % 3 == 0:
                    client.outcome(made.id, "upsell", "purchased", 1.0)
            await client.flush()
        print("end", client.status().models["upsell"].release, flush=True)

asyncio.run(main())
"""


async def start(
    world: World,
    *,
    flushes: int = 0,
    batteries: Sequence[float] = (),
    busy: bool = False,
    told: bool = False,
    **limits: Any,
) -> asyncio.subprocess.Process:
    """Start a launch of the app; where it is `told` when to go on, that is a line on its standard input."""
    says = {
        "url": world.url,
        "key": world.publisher.public.hex(),
        "directory": str(world.directory),
        "bundle": bytes(world.bundle.content).decode(),
        "now_ms": world.clock.now_ms(),
        "flushes": flushes,
        "batteries": batteries,
        "busy": busy,
        "told": told,
        "timer": True,
        "limits": {"jitter_seconds": 0.0, "backoff_first_seconds": 0.01, "backoff_last_seconds": 0.02, **limits},
    }
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        CHILD,
        json.dumps(says),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def run(world: World, *, flushes: int = 0, batteries: Sequence[float] = ()) -> tuple[int, list[str]]:
    """Run a launch of the app to its end. Return its exit code and what it said."""
    process = await start(world, flushes=flushes, batteries=batteries)
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode().split("\n")[:-1]


def artifact(score: float, **told: Any) -> bytes:
    return msgspec.json.encode({"score": score, **told})


async def test_killed_at_any_moment_every_event_is_received_once_queued_or_counted(world: World) -> None:
    dice = random.Random(11)  # noqa: S311 - a seeded draw, no secret
    lost_answers = 0

    async def trouble() -> None:
        nonlocal lost_answers
        await asyncio.sleep(dice.uniform(0, 0.004))
        if dice.random() < 0.1:
            lost_answers += 1
            world.gateway.cut_next = True

    world.gateway.before_answer = trouble
    world.offer(17, [world.publisher.release(42, artifact(0.8))], 42)
    for _ in range(14):
        process = await start(world, busy=True, queue_events=40, batch_events=5)
        assert process.stdout is not None
        await process.stdout.readline()
        await asyncio.sleep(dice.uniform(0.0, 0.25))
        process.send_signal(signal.SIGKILL)
        await process.communicate()
    await world.settle()  # the gateway may still be busy with what a killed device sent
    world.gateway.before_answer, world.gateway.cut_next = None, False
    queued = _queued(world.directory)
    client = await world.open()
    ledger, status = client.ledger, client.status()
    stored = [event for batch in world.gateway.stored.values() for event in batch.events]
    in_flight = 0
    if status.frozen_batch in world.gateway.stored:  # stored, but the device was killed before it knew
        in_flight = len(world.gateway.stored[status.frozen_batch].events)
    assert ledger.produced == len(stored) - in_flight + status.queued_events + sum(ledger.dropped.values())
    assert queued == status.queued_events
    world.clock.turn(100_000)
    assert await client.flush() == "sent"
    ledger, status = client.ledger, client.status()
    stored = [event for batch in world.gateway.stored.values() for event in batch.events]
    assert ledger.produced == len(stored) + status.queued_events + sum(ledger.dropped.values())
    ids = Counter(event["id"] for event in world.gateway.events("prediction"))
    assert max(ids.values()) == 1
    assert len(ids) > 30
    seqs = sorted(batch.seq for batch in world.gateway.stored.values())
    assert seqs == list(range(1, len(seqs) + 1)), "no gap, no number twice"
    assert {len(batch.batch) for batch in world.gateway.batches} == {36}
    assert lost_answers > 0
    for batch in world.gateway.batches:
        first = world.gateway.stored[batch.batch]
        assert batch == msgspec.structs.replace(first, sent_at=batch.sent_at), "a retry is the same but for its time"


def _queued(directory: Path) -> int:
    storage = Storage(directory)
    with storage.transaction() as tx:
        found = int(tx.execute("SELECT count(*) FROM events").fetchone()[0])
    storage.close()
    return found


async def test_a_release_that_kills_its_process_gets_two_starts_and_then_a_quarantine(world: World) -> None:
    world.offer(17, [world.publisher.release(42, artifact(0.8, load="crash"))], 42)
    codes = [(await run(world, flushes=2))[0] for _ in range(5)]
    assert codes == [66, 66, 0, 0, 0]
    assert world.gateway.steps(42)[-1] == ("quarantined", "crashed")
    assert len(world.gateway.fetches) == 1
    world.clock.turn(DAY_SECONDS + 1)
    codes = [(await run(world, flushes=2))[0] for _ in range(4)]
    assert codes == [66, 66, 0, 0]


async def test_a_release_that_ends_the_process_over_a_real_input_may_do_so_twice_and_gives_way(world: World) -> None:
    old = world.publisher.release(41, artifact(0.7))
    new = world.publisher.release(42, artifact(0.8, crashes_above=0.9))
    world.offer(17, [old, new], 41)
    assert await run(world, flushes=1, batteries=(0.5,)) == (0, ["open 1", "end 41"])
    world.gateway.use["upsell"] = 42
    assert await run(world, flushes=1) == (0, ["open 41", "end 42"])
    fallen = (0, ["open 41", "end 41"])
    launches = [await run(world, batteries=(0.5, 0.95)) for _ in range(4)]
    assert launches == [(66, ["open 42"]), (66, ["open 42"]), fallen, fallen]
    assert await run(world, flushes=2) == fallen
    assert world.gateway.steps(42)[-1] == ("quarantined", "crashed")
    world.clock.turn(DAY_SECONDS + 1)
    assert await run(world, flushes=2) == (0, ["open 41", "end 42"]), "the quarantine ends"


async def test_what_crashes_late_and_seldom_may_end_two_starts_however_many_good_answers_it_gave(world: World) -> None:
    world.offer(17, [world.publisher.release(42, artifact(0.8, crashes_above=5))], 42)
    assert await run(world, flushes=2) == (0, ["open 1", "end 42"])
    good, late = [0.5] * 12, [0.5] * 11 + [9.0]
    launches = [(await run(world, batteries=batteries))[0] for batteries in (good, late, good, late, good, late, late)]
    assert launches == [0, 66, 0, 66, 0, 0, 0]
    assert await run(world, flushes=2) == (0, ["open 1", "end 1"])
    assert world.gateway.steps(42)[-1] == ("quarantined", "crashed")


async def test_of_the_processes_that_have_a_release_loaded_it_may_end_two(world: World) -> None:
    world.offer(17, [world.publisher.release(42, artifact(0.8, crashes_above=5))], 42)
    assert await run(world, flushes=2) == (0, ["open 1", "end 42"])
    processes = [await start(world, batteries=[9.0], told=True) for _ in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"open 42\n"
    said = [await process.communicate(b"go\n") for process in processes]
    assert [process.returncode for process in processes] == [66, 66, 0, 0]
    assert [out for out, _ in said] == [b"", b"", b"end 1\n", b"end 1\n"]


async def test_of_the_processes_that_start_at_once_a_load_may_end_two_and_the_others_come_back_to_it(
    world: World,
) -> None:
    world.offer(17, [world.publisher.release(42, artifact(0.8))], 42)
    assert await run(world, flushes=2) == (0, ["open 1", "end 42"])
    slow = artifact(0.8, load="slow")
    entry = world.publisher.release(42, slow)
    world.offer(18, [entry], 42)
    _replace(world, slow, [entry])
    loading = [await start(world, told=True) for _ in range(2)]
    for process in loading:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"load\n"
    assert await run(world) == (0, ["open 1", "end 1"]), "for now"
    third = await start(world, flushes=2, told=True)
    assert third.stdout is not None
    assert await third.stdout.readline() == b"open 1\n"
    for process in loading:
        said, _ = await process.communicate(b"go\n")
        assert said == b"open 42\nend 42\n"
    said, _ = await third.communicate(b"go\ngo\n")
    assert said == b"load\nend 42\n"


async def test_a_damaged_mark_does_not_keep_the_app_from_opening(world: World) -> None:
    async with world.client() as client:
        digest = client._slots["upsell"].bundled.sha256
    path = world.directory / "tries" / f"{digest}.0"
    mark = path.read_bytes()
    for text in (bytes([2, 7]) + mark[2:], bytes([255]) * len(mark), b""):
        path.write_bytes(text)
        async with world.client() as client:
            assert world.runs(client) == (1, "bundled", "bundled")


async def test_an_active_release_that_begins_to_crash_gives_way_to_the_previous_one(world: World) -> None:
    old, new = world.publisher.release(41, artifact(0.7)), world.publisher.release(42, artifact(0.8))
    world.offer(17, [old, new], 41)
    assert await run(world, flushes=1) == (0, ["open 1", "end 41"])
    world.gateway.use["upsell"] = 42
    assert await run(world, flushes=1) == (0, ["open 41", "end 42"])
    # The artifact cannot change, but a system update can make it crash: here another file under a state that knows it.
    _let_crash(world, new.sha256)
    fallen = (0, ["open 41", "end 41"])
    assert [await run(world) for _ in range(4)] == [(66, []), (66, []), fallen, fallen]


def _let_crash(world: World, digest: str) -> None:
    """Make the stored artifact one that crashes, and its entries agree with it."""
    data = artifact(0.8, load="crash")
    entry = world.publisher.release(42, data)
    _replace(world, data, [world.publisher.release(41, artifact(0.7)), entry])
    (world.directory / "models" / digest).unlink()


def _replace(world: World, data: bytes, entries: list[Release]) -> None:
    """Make it what the device has as the active release, the last of the entries."""
    entry, news = entries[-1], world.publisher.news(18, entries)
    storage = Storage(world.directory)
    with storage.transaction(durable=True) as tx:
        text = tx.execute("SELECT state FROM models").fetchone()[0]
        state = msgspec.json.decode(text)
        state |= msgspec.to_builtins({"document": news.document, "signatures": news.signatures, "active": entry})
        tx.execute("UPDATE models SET state = ?", (msgspec.json.encode(state),))
    storage.close()
    (world.directory / "models" / entry.sha256).write_bytes(data)


async def test_a_bundle_that_kills_its_process_is_left_alone_after_two_starts(world: World) -> None:
    world.bundle = Bundled(1, artifact(0.2, load="crash"), Parameters(), ["battery", "charging"])
    assert [(await run(world))[0] for _ in range(4)] == [66, 66, 0, 0]


async def test_processes_that_predict_at_the_same_time_lose_nothing(world: World) -> None:
    enough = asyncio.Event()

    async def count() -> None:
        if len(world.gateway.stored) >= 30:
            enough.set()

    world.gateway.before_answer = count
    processes = [await start(world, busy=True) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        await process.stdout.readline()
    await asyncio.wait_for(enough.wait(), 30)
    for process in processes:
        process.send_signal(signal.SIGKILL)
        await process.communicate()
    await world.settle()
    client = await world.open()
    world.clock.turn(100_000)
    assert await client.flush() == "sent"
    ledger = client.ledger
    stored = sum(len(batch.events) for batch in world.gateway.stored.values())
    assert ledger.produced == stored + sum(ledger.dropped.values())
    ids = Counter(event["id"] for event in world.gateway.events("prediction"))
    assert max(ids.values()) == 1
