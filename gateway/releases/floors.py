"""The floors of a key list: what was revoked for good stays so, whichever key signed that and has gone since.

* A device forgets a catalogue with the key that signed it, number and floor: a thief may have chosen both. So the floor
  has to stand in the list that drops the key, or an older catalogue by a key that stays would bring the revoked back.
* What a key that stays has signed is taken over unasked. What only a dropped key has signed is for the operator to say:
  who drops a key because it was stolen must not sign the thief's floor along.
* A release that was only unlisted may come back with an older catalogue, until that expires: what has to stay away for
  good goes below the floor.
* A floor never falls: a list that was told a wrong one is lived with by a release of a higher number.
"""

from collections.abc import Collection, Mapping

from gateway.client.keyring import Keyring
from gateway.releases.apps import check_name
from gateway.releases.documents import CATALOGUES, parse_path
from gateway.releases.errors import BadDocument, BadReleaseTerms
from gateway.releases.keys import signed_by
from gateway.releases.rules import read_catalogue
from gateway.releases.store import Store
from schemas.releases import SignedCatalogue


async def next_floors(
    store: Store, app: str, before: Keyring, after: Keyring, asked: Mapping[str, int]
) -> dict[str, int]:
    """Return the floors of the list that follows. Raises `BadReleaseTerms`, `BadName` or `StoreError`."""
    floors = dict(before.listed.floors) if before.listed is not None else {}
    for model, floor in asked.items():
        check_name("model", model)
        if floor < floors.get(model, 0):
            raise BadReleaseTerms(f"the floor of {model} is {floors[model]} already, and never falls")
        floors[model] = floor
    staying = after.trusted()
    dropped = {name: key for name, key in before.trusted().items() if name not in staying}
    if dropped:
        for model, floor in (await _signed_floors(store, app, staying.values())).items():
            floors[model] = max(floor, floors.get(model, 0))
        left = await _signed_floors(store, app, dropped.values())
        _check_said({m: floor for m, floor in left.items() if floor > floors.get(m, 0) and m not in asked}, dropped)
    return {model: floor for model, floor in sorted(floors.items()) if floor}


def _check_said(unsaid: Mapping[str, int], dropped: Collection[str]) -> None:
    if unsaid:
        flags = " ".join(f"--floor {model}={floor}" for model, floor in sorted(unsaid.items()))
        raise BadReleaseTerms(
            f"only {', '.join(sorted(dropped))} signed these floors, and devices forget them with the key: say {flags} "
            "to keep them, a lower number (0: none) where a thief may have signed it"
        )


async def _signed_floors(store: Store, app: str, keys: Collection[bytes]) -> dict[str, int]:
    """Return the highest floor that any of these keys has ever signed, by model."""
    floors: dict[str, int] = {}
    for series, number in filter(None, map(parse_path, await store.names(f"{CATALOGUES}/{app}"))):
        try:
            signed, catalogue = read_catalogue(await store.get(series.path(number)), app, series.model, number)
        except BadDocument:
            continue
        if catalogue.floor > floors.get(series.model, 0) and _is_signed(signed, keys):
            floors[series.model] = catalogue.floor
    return floors


def _is_signed(signed: SignedCatalogue, keys: Collection[bytes]) -> bool:
    return any(signed_by(key, signed.document, signature) for signature in signed.signatures for key in keys)
