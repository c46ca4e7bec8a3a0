"""Exactly once, attacked: crashes between any two steps, resends, zombies, lost positions and forgotten tokens.

Every test ends with the same question: does each batch stand in the warehouse once, and each of its events once?
"""

import asyncio
import random
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from clickhouse_connect.driver.asyncclient import AsyncClient

from consumers import migrations
from consumers.source import EmbeddedSource, Source
from consumers.warehouse.batches import Batches
from consumers.warehouse.lane import LaneConsumer, LogBehind
from consumers.warehouse.letters import Letters
from consumers.warehouse.plans import Lane, Plan
from consumers.warehouse.settings import WarehouseSettings
from consumers.warehouse.tables import Superseded, Tables
from gateway.publish.embedded import EmbeddedLog
from schemas.records import DeadLetter, StoredRecord, dead_letter_record

SETTINGS = WarehouseSettings(
    range_records=4, poll_seconds=0.01, linger_seconds=0, backoff_seconds=0.01, backoff_max_seconds=0.05
)


class Crash(Exception):
    """The process ends here, as far as the consumer can tell."""


class Fuse:
    """Calls through to a real thing, and crashes before or after its n-th call (of those that the world can see)."""

    steps = ("claim", "insert", "commit", "newest_plan", "batch_origins")

    def __init__(self, at: int, after: bool) -> None:
        self.left, self.after = at, after

    def around(self, thing: Any) -> Any:
        return _Fused(thing, self)

    async def burn(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        self.left -= 1
        if self.left == 0 and not self.after:
            raise Crash
        answer = await call(*args, **kwargs)
        if self.left == 0:
            raise Crash
        return answer


class _Fused:
    def __init__(self, thing: Any, fuse: Fuse) -> None:
        self._thing, self._fuse = thing, fuse

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._thing, name)
        if name not in Fuse.steps:
            return attribute
        return lambda *args, **kwargs: self._fuse.burn(attribute, *args, **kwargs)


def consumer(source: Any, tables: Any, cargo: Any = None, settings: WarehouseSettings = SETTINGS) -> LaneConsumer:
    topic = "dead_letters" if isinstance(cargo, Letters) else "batches"
    lane = Lane(source.identity, topic, 0)
    return LaneConsumer(lane, source, tables, cargo or Batches(), settings, lambda _: None)


@pytest.fixture
async def tables(warehouse_client: AsyncClient) -> Tables:
    await migrations.apply(warehouse_client, 90)
    return Tables(warehouse_client, 30)


async def finish(source: Source, tables: Any, cargo: Any = None) -> LaneConsumer:
    """Do what a consumer that nothing disturbs does, until the log is stored."""
    worker = consumer(source, tables, cargo)
    offset = await worker.resume()
    while offset < await source.end(worker.progress.topic, 0):
        offset, _ = await worker.advance(offset)
    return worker


async def caught_up(source: Source) -> None:
    """Wait until the consumer that runs has stored what is on the log."""
    async with asyncio.timeout(60):
        while await source.position("batches", 0) < await source.end("batches", 0):  # noqa: ASYNC110 - a file tells
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", range(1, 13))
async def test_a_crash_before_or_after_any_step_loses_and_doubles_nothing(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any, step: int, after: bool, each_once: Any
) -> None:
    await log.publish([make_batch(events=5) for _ in range(10)])
    fuse = Fuse(step, after)
    with pytest.raises(Crash):
        await finish(fuse.around(source), fuse.around(tables))
    await log.publish([make_batch(events=5) for _ in range(3)])
    await finish(source, tables)
    assert await each_once(warehouse_client) == (13, 65)
    assert await source.position("batches", 0) == await source.end("batches", 0)


async def test_a_seeded_life_of_crashes_and_resends_leaves_each_batch_once(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any, each_once: Any
) -> None:
    dice = random.Random(11)  # noqa: S311 - test data
    sent = []
    for _ in range(25):
        fresh = [make_batch(events=dice.randrange(1, 6), refused=(0,) * dice.randrange(2)) for _ in range(3)]
        sent += fresh
        await log.publish([*fresh, *dice.choices(sent, k=dice.randrange(4))])
        fuse = Fuse(dice.randrange(1, 9), dice.random() < 0.5)
        worker = consumer(fuse.around(source), fuse.around(tables))
        try:
            offset = await worker.resume()
            while offset < await source.end("batches", 0):
                offset, _ = await worker.advance(offset)
        except Crash:
            continue
    await finish(source, tables)
    batches, _ = await each_once(warehouse_client)
    assert batches == len(sent)


async def test_a_resend_is_dropped_and_counted_wherever_the_first_copy_stands(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any, each_once: Any
) -> None:
    first, second = make_batch(events=5), make_batch(events=5)
    await log.publish([first, first, second, first, second])  # in one range, and across the edge of one
    await finish(source, tables)
    await log.publish([first, make_batch(events=5)])
    worker = await finish(source, tables)
    assert await each_once(warehouse_client) == (3, 15)
    assert worker.progress.resends == 1
    offsets = (await warehouse_client.query("SELECT offset FROM batches ORDER BY offset")).result_rows
    assert [offset for (offset,) in offsets] == [1, 3, 7] or [offset for (offset,) in offsets] == [0, 2, 6]


async def test_the_same_batch_id_of_another_device_or_app_is_another_batch(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any, each_once: Any
) -> None:
    batch = str(uuid.uuid4())
    device = str(uuid.uuid4())
    await log.publish(
        [
            make_batch(batch=batch, device=device),
            make_batch(batch=batch),
            make_batch(batch=batch, device=device, app="other"),
        ]
    )
    await finish(source, tables)
    assert await each_once(warehouse_client) == (3, 15)


async def test_a_resend_on_a_log_made_anew_is_still_a_resend(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any, tmp_path: Path, each_once: Any
) -> None:
    record = make_batch(events=5)
    await log.publish([record])
    await finish(source, tables)
    other = await EmbeddedLog.open(tmp_path / "other", max_bytes=1 << 30, max_pending_bytes=1 << 26)
    await other.publish([record, make_batch(events=5)])
    reader = await EmbeddedSource.open(tmp_path / "other", "warehouse")
    await finish(reader, tables)
    assert await each_once(warehouse_client) == (2, 10)
    await reader.close()
    await other.close()


def letter(index: int | None, body: str, batch: str | None = "01980000-0000-7000-8000-000000000002") -> Any:
    device = batch and "6f1c0000-0000-4000-8000-000000000001"
    about: dict[str, Any] = {
        "app": "shop",
        "received_at": time.time_ns() // 1_000_000,
        "device": device,
        "batch": batch,
    }
    return dead_letter_record(DeadLetter(**about, index=index, reason="malformed", encoding="gzip", body=body))


async def test_dead_letters_that_come_again_are_kept_once(
    log: Any, source: Any, tables: Any, warehouse_client: Any
) -> None:
    await log.publish(
        [letter(1, "a"), letter(2, "a"), letter(1, "a"), letter(None, "b", None), letter(None, "c", None)]
    )
    await finish(source, tables, Letters())
    await log.publish([letter(None, "b", None), letter(2, "a"), letter(3, "a")])
    await source.commit("dead_letters", 0, 0)
    await finish(source, tables, Letters())
    found = (await warehouse_client.query("SELECT `index`, body FROM dead_letters ORDER BY body, `index`")).result_rows
    assert [tuple(row) for row in found] == [(1, "a"), (2, "a"), (3, "a"), (None, "b"), (None, "c")]


async def test_a_position_that_was_lost_stores_nothing_twice(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any, each_once: Any
) -> None:
    await log.publish([make_batch(events=5) for _ in range(10)])
    await finish(source, tables)
    await source.commit("batches", 0, 0)
    await finish(source, tables)
    assert await each_once(warehouse_client) == (10, 50)


# -- half-finished ranges whose tokens the server no longer knows


async def planned(source: Any, tables: Tables, worker: LaneConsumer) -> tuple[Plan, list[Any]]:
    records: Sequence[StoredRecord] = await source.read("batches", 0, 0, max_records=100, max_bytes=1 << 24)
    lane = Lane(source.identity, "batches", 0)
    plan = await tables.claim(Plan(lane, 0, records[-1].offset))
    return plan, [Batches().read(lane, record, False, 0) for record in records]


@pytest.mark.parametrize("token", [None, "forgotten"], ids=["same-token", "forgotten-token"])
@pytest.mark.parametrize("wrote", ["batches", "events", "both", "some-batches", "some-events"])
async def test_a_half_finished_range_is_completed_with_or_without_its_tokens(
    log: Any,
    source: Any,
    tables: Any,
    warehouse_client: Any,
    make_batch: Any,
    wrote: str,
    token: str | None,
    each_once: Any,
) -> None:
    await log.publish([make_batch(events=5, received_at=_day(n)) for n in (0, 0, 1, 1)])
    worker = consumer(source, tables)
    plan, items = await planned(source, tables, worker)
    # A block is written as a whole to a table's partition: what "some" leaves out is another day.
    written = items[:2] if wrote.startswith("some") else items
    without_batch, without_events = wrote.endswith("events"), wrote.endswith("batches")
    rows = b"".join(item.row(without_batch, without_events) for item in written)
    await tables.insert(plan, "landing", Batches.structure, rows, token or plan.token)
    await finish(source, tables)
    assert await each_once(warehouse_client) == (4, 20)


def _day(number: int) -> int:
    """Return a time in a partition of its own."""
    return time.time_ns() // 1_000_000 - number * 45 * 86_400_000


async def test_a_token_that_was_spent_on_rows_that_are_gone_does_not_lose_them(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any, each_once: Any
) -> None:
    await log.publish([make_batch(events=5) for _ in range(4)])
    await finish(source, tables)
    # A server that kept the token but lost the part: deleting rows leaves the tokens where they are.
    await warehouse_client.command("ALTER TABLE events DELETE WHERE 1", settings={"mutations_sync": 2})
    await source.commit("batches", 0, 0)
    await finish(source, tables)
    assert await each_once(warehouse_client) == (4, 20)


# -- two consumers at once, and one that comes back from the dead


async def test_of_two_plans_with_one_start_the_oldest_counts_whatever_their_ends(
    source: Any, tables: Any, warehouse_client: Any
) -> None:
    lane = Lane("log", "batches", 0)
    claims = [tables.claim(Plan(lane, 0, last)) for last in range(1, 9)]
    winners = {plan.last for plan in await asyncio.gather(*claims)}
    assert len(winners) == 1
    # Even where the token is forgotten and a second row gets in.
    row = "(log, topic, partition, first, last) VALUES ('log', 'batches', 0, 0, 99)"
    await warehouse_client.command(f"INSERT INTO plans {row}")
    await warehouse_client.command("OPTIMIZE TABLE plans FINAL")
    assert (await tables.claim(Plan(lane, 0, 5))).last in winners
    assert await tables.newest_plan(lane) == Plan(lane, 0, winners.pop())


async def test_a_consumer_that_lost_the_race_for_a_plan_writes_the_winners_range(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any, each_once: Any
) -> None:
    await log.publish([make_batch(events=5) for _ in range(4)])
    await tables.claim(Plan(Lane(source.identity, "batches", 0), 0, 2))
    worker = consumer(source, tables)
    assert await worker.advance(0) == (3, True)
    assert await each_once(warehouse_client) in ((2, 10), (3, 15))
    await finish(source, tables)
    assert await each_once(warehouse_client) == (4, 20)


async def test_two_consumers_of_one_lane_at_once_store_each_batch_once(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any, tmp_path: Path, each_once: Any
) -> None:
    await log.publish([make_batch(events=5) for _ in range(40)])
    stop = asyncio.Event()
    sources = [source, *[await EmbeddedSource.open(tmp_path / "log", f"warehouse-{n}") for n in (1, 2)]]
    workers = [consumer(each, tables) for each in sources]
    running = [asyncio.create_task(worker.run(stop)) for worker in workers]
    for each in sources:
        await caught_up(each)
    stop.set()
    await asyncio.gather(*running)
    assert await each_once(warehouse_client) == (40, 200)
    for each in sources[1:]:
        await each.close()


async def test_a_zombie_in_front_of_its_insert_is_fenced_once_the_chain_has_gone_on(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any, each_once: Any
) -> None:
    await log.publish([make_batch(events=5) for _ in range(8)])
    zombie = consumer(source, tables)
    plan, items = await planned(source, tables, zombie)
    items = items[: plan.last + 1]
    await finish(source, tables)
    rows = b"".join(item.row(False, False) for item in items)
    await tables.insert(plan, "landing", Batches.structure, rows, plan.token)  # still the newest: its token drops it
    await log.publish([make_batch(events=5)])
    await finish(source, tables)
    with pytest.raises(Superseded):  # and now not even a token that nobody remembers lets it in
        await tables.insert(plan, "landing", Batches.structure, rows, "forgotten")
    with pytest.raises(Superseded):
        await zombie.advance(0)
    assert await each_once(warehouse_client) == (9, 45)


async def test_a_superseded_consumer_takes_its_place_behind_the_chain(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any, each_once: Any
) -> None:
    await log.publish([make_batch(events=5) for _ in range(8)])
    stale = consumer(source, tables)
    await stale.resume()
    await finish(source, tables)
    await log.publish([make_batch(events=5)])
    stop = asyncio.Event()
    running = asyncio.create_task(stale.run(stop))
    await caught_up(source)
    stop.set()
    await running
    assert await each_once(warehouse_client) == (9, 45)


async def test_a_log_that_was_set_back_is_not_written(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any
) -> None:
    await log.publish([make_batch(events=5)])
    await tables.claim(Plan(Lane(source.identity, "batches", 0), 0, 100))
    with pytest.raises(LogBehind, match="restored from an older copy"):
        await consumer(source, tables).resume()
