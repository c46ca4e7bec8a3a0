"""The rollup inside the parts of `events`: used where a query fits it, and equal to the rows whatever happened."""

import asyncio
import random
from contextlib import suppress
from typing import Any

from consumers import migrations, reports
from schemas.records import Told
from tests.warehouse_steps import Crash, Fuse, consumer, finish

HOURS = """
    SELECT app, model, type, toStartOfHour(occurred_at) AS hour, count()
    FROM events GROUP BY app, model, type, hour ORDER BY ALL
"""
ARMS = """
    SELECT
        model, release, source, arm, toDate(toStartOfHour(occurred_at)) AS day, decision, outcome, count(), sum(score)
    FROM events WHERE app = 'shop' AND type = 'prediction' GROUP BY ALL ORDER BY ALL
"""
LATE = """
    SELECT model, toDate(toStartOfHour(occurred_at)) AS day, outcome, count()
    FROM events WHERE type = 'outcome' GROUP BY ALL ORDER BY ALL
"""
FROM_ROLLUP = {"optimize_use_projections": 1, "force_optimize_projection_name": "rollup"}
FROM_ROWS = {"optimize_use_projections": 0}


async def rows(client: Any, question: str, settings: dict[str, Any]) -> list[tuple[Any, ...]]:
    found = (await client.query(question, settings=settings)).result_rows
    # Sums of floats depend on their order in the last digits.
    return [tuple(round(value, 9) if isinstance(value, float) else value for value in row) for row in found]


async def agrees(client: Any) -> int:
    """Check every question against the rows, and return how many events the rollup counts."""
    for question in (HOURS, ARMS, LATE):
        counted = await rows(client, question, FROM_ROLLUP)
        assert counted == await rows(client, question, FROM_ROWS)
    (total,) = (await rows(client, "SELECT sum(n) FROM (SELECT count() AS n FROM events GROUP BY app)", FROM_ROLLUP))[0]
    return int(total)


async def test_the_rollup_agrees_with_the_rows_after_crashes_replays_resends_and_merges(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any, each_once: Any
) -> None:
    dice = random.Random(5)  # noqa: S311 - test data
    sent: list[Any] = []
    for _ in range(12):
        arm = {"upsell": Told(use=42, arm=dice.choice(["champion", "challenger"]), rollout=1)}
        sent += (fresh := [make_batch(events=dice.randrange(1, 9), offer=arm) for _ in range(3)])
        await log.publish([*fresh, *dice.choices(sent, k=dice.randrange(4))])
        fuse = Fuse(dice.randrange(1, 9), dice.random() < 0.5)
        with suppress(Crash):
            await finish(fuse.around(source), fuse.around(tables))
    await finish(source, tables)
    await source.commit("batches", 0, 0)
    await finish(source, tables)
    _, events = await each_once(warehouse_client)
    assert await agrees(warehouse_client) == events
    await warehouse_client.command("OPTIMIZE TABLE events FINAL")
    assert await agrees(warehouse_client) == events


async def test_two_consumers_at_once_leave_a_rollup_that_agrees(
    log: Any, source: Any, tables: Any, warehouse_client: Any, make_batch: Any
) -> None:
    await log.publish([make_batch(events=10) for _ in range(20)])
    stop = asyncio.Event()
    running = [asyncio.create_task(consumer(source, tables).run(stop)) for _ in range(2)]
    async with asyncio.timeout(60):
        while await source.position("batches", 0) < 20:  # noqa: ASYNC110 - a file tells
            await asyncio.sleep(0.02)
    stop.set()
    await asyncio.gather(*running)
    assert await agrees(warehouse_client) == 200


async def test_rows_from_before_the_rollup_are_counted_in_it(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any
) -> None:
    await migrations.apply(warehouse_client, 90)
    await warehouse_client.command("ALTER TABLE events DROP PROJECTION rollup", settings={"mutations_sync": 2})
    await log.publish([make_batch(events=10)])
    await drain(source, warehouse_client)
    await warehouse_client.command("ALTER TABLE migrations DELETE WHERE version = 3", settings={"mutations_sync": 2})
    await migrations.apply(warehouse_client, 90)
    await log.publish([make_batch(events=10)])
    await drain(source, warehouse_client)
    assert await agrees(warehouse_client) == 20


async def test_rows_that_are_deleted_leave_the_rollup_too(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any
) -> None:
    await log.publish([make_batch(events=10, app=app) for app in ("shop", "other")])
    await drain(source, warehouse_client)
    await warehouse_client.command("DELETE FROM events WHERE app = 'other'")
    assert await agrees(warehouse_client) == 10


async def test_the_report_of_events_by_type_is_answered_from_the_rollup(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any
) -> None:
    await log.publish([make_batch(events=10)])
    await drain(source, warehouse_client)
    question = reports._TYPES
    found = await warehouse_client.query(question, parameters={"app": "shop"}, settings=FROM_ROLLUP)
    assert dict(found.result_rows) == {"prediction": 6, "outcome": 2, "model": 2}
