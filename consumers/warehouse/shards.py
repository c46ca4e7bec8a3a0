"""The warehouse as a ClickHouse cluster: which shard a lane belongs to, and what its replicas are asked for.

* A lane belongs to one shard, by its partition; its plans, its rows and the batches of its devices are all there. So
  the package's argument holds shard by shard, with a shard for "the server", if a shard answers like one server:
* **Plans are linearizable.** A plan is inserted under its token with a majority of the replicas, one at a time, and is
  read with `select_sequential_consistency`, also by the fence inside an insert: a replica that lacks the newest plan
  refuses to answer. The token and the order of plans (block numbers) are Keeper's, so they are one for all replicas.
* **Nothing that was written is overlooked.** Before a question about what is stored, the replica fetches all that
  Keeper knows of (`SYSTEM SYNC REPLICA`). Where the only one that has a part is down, the lane waits for it.
* **Tokens are the shard's.** Two consumers that write one range through two replicas are told apart by Keeper, for
  10,000 blocks and seven days; what is dropped there as repeated is fetched before the next question.
* **Answered means on a majority.** Rows are inserted with `insert_quorum`, too, before the position is committed. With
  two replicas that is both: while one is down its shard is not filled and the log keeps what comes; with three the
  shard goes on. Reading needs one replica.

What this adds to what would break it: another number of shards (lanes move, and devices' resends are not recognised
across the move, as with another number of partitions), and a Keeper that reads stale (`quorum_reads` off).

Shards of one replica each need no Keeper and get plain tables. Replicas cannot be added to those later.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Final

import msgspec
from clickhouse_connect.driver.asyncclient import AsyncClient
from msgspec import Struct

from consumers import migrations
from consumers.ending import until
from consumers.warehouse.plans import Lane
from consumers.warehouse.settings import WarehouseSettings
from consumers.warehouse.tables import Away, Rejected, Tables, answered

# From a host's name and a database to a client of it. Raises `Away`.
Connect = Callable[[str, str], Awaitable[AsyncClient]]

_log = logging.getLogger(__name__)

_SINGLE: Final = 1
_PING_SECONDS: Final = 5.0
_REACH_SECONDS: Final = 30.0


class Cluster(Struct, frozen=True):
    """The hosts of every shard, in the cluster's order."""

    name: str
    shards: tuple[tuple[str, ...], ...]

    @property
    def replicated(self) -> bool:
        """Say whether any shard has several replicas: then all tables are replicated ones."""
        return any(len(hosts) > _SINGLE for hosts in self.shards)


async def find(client: AsyncClient, name: str) -> Cluster:
    """Ask a server which hosts its cluster has. Raises `Rejected` where it knows none of that name."""
    found = await client.command(
        "SELECT toJSONString(groupArray(hosts)) FROM (SELECT groupArray(host_name) AS hosts FROM ("
        "SELECT shard_num, host_name FROM system.clusters WHERE cluster = {name:String} ORDER BY shard_num, replica_num"
        ") GROUP BY shard_num ORDER BY shard_num)",
        parameters={"name": name},
        use_database=False,  # it is not there before the first migration
    )
    shards = msgspec.json.decode(str(found), type=tuple[tuple[str, ...], ...])
    if not shards:
        raise Rejected(f"the server knows no cluster {name!r}: is it in its remote_servers?")
    return Cluster(name, shards)


class Shards:
    """Clients of the cluster's servers, each brought to this version before it is used."""

    def __init__(self, cluster: Cluster, database: str, connect: Connect, settings: WarehouseSettings) -> None:
        self._cluster, self._database, self._connect, self._settings = cluster, database, connect, settings
        self._rows = f"{database}_rows"
        self._clients: dict[str, AsyncClient] = {}
        self._why: dict[str, str] = {}
        self._connecting: dict[str, asyncio.Lock] = {}

    async def open(self) -> None:
        """Reach every server there is. Raises `Away` where a shard has none."""
        await self.reach()
        for number, hosts in enumerate(self._cluster.shards, 1):
            if not any(host in self._clients for host in hosts):
                reasons = "; ".join(f"{host}: {self._why.get(host)}" for host in hosts)
                raise Away(f"no replica of shard {number} is ready: {reasons}")

    async def reach(self) -> None:
        """Connect to the servers that did not answer so far."""
        for hosts in self._cluster.shards:
            for host in hosts:
                with suppress(Away, Rejected):
                    await self.client(host)

    async def keep_reaching(self, stop: asyncio.Event) -> None:
        """Bring a server that was down at the start to this version once it is back, whether a lane needs it or not."""
        while not stop.is_set():
            await until(stop, _REACH_SECONDS)
            await self.reach()

    async def client(self, host: str) -> AsyncClient:
        """Return a client of the host whose database holds the shard's rows. Raises `Away` and `Rejected`."""
        async with self._connecting.setdefault(host, asyncio.Lock()):
            if host not in self._clients:
                try:
                    self._clients[host] = await self._brought(host)
                except (Away, Rejected) as reason:
                    if str(reason) != self._why.get(host):
                        self._why[host] = str(reason)
                        _log.warning("%s is not ready: %s", host, reason)
                    raise
                self._why.pop(host, None)
        return self._clients[host]

    async def _brought(self, host: str) -> AsyncClient:
        client = await self._connect(host, self._rows)
        window = await self._connect(host, self._database)
        try:
            async with answered(self._settings.timeout_seconds):
                await migrations.apply(client, self._settings.retention_days, replicated=self._cluster.replicated)
                await migrations.distribute(window, self._cluster.name, self._rows)
        except BaseException:
            await client.close()
            raise
        finally:
            await window.close()
        return client

    def tables(self, lane: Lane) -> Tables:
        """Return the lane's own view of its shard."""
        hosts = self._cluster.shards[lane.partition % len(self._cluster.shards)]
        # Neighbouring lanes of a shard begin on different replicas.
        first = lane.partition // len(self._cluster.shards) % len(hosts)
        kind = _ReplicaTables if self._cluster.replicated else _ShardTables
        return kind(self, [*hosts[first:], *hosts[:first]], self._settings.timeout_seconds)

    async def close(self) -> None:
        """Close every connection."""
        for client in self._clients.values():
            await client.close()


class _ShardTables(Tables):
    """One shard's tables, through whichever of its servers answers."""

    def __init__(self, shards: Shards, hosts: Sequence[str], timeout_seconds: float) -> None:
        self._shards, self._hosts, self._at = shards, hosts, 0
        self._timeout_seconds = timeout_seconds

    async def begin(self) -> None:
        for _ in self._hosts:
            try:
                client = await self._shards.client(self._hosts[self._at])
                async with answered(min(self._timeout_seconds, _PING_SECONDS)):
                    await client.command("SELECT 1", use_database=False)
            except (Away, Rejected) as reason:
                _log.warning("%s does not answer: %s", self._hosts[self._at], reason)
                self.suspect()
            else:
                self._client = client
                return
        raise Away(f"none of {', '.join(self._hosts)} answers")

    def suspect(self) -> None:
        self._at = (self._at + 1) % len(self._hosts)


class _ReplicaTables(_ShardTables):
    """A shard with replicas, asked so that it answers like one server."""

    claiming: ClassVar[dict[str, Any]] = {
        "insert_quorum": "auto",
        "insert_quorum_parallel": 0,
        "insert_quorum_timeout": 30_000,
    }
    asking: ClassVar[dict[str, Any]] = {"select_sequential_consistency": 1}
    inserting: ClassVar[dict[str, Any]] = {
        "insert_quorum": "auto",
        "insert_quorum_parallel": 1,
        "insert_quorum_timeout": 30_000,
        "select_sequential_consistency": 1,
    }

    async def _catch_up(self, table: str) -> None:
        async with self._bounded():
            await self._client.command(f"SYSTEM SYNC REPLICA {table} LIGHTWEIGHT")
