"""Answer the questions that the operator and the demo ask of the warehouse; each is one query, and the numbers add up.

* A conversion belongs to the prediction: its release, source and arm, whenever and in whichever batch the outcome came.
* A device's newest word on itself is the batch with its highest `seq`; times of arrival say nothing about order.
"""

from typing import Any, Final

from clickhouse_connect.driver.asyncclient import AsyncClient
from msgspec import Struct

from consumers.loss import totals
from schemas.records import REPLAYED_BY

CONVERTED: Final = "purchased"


class Counts(Struct, frozen=True):
    """What is stored; `doubled` counts rows that stand more than once, and is always 0."""

    batches: int
    events: int
    predictions: int
    outcomes: int
    model_events: int
    dead_letters: int
    doubled: int


class Running(Struct, frozen=True):
    """How many devices run a release of a model, by their newest batch; `use` is a number, "bundled" or "none"."""

    app: str
    model: str
    use: str
    devices: int


class Conversion(Struct, frozen=True):
    """What came of the predictions that said yes."""

    app: str
    model: str
    release: int
    source: str
    arm: str
    predictions: int
    shown: int
    converted: int

    @property
    def rate(self) -> float:
        """Return the share of the shown that converted; 0 where none was shown."""
        return self.converted / self.shown if self.shown else 0.0


class Loss(Struct, frozen=True):
    """The devices' own ledgers beside what arrived.

    On a device, produced = stored + dropped + refused + waiting + missing, until its first rows expire; `waiting` and
    `missing` are right then, too. `backhaul report loss` names the devices where it does not add up. Devices that never
    sent a ledger are only counted.
    """

    devices: int
    produced: int
    dropped: dict[str, int]
    stored: int
    refused: int
    without_ledger: int = 0
    waiting: int = 0
    missing: int = 0


class Summary(Struct, frozen=True):
    """Everything that `backhaul report summary` prints."""

    requests: int
    events: dict[str, int]
    refused: dict[str, int]
    devices: list[Running]
    conversions: list[Conversion]
    loss: Loss


_COUNTS: Final = """
    SELECT b.1, e.1, e.3, e.4, e.5, d.1, b.1 - b.2 + e.1 - e.2 + d.1 - d.2
    FROM (
        SELECT
            (SELECT (count(), uniqExact(app, device, batch)) FROM batches
                WHERE {app:String} IN ('', app)) AS b,
            (SELECT (count(), uniqExact(app, device, batch, `index`), countIf(type = 'prediction'),
                countIf(type = 'outcome'), countIf(type = 'model')) FROM events
                WHERE {app:String} IN ('', app)) AS e,
            (SELECT (count(), uniqExact(digest)) FROM dead_letters
                WHERE {app:String} IN ('', app)) AS d)
"""
_TYPES: Final = """
    SELECT toString(type), count() FROM events WHERE {app:String} IN ('', app) GROUP BY type ORDER BY type
"""
_REASONS: Final = """
    SELECT reason, count() FROM dead_letters WHERE {app:String} IN ('', app)
    GROUP BY reason ORDER BY count() DESC, reason
"""
_RUNNING: Final = """
    SELECT app, model, state.use AS use, count()
    FROM (
        SELECT app, device, argMax(have, (seq, sent_at)) AS now FROM batches
        WHERE {app:String} IN ('', app) AND notEmpty(have) GROUP BY app, device)
    ARRAY JOIN mapKeys(now) AS model, mapValues(now) AS state
    GROUP BY app, model, use
    ORDER BY app, model, toUInt64OrZero(use) DESC, use
"""
# An outcome comes inline with its prediction or in any later batch; both are rows with the same device, model and id.
_CONVERSIONS: Final = """
    SELECT app, model, release, source, arm, count(), countIf(shown), countIf(shown AND converted)
    FROM (
        SELECT
            app, model, device, id,
            countIf(type = 'prediction') > 0 AS predicted,
            anyIf(events.release, type = 'prediction') AS release,
            anyIf(events.source, type = 'prediction') AS source,
            anyIf(events.arm, type = 'prediction') AS arm,
            countIf(type = 'prediction' AND decision) > 0 AS shown,
            countIf(outcome = {converted:String}) > 0 AS converted
        FROM events
        WHERE {app:String} IN ('', app) AND type IN ('prediction', 'outcome')
        GROUP BY app, model, device, id)
    WHERE predicted
    GROUP BY app, model, release, source, arm
    ORDER BY app, model, release, source, arm
"""
_LOSS: Final = """
    SELECT
        count(), sumIf(ledger.1, known), sumMapIf(ledger.2, known), sumIf(stored, known), sumIf(refused, known),
        countIf(NOT known)
    FROM (
        SELECT
            app, device, argMax((produced, dropped), (seq, sent_at)) AS ledger,
            sum(accepted) AS stored, sum(batches.refused) AS refused,
            max(produced) > 0 OR stored + refused = 0 AS known
        FROM batches WHERE {app:String} IN ('', app) AND gateway != {replayed:String} GROUP BY app, device)
"""


async def stored_counts(client: AsyncClient, app: str | None = None) -> Counts:
    """Count what is stored, of one app or of all."""
    return Counts(*(await _rows(client, _COUNTS, app))[0])


async def summary(client: AsyncClient, app: str | None = None, retention_days: int = 90) -> Summary:
    """Say how an app, or every app, is doing."""
    devices, produced, dropped, stored, refused, without = (await _rows(client, _LOSS, app))[0]
    now = await totals(client, app, retention_days)
    types = dict(await _rows(client, _TYPES, app))
    return Summary(
        requests=(await stored_counts(client, app)).batches,
        events=types,
        refused=dict(await _rows(client, _REASONS, app)),
        devices=[Running(*row) for row in await _rows(client, _RUNNING, app)],
        conversions=[Conversion(*row) for row in await _rows(client, _CONVERSIONS, app)],
        loss=Loss(devices, produced, dict(dropped), stored, refused, without, now.waiting, now.missing),
    )


async def _rows(client: AsyncClient, question: str, app: str | None) -> list[Any]:
    found = await client.query(question, parameters={"app": app or "", "converted": CONVERTED, "replayed": REPLAYED_BY})
    return [tuple(row) for row in found.result_rows]
