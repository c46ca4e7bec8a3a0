"""What the warehouse holds in the end, read as an analyst would: over HTTP, as the user that may only read."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError
from msgspec import Struct
from msgspec.structs import replace

from consumers.reports import Conversion, summary
from gateway.clickhouse_server import READER, ServerError, connect, password_of
from gateway.config import Config
from gateway.demo.served import DemoError
from gateway.supervisor import runfile

_CONNECT_SECONDS: Final = 60.0
_LOOK_EVERY_SECONDS: Final = 0.25

_TOTALS: Final = """
SELECT (SELECT count() FROM events), (SELECT uniqExact(device, batch, `index`) FROM events),
    (SELECT count() FROM batches), (SELECT uniqExact(device, batch) FROM batches),
    (SELECT countIf(`index` IS NOT NULL) FROM dead_letters), (SELECT count() FROM dead_letters),
    (SELECT uniqExact(device, batch, `index`, if(batch = '', body, '')) FROM dead_letters)
"""
_BY_DEVICE: Final = """
SELECT device, sum(n) FROM (
    SELECT toString(device) AS device, count() AS n FROM events GROUP BY device
    UNION ALL SELECT device, count() FROM dead_letters WHERE `index` IS NOT NULL GROUP BY device
) GROUP BY device
"""


class Stored(Struct, frozen=True, kw_only=True):
    """Rows in the warehouse: `refused` counts refused events, `letters` all dead letters, `distinct_*` identities."""

    events: int = 0
    distinct_events: int = 0
    batches: int = 0
    distinct_batches: int = 0
    refused: int = 0
    letters: int = 0
    distinct_letters: int = 0
    by_device: dict[str, int] = {}
    reasons: dict[str, int] = {}
    conversions: list[Conversion] = []


class Warehouse:
    """A reader's connection."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    @classmethod
    async def open(cls, config: Config) -> "Warehouse":
        """Connect as soon as it is laid out. Raises `DemoError` when it never is."""
        until = time.monotonic() + _CONNECT_SECONDS
        while True:
            try:
                return await cls._try(config)
            except (ServerError, ClickHouseError) as error:
                if time.monotonic() > until:
                    raise DemoError(f"the warehouse does not answer: {error}") from error
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    @classmethod
    async def _try(cls, config: Config) -> "Warehouse":
        run = runfile.read(config.directory)
        password = password_of(config.directory / "clickhouse", READER)
        warehouse = cls(await connect(run.clickhouse_url if run else "", READER, password, config.clickhouse_database))
        try:
            await warehouse.totals()
        except ClickHouseError:
            await warehouse.close()
            raise
        return warehouse

    async def close(self) -> None:
        """Disconnect."""
        await self._client.close()

    async def totals(self) -> Stored:
        """Count rows and identities."""
        row = (await self._rows(_TOTALS))[0]
        events, distinct_events, batches, distinct_batches, refused, letters, distinct_letters = map(int, row)
        return Stored(
            events=events,
            distinct_events=distinct_events,
            batches=batches,
            distinct_batches=distinct_batches,
            refused=refused,
            letters=letters,
            distinct_letters=distinct_letters,
        )

    async def everything(self) -> Stored:
        """Count rows and identities, and ask what the tables at the end show."""
        report = await summary(self._client)
        return replace(
            await self.totals(),
            by_device={str(device): int(rows) for device, rows in await self._rows(_BY_DEVICE)},
            reasons=report.refused,
            conversions=report.conversions,
        )

    async def caught_up(self, produced: int, patience_seconds: float, tell: Callable[[Stored], None]) -> Stored:
        """Wait until as many events are stored as were produced, or until nothing has come for so long."""
        seen, since = -1, time.monotonic()
        while True:
            with suppress(ClickHouseError):  # a server that is being started again: patience covers that too
                totals = await self.totals()
                tell(totals)
                if (stored := totals.events + totals.refused) != seen:
                    seen, since = stored, time.monotonic()
            if seen >= produced or time.monotonic() - since > patience_seconds:
                return await self.everything()
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    async def _rows(self, query: str) -> list[Any]:
        return list((await self._client.query(query)).result_rows)
