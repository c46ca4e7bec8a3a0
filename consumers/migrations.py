"""Bring the warehouse's tables to the version this code expects: numbered SQL from `schemas/`, applied at start.

* Every statement can run twice and in two consumers at once (`IF NOT EXISTS`), so there is no lock to lose.
* What was applied is recorded in the table `migrations`. A newer version than ours is left alone: changes only add.
* Retention is a setting, so it is not history: it is compared, and altered where it differs, at every start.
* In a cluster every server is brought to the version by itself: its views and its list of versions are its own, and
  replicated tables find each other by their path.
* What recognises a resend outlives what the resend would double: `batches` and `dead_letters` are kept longer.
"""

import logging
import re
from collections.abc import Mapping
from importlib import resources
from typing import Final

from clickhouse_connect.driver.asyncclient import AsyncClient

_log = logging.getLogger(__name__)

# `events` expire by whole days, so a row may stay a day longer than its retention, and until a merge takes its part
# away. The rest is for a server that was away or is behind with its merges.
_RECOGNISED_DAYS: Final = 3
_FILE: Final = re.compile(r"(\d{4})_(\w+)\.sql")
_VERSIONS: Final = """
    CREATE TABLE IF NOT EXISTS migrations
        (version UInt32, name String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3))
    ENGINE = MergeTree ORDER BY version
    SETTINGS non_replicated_deduplication_window = 1000, fsync_after_insert = 1, fsync_part_directory = 1
"""
# Where Keeper keeps a table, and who this server is there: the server's macros say.
PATH: Final = "'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'"
_REPLICATED: Final = (
    ("ENGINE = MergeTree", f"ENGINE = ReplicatedMergeTree({PATH})"),
    # Whichever limit is reached first ends a token; the default of the second one is an hour in some versions.
    (
        "non_replicated_deduplication_window = 10000",
        "replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800",
    ),
)


async def apply(client: AsyncClient, retention_days: int, *, replicated: bool = False) -> None:
    """Create the client's database and everything in it that is not there yet, and set how long rows are kept.

    `replicated`: as one replica of a shard; the server's macros `shard` and `replica` say which.
    """
    found = _migrations("warehouse")
    await _bring(client, {n: (name, rendered(text, retention_days, replicated=replicated)) for n, name, text in found})
    await _keep_for(client, retention_days)


async def distribute(client: AsyncClient, cluster: str, rows: str) -> None:
    """Create the client's database as a window on the database `rows` of all shards of the cluster."""
    found = _migrations("warehouse_cluster")
    await _bring(client, {number: (name, distributed(text, cluster, rows)) for number, name, text in found})


async def _bring(client: AsyncClient, wanted: Mapping[int, tuple[str, str]]) -> None:
    database = str(client.database or "default")
    await client.command(f"CREATE DATABASE IF NOT EXISTS {_quoted(database)}", use_database=False)
    await client.command(_VERSIONS)
    applied = {int(row[0]) for row in (await client.query("SELECT version FROM migrations")).result_rows}
    for version in sorted(set(wanted) - applied):
        await _apply_one(client, version, *wanted[version])


def rendered(text: str, retention_days: int, *, replicated: bool) -> str:
    """Return a migration's SQL for one server, or for a replica of a shard."""
    for plain, shared in _REPLICATED if replicated else ():
        text = text.replace(plain, shared)
    days = {"{retention_days}": retention_days, "{recognised_days}": retention_days + _RECOGNISED_DAYS}
    for name, count in days.items():
        text = text.replace(name, str(count))
    return text


def distributed(text: str, cluster: str, rows: str) -> str:
    """Return a migration's SQL for the database that shows all shards."""
    return text.replace("{cluster}", _text(cluster)).replace("{rows}", rows)


def statements(text: str) -> list[str]:
    """Cut a migration into what is sent one by one."""
    return [statement for statement in text.split(";\n") if statement.strip()]


def _migrations(folder: str) -> list[tuple[int, str, str]]:
    found = []
    for file in (resources.files("schemas") / "sql" / folder).iterdir():
        match = _FILE.fullmatch(file.name)
        if match:
            found.append((int(match[1]), match[2], file.read_text(encoding="utf-8")))
    return sorted(found)


async def _apply_one(client: AsyncClient, version: int, name: str, text: str) -> None:
    _log.info("warehouse: applying %04d_%s", version, name)
    for statement in statements(text):
        await client.command(statement)
    await client.command(
        "INSERT INTO migrations (version, name) SELECT {version:UInt32}, {name:String}",
        parameters={"version": version, "name": name},
        settings={"insert_deduplication_token": f"migration:{version}"},
    )


async def _keep_for(client: AsyncClient, retention_days: int) -> None:
    found = await client.query(
        "SELECT name, extract(engine_full, 'toIntervalDay\\\\((\\\\d+)\\\\)') FROM system.tables "
        "WHERE database = currentDatabase() AND engine LIKE '%MergeTree' AND engine_full LIKE '%TTL%'"
    )
    for table, days in found.result_rows:
        wanted = retention_days if table == "events" else retention_days + _RECOGNISED_DAYS
        if days != str(wanted):
            _log.info("warehouse: %s keeps rows for %d days from now on, not %s", table, wanted, days)
            ttl = f"toDateTime(received_at) + toIntervalDay({wanted:d})"
            await client.command(f"ALTER TABLE {_quoted(str(table))} MODIFY TTL {ttl}")


def _quoted(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _text(value: str) -> str:
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
