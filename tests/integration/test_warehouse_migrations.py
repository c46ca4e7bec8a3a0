"""The warehouse's tables: made once, by whoever comes first, and kept to the retention that is set."""

import asyncio
from typing import Any

from consumers import migrations


async def test_applying_twice_changes_nothing(warehouse_client: Any, ask: Any) -> None:
    await migrations.apply(warehouse_client, 90)
    before = await ask(warehouse_client, _TABLES)
    await migrations.apply(warehouse_client, 90)
    assert await ask(warehouse_client, _TABLES) == before
    assert await ask(warehouse_client, "SELECT version FROM migrations ORDER BY version") == [(1,), (2,), (3,), (4,)]


async def test_consumers_that_start_at_once_make_one_warehouse(
    clickhouse: Any, warehouse_client: Any, ask: Any
) -> None:
    clients = [await clickhouse.connect(warehouse_client.database) for _ in range(4)]
    await asyncio.gather(*(migrations.apply(client, 90) for client in clients))
    assert await ask(warehouse_client, "SELECT version FROM migrations ORDER BY version") == [(1,), (2,), (3,), (4,)]
    for client in clients:
        await client.close()


async def test_an_interrupted_migration_is_taken_up_again(warehouse_client: Any, ask: Any) -> None:
    await migrations.apply(warehouse_client, 90)
    await warehouse_client.command("DROP VIEW parsed_to_batches")
    await warehouse_client.command("TRUNCATE TABLE migrations")
    await migrations.apply(warehouse_client, 90)
    assert ("parsed_to_batches",) in await ask(warehouse_client, _TABLES)


async def test_a_changed_retention_alters_the_tables(warehouse_client: Any, ask: Any) -> None:
    await migrations.apply(warehouse_client, 90)
    await migrations.apply(warehouse_client, 30)
    found = await ask(
        warehouse_client,
        "SELECT name, extract(engine_full, 'toIntervalDay.(\\\\d+)') FROM system.tables "
        "WHERE database = currentDatabase() AND engine_full LIKE '%TTL%' ORDER BY name",
    )
    assert found == [("batches", "33"), ("dead_letters", "33"), ("events", "30")]


async def test_every_target_remembers_tokens_and_is_on_disk_before_it_answers(warehouse_client: Any, ask: Any) -> None:
    await migrations.apply(warehouse_client, 90)
    found = await ask(
        warehouse_client,
        "SELECT name FROM system.tables WHERE database = currentDatabase() AND engine = 'MergeTree' AND NOT ("
        "engine_full LIKE '%non_replicated_deduplication_window%' AND engine_full LIKE '%fsync_after_insert = 1%' "
        "AND engine_full LIKE '%fsync_part_directory = 1%')",
    )
    assert found == []


_TABLES = "SELECT name FROM system.tables WHERE database = currentDatabase() ORDER BY name"
