"""What the store said at a moment in the past: the catalogue, the rollout and the key list that were in force then.

* Documents are never changed, so the past can be read again. The times are those that publishers and operators wrote
  down; a gateway followed within its refresh, and later where a release was signed elsewhere and attached afterwards.
"""

from msgspec.structs import replace

from gateway.releases.documents import CATALOGUES, KEYS, ROLLOUTS, Series, parse_path
from gateway.releases.errors import BadDocument
from gateway.releases.rules import ModelRules, model_rules, read_catalogue, read_keys, read_rollout, with_keys
from gateway.releases.store import Store
from schemas.releases import KeyList, Rollout
from schemas.wire import SignedKeys


async def rules_at(store: Store, app: str, model: str, at_ms: int) -> ModelRules | None:
    """Return what a gateway went by then; None before the first catalogue. Raises `StoreError`."""
    series = Series(CATALOGUES, app, model)
    for number in await _numbers(store, series):
        try:
            signed, catalogue = read_catalogue(await store.get(series.path(number)), app, model, number)
        except BadDocument:
            continue
        if catalogue.issued_at <= at_ms:
            rules = replace(
                model_rules(signed, catalogue, "/", {}), rollout=await _rollout_at(store, app, model, at_ms)
            )
            keys = await _keys_at(store, app, at_ms)
            return rules if keys is None else with_keys(rules, model, *keys)
    return None


async def _rollout_at(store: Store, app: str, model: str, at_ms: int) -> Rollout | None:
    series = Series(ROLLOUTS, app, model)
    for number in await _numbers(store, series):
        try:
            rollout = read_rollout(await store.get(series.path(number)), app, model)
        except BadDocument:
            continue
        if rollout.at <= at_ms:
            return rollout
    return None


async def _keys_at(store: Store, app: str, at_ms: int) -> tuple[SignedKeys, KeyList] | None:
    series = Series(KEYS, app)
    for number in await _numbers(store, series):
        try:
            signed, keys = read_keys(await store.get(series.path(number)), app, number)
        except BadDocument:
            continue
        if keys.issued_at <= at_ms:
            return signed, keys
    return None


async def _numbers(store: Store, series: Series) -> list[int]:
    """Return the numbers of a series, newest first."""
    return sorted((found[1] for found in map(parse_path, await store.names(series.prefix)) if found), reverse=True)
