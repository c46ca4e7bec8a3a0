"""The warehouse on several servers: shards really run here; of replicas only the SQL is read by the server.

The embedded server has no listener through which replicas could fetch each other's parts.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import pytest
from clickhouse_connect.driver.asyncclient import AsyncClient

from consumers import migrations, reports
from consumers.source import EmbeddedSource, Source
from consumers.warehouse import Away, Progress, WarehouseSettings, run
from consumers.warehouse.plans import Lane
from consumers.warehouse.shards import Cluster, Shards
from gateway.clickhouse_server import ServerError, connect, wait_until_ready
from gateway.publish.embedded import EmbeddedLog
from gateway.supervisor.ports import free_port
from schemas.records import StoredRecord

DEPLOY = Path(__file__).parents[2] / "deploy" / "clickhouse"
PASSWORD = "one of the operator's"
HOSTS = ("127.0.0.1", "127.0.0.2")
USER = "backhaul"
LANES = 4
SETTINGS = WarehouseSettings(
    cluster="main", poll_seconds=0.01, linger_seconds=0, backoff_seconds=0.05, backoff_max_seconds=0.2
)

_ASK = "import chdb._chdb as e, sys; print(vars(e)['query'](sys.argv[1], 'TabSeparated', path='data'))"
# What a server has before deploy/ adds its user.
_USERS = """<clickhouse><profiles><default/></profiles><quotas><default/></quotas><users><default>
    <password/><networks><ip>::/0</ip></networks><profile>default</profile><quota>default</quota>
</default></users></clickhouse>"""
_SERVE = """
import chdb._chdb as engine, os, sys
os.chdir(sys.argv[1])
vars(engine)["query"](
    "SYSTEM START LISTEN HTTP; SYSTEM START LISTEN TCP; SELECT count() FROM system.numbers WHERE sleepEachRow(0.25) "
    "SETTINGS max_block_size = 1, max_threads = 1, function_sleep_max_microseconds_per_block = 0",
    "TabSeparated",
    path=sys.argv[1] + "/data",
)
"""


class Node:
    """One server of a cluster, on a loopback address of its own."""

    def __init__(self, directory: Path, host: str, http_port: int, tcp_ports: dict[str, int]) -> None:
        self.directory, self.url = directory, f"http://{host}:{http_port}"
        # Of one port a server would take every loopback address for its own.
        shards = "".join(
            f"<shard><replica><host>{each}</host><port>{port}</port></replica></shard>"
            for each, port in tcp_ports.items()
        )
        (directory / "users.d").mkdir(parents=True)
        (directory / "users.d" / "backhaul.xml").write_text((DEPLOY / "users.xml").read_text())
        (directory / "users.xml").write_text(_USERS)
        (directory / "config.xml").write_text(
            f"<clickhouse><listen_host>{host}</listen_host><http_port>{http_port}</http_port>"
            f"<tcp_port>{tcp_ports[host]}</tcp_port><users_config>users.xml</users_config>"
            f"<remote_servers><main><secret>{PASSWORD}</secret>{shards}</main></remote_servers></clickhouse>"
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(self.directory)],
            env={**os.environ, "CLICKHOUSE_BACKHAUL_PASSWORD": PASSWORD},
            stderr=subprocess.DEVNULL,
        )
        wait_until_ready(self.url, 60)

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


class Spread:
    """Several logs as the partitions of one."""

    def __init__(self, logs: Sequence[Source]) -> None:
        self.logs = logs

    def identity_of(self, topic: str) -> str:
        return "spread"

    def partitions(self, topic: str) -> Sequence[int]:
        return range(len(self.logs))

    async def read(self, topic: str, partition: int, first: int, **bounds: int) -> list[StoredRecord]:
        found = await self.logs[partition].read(topic, 0, first, **bounds)
        return [msgspec.structs.replace(record, partition=partition) for record in found]

    async def position(self, topic: str, partition: int) -> int:
        return await self.logs[partition].position(topic, 0)

    async def commit(self, topic: str, partition: int, next_offset: int) -> None:
        await self.logs[partition].commit(topic, 0, next_offset)

    async def end(self, topic: str, partition: int) -> int:
        return await self.logs[partition].end(topic, 0)

    async def close(self) -> None:
        for log in self.logs:
            await log.close()


@pytest.fixture
def nodes(tmp_path: Path) -> Any:
    http_port = free_port()
    tcp_ports = {host: http_port + number for number, host in enumerate(HOSTS, 1)}
    made = [Node(tmp_path / host, host, http_port, tcp_ports) for host in HOSTS]
    for node in made:
        node.start()
    yield made
    for node in made:
        node.kill()


@pytest.fixture
async def logs(tmp_path: Path) -> AsyncIterator[list[EmbeddedLog]]:
    opened = [
        await EmbeddedLog.open(tmp_path / f"log-{n}", max_bytes=1 << 30, max_pending_bytes=1 << 26)
        for n in range(LANES)
    ]
    yield opened
    for log in opened:
        await log.close()


@pytest.fixture
async def spread(logs: list[EmbeddedLog], tmp_path: Path) -> AsyncIterator[Any]:
    opened = Spread([await EmbeddedSource.open(tmp_path / f"log-{n}", "warehouse") for n in range(LANES)])
    yield opened
    await opened.close()


async def reached(nodes: list[Node], host: str, database: str) -> AsyncClient:
    try:
        return await connect(nodes[HOSTS.index(host)].url, USER, PASSWORD, database)
    except ServerError as error:
        raise Away(str(error)) from error


async def consume(spread: Any, nodes: list[Node], lanes: Sequence[int] = range(LANES)) -> None:
    """Run the consumer until it has stored what these lanes have on the log now."""
    stop = asyncio.Event()
    ends = {n: await spread.end("batches", n) for n in lanes}
    client = await connect(nodes[0].url, USER, PASSWORD, "backhaul")
    seen: dict[int, int] = {}

    def observe(now: Progress) -> None:
        if now.topic == "batches":
            seen[now.partition] = now.next_offset
        if all(seen.get(n, 0) >= end for n, end in ends.items()):
            stop.set()

    async with asyncio.timeout(60):
        await run(spread, client, SETTINGS, stop, observe, lambda host, database: reached(nodes, host, database))
    await client.close()


async def test_each_lane_is_stored_on_its_shard_and_questions_see_all_of_them(
    nodes: list[Node], logs: list[EmbeddedLog], spread: Any, make_batch: Any
) -> None:
    sent = [[make_batch(events=5) for _ in range(6)] for _ in range(LANES)]
    for log, records in zip(logs, sent, strict=True):
        await log.publish([*records, records[0]])
    await consume(spread, nodes)
    for log, records in zip(logs, sent, strict=True):
        await log.publish([records[1], make_batch(events=5)])  # sent again, to a consumer started anew
    await consume(spread, nodes)
    for host, partitions in zip(HOSTS, ([0, 2], [1, 3]), strict=True):
        there = await reached(nodes, host, "backhaul_rows")
        found = await there.query("SELECT DISTINCT partition FROM batches ORDER BY partition")
        assert [partition for (partition,) in found.result_rows] == partitions
        assert (await reports.stored_counts(there)).batches == 14
        await there.close()
        every = await reached(nodes, host, "backhaul")
        counts = await reports.stored_counts(every)
        assert (counts.batches, counts.events, counts.doubled) == (28, 140, 0)
        assert (await reports.summary(every)).requests == 28
        await every.close()


async def test_a_shard_that_is_down_holds_up_its_own_lanes_only(
    nodes: list[Node], logs: list[EmbeddedLog], spread: Any, make_batch: Any
) -> None:
    for log in logs:
        await log.publish([make_batch(events=5)])
    await consume(spread, nodes)
    stop = asyncio.Event()
    client = await connect(nodes[0].url, USER, PASSWORD, "backhaul")
    seen: dict[int, Progress] = {}
    changed = asyncio.Event()

    def observe(now: Progress) -> None:
        if now.topic == "batches":
            seen[now.partition] = now
            changed.set()

    async def until(ready: Any) -> None:
        async with asyncio.timeout(60):
            while not ready():
                changed.clear()
                await changed.wait()

    running = asyncio.create_task(
        run(spread, client, SETTINGS, stop, observe, lambda host, database: reached(nodes, host, database))
    )
    await until(lambda: all(n in seen and seen[n].next_offset for n in range(LANES)))
    nodes[1].kill()
    before = {n: seen[n].next_offset for n in range(LANES)}
    for log in logs:
        await log.publish([make_batch(events=5)])
    await until(lambda: all(seen[n].next_offset > before[n] for n in (0, 2)) and all(seen[n].trouble for n in (1, 3)))
    await asyncio.to_thread(nodes[1].start)
    await until(lambda: all(seen[n].next_offset > before[n] for n in range(LANES)))
    stop.set()
    await running
    counts = await reports.stored_counts(client)
    assert (counts.batches, counts.events, counts.doubled) == (8, 40, 0)
    await client.close()


async def test_the_servers_take_the_cluster_that_an_operator_gives_them(tmp_path: Path) -> None:
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d" / "cluster.xml").write_text((DEPLOY / "cluster.xml").read_text())
    (tmp_path / "config.xml").write_text("<clickhouse/>")
    said = {}
    questions = {
        "hosts": "SELECT shard_num, replica_num, host_name, port FROM system.clusters WHERE cluster = 'main'",
        "macros": "SELECT macro, substitution FROM system.macros",
    }
    for name, question in questions.items():
        asked = subprocess.run(  # noqa: ASYNC221 - nothing else runs here
            [sys.executable, "-c", _ASK, question],
            cwd=tmp_path,
            env={**os.environ, "SHARD": "2", "REPLICA": "clickhouse-2a", "CLUSTER_SECRET": "x"},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        said[name] = [tuple(line.split("\t")) for line in asked.stdout.split("\n") if line]
    hosts = [("1", "1", "1a"), ("1", "2", "1b"), ("2", "1", "2a"), ("2", "2", "2b")]
    assert said["hosts"] == [(shard, replica, f"clickhouse-{host}", "9000") for shard, replica, host in hosts]
    assert sorted(said["macros"]) == [("replica", "clickhouse-2a"), ("shard", "2")]


async def test_a_cluster_that_the_server_does_not_know_is_said(nodes: list[Node], spread: Any, caplog: Any) -> None:
    client = await connect(nodes[0].url, USER, PASSWORD, "backhaul")
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.5, stop.set)
    settings = msgspec.structs.replace(SETTINGS, cluster="other")
    await run(spread, client, settings, stop, connect=lambda host, database: reached(nodes, host, database))
    assert "the server knows no cluster 'other'" in caplog.text
    await client.close()


async def test_a_lane_goes_from_a_replica_that_does_not_answer_to_the_next() -> None:
    tried: list[str] = []

    async def nobody(host: str, database: str) -> AsyncClient:
        tried.append(host)
        raise Away(host)

    cluster = Cluster("main", (("a", "b"), ("c", "d")))
    shards = Shards(cluster, "shop", nobody, SETTINGS)
    with pytest.raises(Away, match="no replica of shard 1 is ready: a: a; b: b"):
        await shards.open()
    tried.clear()
    for partition in range(LANES):
        with pytest.raises(Away):
            await shards.tables(Lane("log", "batches", partition)).begin()
    assert tried == [*"ab", *"cd", *"ba", *"dc"]


def sql_of(folder: str) -> list[str]:
    files = sorted((resources.files("schemas") / "sql" / folder).iterdir(), key=lambda file: file.name)
    return [file.read_text(encoding="utf-8") for file in files if file.name.endswith(".sql")]


@pytest.mark.parametrize("replicated", [False, True], ids=["one-server", "replicas"])
async def test_the_server_reads_the_sql_of_both_layouts(warehouse_client: Any, replicated: bool) -> None:
    texts = [migrations.rendered(text, 90, replicated=replicated) for text in sql_of("warehouse")]
    texts += [migrations.distributed(text, "main", "shop_rows") for text in sql_of("warehouse_cluster")]
    tables = 0
    for statement in (each for text in texts for each in migrations.statements(text)):
        await warehouse_client.command(
            "SELECT formatQuery({statement:String})", parameters={"statement": statement}, use_database=False
        )
        assert "{" not in statement.replace(migrations.PATH, "")
        if "MergeTree" in statement:
            tables += 1
            assert ("ReplicatedMergeTree(" in statement) == replicated
            assert (" replicated_deduplication_window = 10000" in statement) == replicated
            assert ("non_replicated_deduplication_window" in statement) != replicated
    assert tables == 4


async def test_the_server_knows_what_a_replica_is_told_besides(warehouse_client: Any) -> None:
    from consumers.warehouse.shards import _ReplicaTables

    for settings in (_ReplicaTables.claiming, _ReplicaTables.asking, _ReplicaTables.inserting):
        assert settings
        await warehouse_client.command("SELECT 1", settings=dict(settings), use_database=False)
    with pytest.raises(Exception, match="no_such_setting"):
        await warehouse_client.command("SELECT 1", settings={"no_such_setting": 1}, use_database=False)
    await warehouse_client.command("SELECT formatQuery('SYSTEM SYNC REPLICA batches LIGHTWEIGHT')", use_database=False)


def test_a_cluster_is_replicated_where_any_shard_has_several_servers() -> None:
    assert not Cluster("main", (("a",), ("b",))).replicated
    assert Cluster("main", (("a",), ("b", "c"))).replicated
