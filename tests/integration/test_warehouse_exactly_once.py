"""Exactly once, attacked: crashes between any two steps, resends, lost positions and forgotten tokens.

Every test ends with the same question: does each batch stand in the warehouse once, and each of its events once?
"""

import random
import time
import uuid
from pathlib import Path
from typing import Any

import pytest

from consumers.source import EmbeddedSource
from consumers.warehouse.batches import Batches
from consumers.warehouse.letters import Letters
from gateway.publish.embedded import EmbeddedLog
from schemas.records import DeadLetter, dead_letter_record
from tests.warehouse_steps import Crash, Fuse, consumer, finish, planned


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
    plan, items = await planned(source, tables)
    # A block is written as a whole to a table's partition: what "some" leaves out is another day.
    written = items[:2] if wrote.startswith("some") else items
    without_batch, without_events = wrote.endswith("events"), wrote.endswith("batches")
    rows = [piece for item in written for piece in item.row(without_batch, without_events)]
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
