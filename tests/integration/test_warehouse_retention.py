"""Rows that expire: nothing is doubled around the end of the retention, when some rows of a batch may be gone."""

import time
import uuid
from typing import Any

from consumers.warehouse import WarehouseSettings
from schemas.records import DeadLetter, dead_letter_record

HOUR_MS = 3_600_000
ONE_DAY = WarehouseSettings(retention_days=1, poll_seconds=0.01, linger_seconds=0)


async def test_a_resend_is_recognised_as_long_as_events_of_it_can_be_there(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any, ask: Any
) -> None:
    now_ms = time.time_ns() // 1_000_000
    ages = [(str(uuid.uuid4()), str(uuid.uuid4()), hours) for hours in range(1, 24 * 6)]

    def batches(received: Any) -> list[Any]:
        return [make_batch(events=2, device=d, batch=b, received_at=received(hours)) for d, b, hours in ages]

    await log.publish(batches(lambda hours: now_ms - hours * HOUR_MS))
    await drain(source, warehouse_client, ONE_DAY)
    await expired(warehouse_client)
    there = "SELECT date_diff('hour', min(received_at), now()) FROM"
    events_hours = await ask(warehouse_client, f"{there} events")
    batches_hours = await ask(warehouse_client, f"{there} batches")
    left = "SELECT batch FROM events WHERE batch NOT IN (SELECT batch FROM batches)"
    assert await ask(warehouse_client, left) == []
    assert events_hours[0][0] < 48, "a day's rows leave together, so some are a day late"
    assert batches_hours[0][0] >= 95, "and a server may be late with its merges"

    await log.publish(batches(lambda hours: now_ms))
    await drain(source, warehouse_client, ONE_DAY)
    await expired(warehouse_client)
    doubled = "SELECT count() FROM (SELECT batch, `index` FROM events GROUP BY ALL HAVING count() > 1)"
    assert await ask(warehouse_client, doubled) == [(0,)]


async def test_a_dead_letter_that_comes_again_before_it_expires_is_kept_once(
    log: Any, source: Any, warehouse_client: Any, drain: Any, ask: Any
) -> None:
    now_ms = time.time_ns() // 1_000_000

    def letter(received_at: int) -> Any:
        about: dict[str, Any] = {"app": "shop", "device": None, "batch": None, "index": None}
        return dead_letter_record(
            DeadLetter(**about, received_at=received_at, reason="malformed", encoding="gzip", body="H4sI")
        )

    await log.publish([letter(now_ms - 60 * HOUR_MS)])
    await drain(source, warehouse_client, ONE_DAY)
    await expired(warehouse_client)
    await log.publish([letter(now_ms)])
    await drain(source, warehouse_client, ONE_DAY)
    assert await ask(warehouse_client, "SELECT count() FROM dead_letters") == [(1,)]


async def expired(client: Any) -> None:
    """Do at once what the server does by and by: rows leave, but those of `events` all of a part, or none."""
    await client.command("SYSTEM STOP TTL MERGES events")
    await client.command("OPTIMIZE TABLE batches FINAL")
    await client.command("OPTIMIZE TABLE dead_letters FINAL")
    question = "SELECT _part FROM events GROUP BY _part HAVING max(received_at) < now() - INTERVAL 1 DAY"
    for (part,) in (await client.query(question)).result_rows:
        await client.command(f"ALTER TABLE events DROP PART '{part}'")
