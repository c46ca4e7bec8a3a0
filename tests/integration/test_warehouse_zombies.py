"""Two consumers of one lane at once, and one that comes back from the dead: the chain of plans decides."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from consumers.source import EmbeddedSource
from consumers.warehouse.batches import Batches
from consumers.warehouse.lane import LogBehind
from consumers.warehouse.plans import Lane, Plan
from consumers.warehouse.tables import Superseded
from tests.warehouse_steps import caught_up, consumer, finish, planned, pruned


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
    plan, items = await planned(source, tables)
    items = items[: plan.last + 1]
    await finish(source, tables)
    rows = [piece for item in items for piece in item.row(False, False)]
    await tables.insert(plan, "landing", Batches.structure, rows, plan.token)  # still the newest: its token drops it
    await log.publish([make_batch(events=5)])
    await finish(source, tables)
    with pytest.raises(Superseded):  # and now not even a token that nobody remembers lets it in
        await tables.insert(plan, "landing", Batches.structure, rows, "forgotten")
    with pytest.raises(Superseded):
        await tables.claim(plan)
    assert await each_once(warehouse_client) == (9, 45)


async def test_a_zombie_that_comes_back_after_its_plan_was_pruned_is_fenced_all_the_same(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any, each_once: Any
) -> None:
    await log.publish([make_batch(events=5) for _ in range(8)])
    plan, items = await planned(source, tables)
    rows = [piece for item in items for piece in item.row(False, False)]
    await finish(source, tables)
    for _ in range(4):
        await log.publish([make_batch(events=5)])
        await finish(source, tables)
    await pruned(tables, plan.lane, keep=2)
    left = (await warehouse_client.query("SELECT first FROM plans ORDER BY first")).result_rows
    assert len(left) == 2
    assert plan.first not in [first for (first,) in left]
    with pytest.raises(Superseded):
        await tables.insert(plan, "landing", Batches.structure, rows, "forgotten")
    with pytest.raises(Superseded):
        await tables.claim(plan)  # plans the range anew, since nothing remembers it, and learns it is behind
    with pytest.raises(Superseded):
        await tables.insert(plan, "landing", Batches.structure, rows, "forgotten")
    await finish(source, tables)
    assert await each_once(warehouse_client) == (12, 60)


async def test_a_lane_without_plans_may_not_be_written(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any, count: Any
) -> None:
    await log.publish([make_batch(events=5)])
    plan, items = await planned(source, tables)
    await warehouse_client.command("TRUNCATE TABLE plans")
    with pytest.raises(Superseded):
        await tables.insert(plan, "landing", Batches.structure, items[0].row(False, False), "any")
    assert await count(warehouse_client) == (0, 0, 0)


async def test_pruning_keeps_the_newest_plans_of_each_lane(tables: Any, warehouse_client: Any) -> None:
    lanes = [Lane("log", "batches", 0), Lane("log", "batches", 1), Lane("log", "dead_letters", 0)]
    for lane in lanes:
        for first in range(6):
            await tables.claim(Plan(lane, first, first))
    await pruned(tables, lanes[0], keep=3)
    await pruned(tables, lanes[1], keep=9)
    found = await warehouse_client.query("SELECT topic, partition, groupArray(first) FROM plans GROUP BY ALL")
    kept = {(topic, partition): sorted(firsts) for topic, partition, firsts in found.result_rows}
    assert kept == {("batches", 0): [3, 4, 5], ("batches", 1): [*range(6)], ("dead_letters", 0): [*range(6)]}
    assert [await tables.newest_plan(lane) for lane in lanes] == [Plan(lane, 5, 5) for lane in lanes]


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
