"""Find dead letters in the warehouse, and what is known there of the batches they came from.

* A letter's name is its digest, in hexadecimal; the first characters do where no other begins so.
"""

from typing import Any, Final

from clickhouse_connect.driver.asyncclient import AsyncClient
from msgspec import Struct, convert

from schemas.records import REPLAYED_BY, DeadLetter, Told
from schemas.wire import Envelope, Prediction


class Listed(Struct, frozen=True):
    """One line of the list; times are epoch milliseconds, `index` is null for what is no single event."""

    digest: str
    app: str
    received_at: int
    device: str
    batch: str
    index: int | None
    reason: str
    encoding: str
    size_bytes: int


class Kept(Struct, frozen=True):
    """A dead letter, and where on the log it stood, or the record that it is."""

    digest: str
    letter: DeadLetter
    log: str
    topic: str
    partition: int
    offset: int


class Batch(Struct, frozen=True):
    """All that the warehouse knows of a batch but its events, and its place on the log."""

    envelope: Envelope
    offer: dict[str, Told]
    log: str
    topic: str
    partition: int
    offset: int


class Filters(Struct, frozen=True):
    """Which letters: empty filters let all through; the newest come first."""

    app: str = ""
    reason: str = ""
    digests: tuple[str, ...] = ()
    limit: int = 50


_WANTED: Final = """
    FROM dead_letters
    WHERE {app:String} IN ('', app) AND {reason:String} IN ('', reason)
        AND (empty({digests:Array(String)})
            OR arrayExists(wanted -> startsWith(lower(hex(digest)), wanted), {digests:Array(String)}))
    ORDER BY dead_letters.received_at DESC, digest LIMIT {limit:UInt32}
"""
_LIST: Final = f"""
    SELECT lower(hex(digest)), app, toUnixTimestamp64Milli(received_at), device, batch, `index`, reason, encoding,
        length(body)
    {_WANTED}
"""
_WHOLE: Final = f"""
    SELECT lower(hex(digest)), app, toUnixTimestamp64Milli(received_at), device, batch, `index`, reason, encoding,
        body, log, topic, partition, offset
    {_WANTED}
"""
_BATCH: Final = """
    SELECT toUnixTimestamp64Milli(batches.sent_at) AS sent_at, seq, sdk, app_version, os, hardware, locale,
        produced, dropped, have, signals, offer, log, topic, partition, offset
    FROM batches
    WHERE app = {app:String} AND device = {device:UUID} AND batch = {batch:UUID} AND gateway != {replayed:String}
    LIMIT 1
"""
# For rows of before `batches` kept the names.
_SIGNALS: Final = """
    SELECT model, any(mapKeys(signals)) FROM events
    WHERE app = {app:String} AND device = {device:UUID} AND batch = {batch:UUID}
        AND type = 'prediction' AND notEmpty(signals)
    GROUP BY model
"""
_NAMES: Final = """
    SELECT DISTINCT mapKeys(signals) FROM events
    WHERE app = {app:String} AND model = {model:String} AND type = 'prediction' AND release = {release:UInt32}
        AND sdk = {sdk:String} AND app_version = {app_version:String} AND length(signals) = {count:UInt32}
    LIMIT 2
"""
_STORED: Final = """
    SELECT count() FROM batches WHERE app = {app:String} AND device = {device:UUID} AND batch = {batch:UUID}
"""


async def listed(client: AsyncClient, filters: Filters) -> list[Listed]:
    """Return the letters without their bodies."""
    return [Listed(*row) for row in await _rows(client, _LIST, _parameters(filters))]


async def kept(client: AsyncClient, filters: Filters) -> list[Kept]:
    """Return the letters with their bodies."""
    found = []
    for digest, app, received, device, batch, index, reason, encoding, body, *place in await _rows(
        client, _WHOLE, _parameters(filters)
    ):
        letter = DeadLetter(
            app=app,
            received_at=received,
            device=device or None,
            batch=batch or None,
            index=index,
            reason=reason,
            encoding=encoding,
            body=body,
        )
        found.append(Kept(digest, letter, *place))
    return found


async def batch_of(client: AsyncClient, letter: DeadLetter) -> Batch | None:
    """Return what is stored of the batch of a refused event; None where nothing is."""
    about = {"app": letter.app, "device": letter.device, "batch": letter.batch, "replayed": REPLAYED_BY}
    rows = await _rows(client, _BATCH, about)
    if not rows:
        return None
    sent_at, seq, sdk, app_version, os, hardware, locale, produced, dropped, have, signals, offer, *place = rows[0]
    told = {
        "device": letter.device,
        "batch": letter.batch,
        "seq": seq,
        "sent_at": max(0, sent_at),
        "sdk": sdk,
        "app_version": app_version,
        "os": os,
        "hardware": hardware,
        "locale": locale,
        "ledger": {"produced": produced, "dropped": dropped},
        "have": {model: _have(**each) for model, each in have.items()},
        "signals": signals or dict(await _rows(client, _SIGNALS, about)),
    }
    offered = {model: Told(_use(each["use"]), each["arm"], each["rollout"]) for model, each in offer.items()}
    return Batch(convert(told, Envelope), offered, *place)


async def signal_names(client: AsyncClient, envelope: Envelope, app: str, event: Prediction) -> list[str] | None:
    """Return the names that all such predictions of this app's version give their signals; None where they differ."""
    about = {
        "app": app,
        "model": event.model,
        "release": event.release,
        "sdk": envelope.sdk,
        "app_version": envelope.app_version,
        "count": len(event.signals),
    }
    rows = await _rows(client, _NAMES, about)
    return list(rows[0][0]) if len(rows) == 1 else None


async def is_stored(client: AsyncClient, app: str, device: str, batch: str) -> bool:
    """Say whether the batch is in the warehouse."""
    rows = await _rows(client, _STORED, {"app": app, "device": device, "batch": batch})
    return bool(rows[0][0])


def _have(catalogue: int, use: str, previous: str) -> dict[str, Any]:
    held: dict[str, Any] = {"catalogue": catalogue, "use": _use(use)}
    return held | ({"previous": _use(previous)} if previous else {})


def _use(text: str) -> Any:
    return int(text) if text.isdigit() else text


def _parameters(filters: Filters) -> dict[str, Any]:
    return {
        "app": filters.app,
        "reason": filters.reason,
        "digests": list(filters.digests),
        "limit": filters.limit,
    }


async def _rows(client: AsyncClient, question: str, parameters: dict[str, Any]) -> list[Any]:
    return [tuple(row) for row in (await client.query(question, parameters=parameters)).result_rows]
