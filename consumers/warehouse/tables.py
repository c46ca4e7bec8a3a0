"""Reach ClickHouse, the only module here that does: plans, questions about what is stored, and the fenced insert.

* An insert is one block, read, parsed and written by one thread, so that its parts are the same at every replay.
* An insert is fenced: the server refuses it once a later range of its lane is planned (see the package's argument).
* On a cluster the same questions go to a replica of one shard: `shards.py` says what differs.
* Errors are four: nobody answered (`Away`), the server said no (`Rejected`), a document is not what it seems
  (`Unreadable`), another consumer is further (`Superseded`).
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, Final

import aiohttp
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError, OperationalError
from clickhouse_connect.driver.external import ExternalData

from consumers.warehouse import rowbinary as rb
from consumers.warehouse.plans import Lane, Origin, Plan

BatchKey = tuple[str, str, str]  # app, device, batch

# More rows than any range holds: whatever the server's defaults, a range is never cut into several blocks.
_ONE_BLOCK: Final = 1_000_000_000
_INSERT_SETTINGS: Final[dict[str, Any]] = {
    "async_insert": 0,
    "deduplicate_blocks_in_dependent_materialized_views": 1,
    "materialized_views_ignore_errors": 0,
    "max_block_size": _ONE_BLOCK,
    "max_insert_block_size": _ONE_BLOCK,
    "max_insert_threads": 1,
    "max_partitions_per_insert_block": 0,
    "max_threads": 1,
    "min_insert_block_size_bytes": 0,
    "min_insert_block_size_rows": _ONE_BLOCK,
    "parallel_view_processing": 0,
    # Nothing in the views fails on a row that a condition spares it: to sort such rows out costs more than to compute
    # them, half a microsecond an event.
    "short_circuit_function_evaluation": "disable",
    # Nothing is answered before all of it is done, views included.
    "wait_end_of_query": 1,
}
# What a replica answers that cannot reach the others or its Keeper now: read-only, no quorum, a session that ended.
_REPLICAS_AWAY: Final = (242, 285, 286, 289, 319, 999)
_LANE: Final = "log = {log:String} AND topic = {topic:String} AND partition = {partition:UInt32}"
_NEWEST: Final = f"(SELECT first FROM plans WHERE {_LANE} ORDER BY first DESC LIMIT 1)"  # noqa: S608 - constants
# No plan at all is no leave to write either.
_FENCE: Final = f"throwIf(NOT ifNull({_NEWEST} = {{first:UInt64}}, false), 'superseded')"


class Away(Exception):
    """Nobody answered, or not in time: the same again later may work, and what was asked may still happen."""


class Rejected(Exception):
    """The server answered with an error."""


class Unreadable(Rejected):
    """A strict insert held a document that the server reads differently from the gateway; nothing was written."""


class Superseded(Exception):
    """A later range of this lane is planned: another consumer has finished this one."""


class _Block(bytes):
    """Rows on their way to the server, in a format of bytes.

    The client decodes what it is given as text, megabytes of it, to see whether it is a question that may be asked
    again: a quarter of a consumer's processor time. To that it sees nothing here.
    """

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Return nothing: there is no text in it."""
        return ""


class Tables:
    """The warehouse as its consumer sees it."""

    # What a server with replicas is told besides.
    claiming: ClassVar[Mapping[str, Any]] = {}
    asking: ClassVar[Mapping[str, Any]] = {}
    inserting: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, client: AsyncClient, timeout_seconds: float) -> None:
        self._client = client
        self._timeout_seconds = timeout_seconds

    async def begin(self) -> None:
        """Choose the server to talk to, before the first question and after every failure."""

    def suspect(self) -> None:
        """Take another server from the next beginning on, where there is one."""

    async def _catch_up(self, table: str) -> None:
        """Wait until the server has every row of the table that any server was given."""

    async def newest_plan(self, lane: Lane) -> Plan | None:
        """Return the last plan of the lane's chain."""
        return await self._newest(lane, 0)

    async def claim(self, plan: Plan) -> Plan:
        """Plan a range unless one that starts there is planned already; return the one that counts.

        Raises `Superseded` where the chain has gone on.
        """
        async with self._bounded():
            await self._client.command(
                "INSERT INTO plans (log, topic, partition, first, last) "
                "SELECT {log:String}, {topic:String}, {partition:UInt32}, {first:UInt64}, {last:UInt64}",
                parameters={**_parameters(plan.lane), "first": plan.first, "last": plan.last},
                settings={"insert_deduplication_token": plan.key, "async_insert": 0, **self.claiming},
            )
        winner = await self._newest(plan.lane, plan.first)
        if winner is None:
            raise Rejected(f"the plan {plan.token} is not there after its insert")
        if winner.first != plan.first:
            raise Superseded(f"{plan.token} by {winner.token}")
        return winner

    async def _newest(self, lane: Lane, first: int) -> Plan | None:
        async with self._bounded():
            found = await self._client.query(
                "SELECT groupArray((first, last)) FROM ("  # noqa: S608 - constants
                f"SELECT first, last FROM plans WHERE {_LANE} AND first >= {{first:UInt64}} "
                "ORDER BY first DESC, _block_number LIMIT 1)",
                parameters={**_parameters(lane), "first": first},
                settings=dict(self.asking),
            )
        ((plans,),) = _said(found.result_rows)
        return Plan(lane, *plans[0]) if plans else None

    async def prune(self, lane: Lane, keep: int) -> None:
        """Forget the lane's plans below its newest ones."""
        async with self._bounded():
            found = await self._client.query(
                f"SELECT first FROM plans WHERE {_LANE} ORDER BY first DESC LIMIT 1 OFFSET {{keep:UInt32}}",  # noqa: S608 - constants
                parameters={**_parameters(lane), "keep": keep},
            )
            if found.result_rows:
                await self._client.command(
                    f"ALTER TABLE plans DELETE WHERE {_LANE} AND first <= {{first:UInt64}}",
                    parameters={**_parameters(lane), "first": found.result_rows[0][0]},
                )

    async def batch_origins(self, keys: Collection[BatchKey]) -> dict[BatchKey, set[Origin]]:
        """Return where the batches that are stored already came from."""
        found: dict[BatchKey, set[Origin]] = {}
        if not keys:
            return found
        question = (
            "groupArray((app, device, batch, log, topic, partition, offset)) FROM batches "
            "WHERE (app, device, batch) IN wanted"
        )
        await self._catch_up("batches")
        for app, device, batch, *origin in await self._ask(question, _batch_keys(keys), len(keys)):
            found.setdefault((app, str(device), str(batch)), set()).add(Origin(*origin))
        return found

    async def batches_with_events(self, keys: Collection[BatchKey], received_ms: tuple[int, int]) -> set[BatchKey]:
        """Return which batches, received within the two times, have rows in `events`."""
        lowest, highest = (f"fromUnixTimestamp64Milli(toInt64({ms:d}), 'UTC')" for ms in received_ms)
        question = (
            "groupUniqArray((app, device, batch)) FROM events "
            f"WHERE (app, device, batch) IN wanted AND received_at BETWEEN {lowest} AND {highest}"
        )
        await self._catch_up("events")
        found = await self._ask(question, _batch_keys(keys), len(keys))
        return {(app, str(device), str(batch)) for app, device, batch in found}

    async def letter_origins(self, digests: Collection[bytes]) -> dict[bytes, set[Origin]]:
        """Return where the dead letters that are stored already came from."""
        found: dict[bytes, set[Origin]] = {}
        if not digests:
            return found
        wanted = ExternalData(
            file_name="wanted", data=b"".join(digests), fmt="RowBinary", structure="digest FixedString(16)"
        )
        question = "groupArray((hex(digest), log, topic, partition, offset)) FROM dead_letters WHERE digest IN wanted"
        await self._catch_up("dead_letters")
        for digest, *origin in await self._ask(question, wanted, len(digests)):
            found.setdefault(bytes.fromhex(digest), set()).add(Origin(*origin))
        return found

    async def _ask(self, question: str, wanted: ExternalData, keys: int) -> Sequence[Sequence[Any]]:
        """Return what is stored of that many keys, all in one row, beside how many keys the server has read."""
        asked = f"SELECT (SELECT count() FROM wanted), {question}"  # noqa: S608 - constants and numbers
        async with self._bounded():
            answer = await self._client.query(asked, external_data=wanted)
        ((read, found),) = _said(answer.result_rows)
        if read != keys:
            raise Away(f"the server has read {read} of {keys} keys")
        return list(found)

    async def insert(self, plan: Plan, table: str, structure: str, rows: Iterable[bytes], token: str) -> None:
        """Write a range's rows (RowBinary, in pieces) as one block.

        Raises `Superseded` or `Unreadable` besides the usual two.
        """
        async with self._bounded():
            await self._client.command(
                f"INSERT INTO {table} SELECT * FROM input('{structure}') "  # noqa: S608 - constants
                f"WHERE NOT {_FENCE} FORMAT RowBinary",
                parameters={**_parameters(plan.lane), "first": plan.first},
                data=_Block(b"".join(rows)),
                settings={
                    **_INSERT_SETTINGS,
                    **self.inserting,
                    "insert_deduplication_token": token,
                    # A write that outlives its consumer must end soon, or the fence would say nothing about it.
                    "max_execution_time": self._timeout_seconds,
                },
            )

    def _bounded(self) -> AbstractAsyncContextManager[None]:
        return answered(self._timeout_seconds)


@asynccontextmanager
async def answered(timeout_seconds: float) -> AsyncIterator[None]:
    """Bound a question to the server, and turn whatever goes wrong with it into this module's errors."""
    try:
        async with asyncio.timeout(timeout_seconds):
            yield
    except TimeoutError as error:
        raise Away(f"no answer within {timeout_seconds:g} s") from error
    except DatabaseError as error:
        raise _named(error) from error
    except (ClickHouseError, aiohttp.ClientError, OSError) as error:
        raise Away(_first_line(error)) from error


def _said(rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    """Return the row that a question has by its nature. Raises `Away` where there is none.

    An answer without any rows must never mean that nothing is stored: a server without room on its disk was seen to
    answer so, with status 200 and a proper end, and it makes doubles of what was sent again.
    """
    if not rows:
        raise Away("an answer came empty")
    return rows


def _parameters(lane: Lane) -> dict[str, Any]:
    return {"log": lane.log, "topic": lane.topic, "partition": lane.partition}


def _batch_keys(keys: Collection[BatchKey]) -> ExternalData:
    data = b"".join(rb.text(app) + rb.uuid(device) + rb.uuid(batch) for app, device, batch in keys)
    return ExternalData(file_name="wanted", data=data, fmt="RowBinary", structure="app String, device UUID, batch UUID")


def _named(error: DatabaseError) -> Exception:
    text = str(error)
    if any(f"Code: {code}." in text for code in _REPLICAS_AWAY):
        return Away(_first_line(error))
    if isinstance(error, OperationalError) and "DB::Exception" not in text:  # the client's word for a broken connection
        return Away(_first_line(error))
    if "DB::Exception: superseded" in text:
        return Superseded(_first_line(error))
    if "DB::Exception: unreadable" in text:
        return Unreadable(_first_line(error))
    return Rejected(_first_line(error))


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0][:500]
