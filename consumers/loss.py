"""Hold the devices' ledgers against the rows: what was produced is stored, refused, dropped, or still on the devices.

* A batch carries its device's counts since install, as they were when it was frozen. The difference to the batch before
  it, by `seq`, is what its device produced and dropped meanwhile; it counts for the batch's SDK and day.
* **What is left over waits on the device**: never less than nothing, and nothing where the queue was emptied.
* **What is missing**: a device sends batch n + 1 only once batch n is settled. A number that is not here was dropped by
  the device, and its ledger says so by then; or its events are in what is left over from then on, always. So what is
  missing is the least that was ever left over since the last gap. More may be, while less cannot. A number may also
  be an update check's, which is answered before it is stored: nothing is missing once its device's queue was empty.
* **What is too much**: less than nothing left over, or counters that go back: a restored backup or a cloned install.
* Where rows may have expired, a device whose first batches are gone is judged from the first that is still here.
* What came back from the dead letters is in the ledgers as refused or dropped, and is counted beside.
* A device that never sent a ledger has nothing to be held against: it is counted apart, and its events with it.
"""

from datetime import date
from typing import Any, Final, NamedTuple

from clickhouse_connect.driver.asyncclient import AsyncClient
from msgspec import Struct

from schemas.records import REPLAYED_BY


class Day(Struct, frozen=True):
    """produced = stored + refused + dropped + waiting, where `waiting` is how many more wait on devices than before."""

    app: str
    sdk: str
    day: date
    devices: int
    batches: int
    produced: int
    stored: int
    refused: int
    dropped: dict[str, int]
    waiting: int
    replayed: int = 0


class Wrong(Struct, frozen=True):
    """A device whose counts do not add up.

    * `missing`: events that are not here, though batches that came after them are: lost, or yet to arrive.
    * `surplus`: events that are here and that the ledger does not know.
    * `gaps`: the numbers of batches that are not here, as (first, last).
    * `steps_back`: how often a counter or a number was not above the one before it.
    """

    app: str
    device: str
    sdk: str
    newest_seq: int
    produced: int
    stored: int
    refused: int
    dropped: int
    waiting: int
    missing: int
    surplus: int
    steps_back: int
    gaps: list[tuple[int, int]]


class LossReport(Struct, frozen=True):
    """All that was asked for: days are a window, devices and what they hold are of all that is stored.

    `without_ledger` counts devices that sent events and never a ledger, `unaccounted` their events; no other number
    holds them.
    """

    days: list[Day]
    devices: int
    waiting: int
    missing: int
    surplus: int
    wrong: list[Wrong]
    without_ledger: int = 0
    unaccounted: int = 0


# One row a batch, with what happened on its device since the batch before.
_STEPS: Final = """
    WITH
    (SELECT min(applied_at) FROM migrations) > now64(3) - toIntervalDay({retention_days:UInt32}) AS nothing_expired,
    own AS
    (
        SELECT
            app, device, seq, sent_at, received_at, sdk,
            toInt64(accepted) AS stored, toInt64(batches.refused) AS refused,
            toInt64(batches.produced) AS produced, CAST(batches.dropped, 'Map(String, Int64)') AS dropped,
            row_number() OVER before AS nth,
            lagInFrame(toInt64(batches.produced)) OVER before AS produced_before,
            lagInFrame(CAST(batches.dropped, 'Map(String, Int64)')) OVER before AS dropped_before,
            lagInFrame(batches.seq) OVER before AS seq_before,
            max(batches.produced) OVER device_wide > 0
                OR sum(accepted + batches.refused) OVER device_wide = 0 AS has_ledger
        FROM batches
        WHERE {app:String} IN ('', app) AND gateway != {replayed:String}
        WINDOW before AS
            (PARTITION BY app, device ORDER BY seq, sent_at ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
            device_wide AS (PARTITION BY app, device)
    ),
    steps AS
    (
        SELECT
            *,
            nth = 1 AND seq > 1 AND NOT nothing_expired AS cut,
            if(cut, stored + refused, produced - produced_before) AS made,
            if(cut, map(), mapSubtract(dropped, dropped_before)) AS lost,
            made - arraySum(mapValues(lost)) - stored - refused AS left,
            if(cut OR seq <= seq_before + 1, 0, seq - seq_before - 1) AS gap,
            nth > 1 AND (made < 0 OR seq = seq_before OR arrayExists(n -> n < 0, mapValues(lost))) AS back
        FROM own
        WHERE has_ledger
    ),
    summed AS
    (
        SELECT
            *,
            max(cut) OVER (PARTITION BY app, device) AS from_later,
            sum(left) OVER (PARTITION BY app, device ORDER BY nth ROWS UNBOUNDED PRECEDING) AS over,
            max(if(gap > 0, nth, 0)) OVER (PARTITION BY app, device) AS last_gap
        FROM steps
    )
"""
_DAYS: Final = f"""
    {_STEPS}
    SELECT
        app, sdk, toDate(received_at, 'UTC') AS day, uniqExact(device), count(), sum(made), sum(steps.stored),
        sum(steps.refused), sumMap(lost), sum(left)
    FROM steps
    WHERE dateDiff('day', day, toDate(now(), 'UTC')) < {{days:UInt32}}
    GROUP BY app, sdk, day
    ORDER BY app, day, sdk
"""  # noqa: S608 - constants
_REPLAYED: Final = """
    SELECT app, sdk, toDate(received_at, 'UTC') AS day, sum(accepted)
    FROM batches
    WHERE {app:String} IN ('', app) AND gateway = {replayed:String}
        AND dateDiff('day', day, toDate(now(), 'UTC')) < {days:UInt32}
    GROUP BY app, sdk, day
"""
_DEVICES: Final = f"""
    {_STEPS},
    devices AS
    (
        SELECT
            app, toString(device) AS id, argMax(sdk, nth) AS newest_sdk, max(seq) AS newest_seq, sum(made) AS all_made,
            sum(summed.stored) AS all_stored, sum(summed.refused) AS all_refused,
            toInt64(sum(arraySum(mapValues(lost)))) AS all_lost,
            least(min(over), 0) AS least_over, any(from_later) AS later,
            argMax(over, nth) - if(later, least_over, 0) AS waiting,
            greatest(0, if(max(last_gap) > 0, minIf(over, nth >= last_gap) - if(later, least_over, 0), 0)) AS missing,
            if(later, 0, -least_over) AS surplus,
            countIf(back) AS steps_back,
            arraySlice(arraySort(groupArrayIf((seq_before + 1, seq - 1), gap > 0)), 1, 20) AS gaps
        FROM summed
        GROUP BY app, device
    )
"""  # noqa: S608 - constants
_TOTALS: Final = f"""
    {_DEVICES}
    SELECT count(), sum(greatest(waiting, 0) - devices.missing), sum(devices.missing), sum(devices.surplus) FROM devices
"""  # noqa: S608 - constants
_WRONG: Final = f"""
    {_DEVICES}
    SELECT
        app, id, newest_sdk, newest_seq, all_made, all_stored, all_refused, all_lost, waiting, missing, surplus,
        steps_back, gaps
    FROM devices
    WHERE missing > 0 OR surplus > 0 OR steps_back > 0
    ORDER BY missing + surplus DESC, app, id
    LIMIT {{limit:UInt32}}
"""  # noqa: S608 - constants


_WITHOUT: Final = """
    SELECT count(), toInt64(sum(events))
    FROM (
        SELECT max(produced) AS most, sum(accepted + batches.refused) AS events FROM batches
        WHERE {app:String} IN ('', app) AND gateway != {replayed:String} GROUP BY app, device)
    WHERE most = 0 AND events > 0
"""


class Totals(NamedTuple):
    """Of all devices that keep a ledger: how many there are, and what waits, is missing and is too much on them."""

    devices: int
    waiting: int
    missing: int
    surplus: int


async def totals(client: AsyncClient, app: str | None, retention_days: int) -> Totals:
    """Sum up what the ledgers say of now, also where rows have expired."""
    parameters = {"app": app or "", "replayed": REPLAYED_BY, "retention_days": retention_days}
    ((devices, *counts),) = await _rows(client, _TOTALS, parameters)
    return Totals(devices, *counts)


async def loss(
    client: AsyncClient, app: str | None = None, *, days: int = 30, retention_days: int = 90, limit: int = 1000
) -> LossReport:
    """Say what became of everything that the devices produced; of wrong devices the worst so many are named."""
    parameters = {
        "app": app or "",
        "replayed": REPLAYED_BY,
        "days": days,
        "retention_days": retention_days,
        "limit": limit,
    }
    replayed = {row[:3]: int(row[3]) for row in await _rows(client, _REPLAYED, parameters)}
    rows = [
        (*row[:8], {reason: count for reason, count in row[8].items() if count}, row[9], replayed.pop(row[:3], 0))
        for row in await _rows(client, _DAYS, parameters)
    ]
    # What came back is of the day on which it was refused; a body that was refused whole may be alone on its day.
    rows += [(*place, 0, 0, 0, 0, 0, {}, 0, count) for place, count in replayed.items()]
    summed = await totals(client, app, retention_days)
    wrong = [Wrong(*row) for row in await _rows(client, _WRONG, parameters)]
    (without,) = await _rows(client, _WITHOUT, parameters)
    return LossReport([Day(*row) for row in rows], *summed, wrong, *without)


async def _rows(client: AsyncClient, question: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in (await client.query(question, parameters=parameters)).result_rows]
