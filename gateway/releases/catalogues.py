"""The next catalogue of a model: built on the last one, signed here or elsewhere, written once.

* What is signed is built on the last catalogue only if a key that the publisher believes signed that: whoever can write
  to the store must not get his release signed along with the next.
* A catalogue lists few releases, the newest and those that the rollout in force names: a gateway that was broken into
  can choose among these and no others, and no device loses what it was told to run because something was published.
* Under the two-person rule, what lists a new release is written only where a rollout says who gets it.
* The bytes to sign begin with their context, so that any Ed25519 signer (a KMS, `openssl pkeyutl`) can take them as
  they are; nothing is attached without a signature that holds.
"""

from asyncio import gather
from collections.abc import Collection, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Final

import msgspec

from gateway.releases.apps import check_name
from gateway.releases.documents import CATALOGUES, ROLLOUTS, Series, append, newest, parse_path, someone_wrote
from gateway.releases.errors import BadDocument, BadKey, BadReleaseTerms, UnknownModel, UntrustedHistory
from gateway.releases.keylists import newest_keys
from gateway.releases.keys import key_name, signed_by
from gateway.releases.rollouts import check_steered
from gateway.releases.rules import read_catalogue
from gateway.releases.store import Store
from schemas.releases import CATALOGUE_CONTEXT, MAX_CATALOGUE_BYTES, Catalogue, Release, SignedCatalogue
from schemas.wire import Signature, Use

LISTED_RELEASES: Final = 4
_DAY_MS: Final = 24 * 60 * 60 * 1000
_catalogue: Final = msgspec.json.Decoder(Catalogue)


async def check_model(store: Store, app: str, model: str) -> None:
    """Refuse a name that nothing is published under and no rollout names. Raises `UnknownModel` or `StoreError`."""
    paths = [path for kind in (CATALOGUES, ROLLOUTS) for path in await store.names(f"{kind}/{app}")]
    models = sorted({found[0].model for found in map(parse_path, paths) if found})
    if model not in models:
        raise UnknownModel(
            f"nothing is published for a model {model!r} of {app}: its models are {', '.join(models) or 'none'}"
        )


async def last_catalogue(store: Store, series: Series) -> tuple[SignedCatalogue, Catalogue] | None:
    """Return the newest catalogue of a series, unjudged. Raises `BadDocument` or `StoreError`."""
    found = await newest(store, series)
    if found is None:
        return None
    number, stored = found
    try:
        return read_catalogue(stored, series.app, series.model, number)
    except BadDocument as error:
        path = series.path(number)
        raise BadDocument(f"{path} is damaged ({error}): restore it from a copy of the store") from error


async def last_trusted(store: Store, series: Series, keys: Sequence[bytes]) -> Catalogue | None:
    """Return the newest catalogue, if one of these keys signed it. Raises `UntrustedHistory` or `StoreError`."""
    last = await last_catalogue(store, series)
    if last is None:
        return None
    signed, catalogue = last
    if not any(signed_by(key, signed.document, signature) for signature in signed.signatures for key in keys):
        names = ", ".join(signature.key for signature in signed.signatures) or "nobody"
        signer = key_name(keys[0]) if keys else "a key that you named"
        raise UntrustedHistory(
            f"{series.path(catalogue.number)} is signed by {names}, not by {signer}: sign with the key that "
            "was used before, or find out who wrote it"
        )
    return catalogue


async def highest_release(store: Store, series: Series, keys: Collection[bytes]) -> int:
    """Return the highest number that a release ever had, by what one of these keys signed; 0 when there was none.

    One that is not listed any more keeps its number: events name it. Raises `StoreError`.
    """
    listed = [release.release for each in await every_catalogue(store, series, keys) for release in each.releases]
    return max(listed, default=0)


async def every_catalogue(store: Store, series: Series, keys: Collection[bytes]) -> list[Catalogue]:
    """Return all that one of these keys signed, oldest first; what cannot be read is left out. Raises `StoreError`."""
    numbers = sorted(found[1] for found in map(parse_path, await store.names(series.prefix)) if found)
    found = []
    for number, stored in zip(numbers, await gather(*(store.get(series.path(each)) for each in numbers)), strict=True):
        with suppress(BadDocument):
            signed, catalogue = read_catalogue(stored, series.app, series.model, number)
            if any(signed_by(key, signed.document, each) for each in signed.signatures for key in keys):
                found.append(catalogue)
    return found


def taken_back(history: Sequence[Catalogue], digest: str) -> list[int]:
    """Return the releases of these bytes that were revoked: put below the floor, or unlisted where none was added."""
    revoked: set[int] = set()
    for before, after in pairwise(history):
        listed = {each.release for each in after.releases}
        gone = [each.release for each in before.releases if each.sha256 == digest and each.release not in listed]
        amended = listed <= {each.release for each in before.releases}
        revoked.update(number for number in gone if amended or number < after.floor)
    return sorted(revoked)


def with_release(
    app: str,
    model: str,
    last: Catalogue | None,
    published: Release,
    *,
    floor: int,
    named: Collection[Use],
    life_ms: tuple[int, int],
) -> Catalogue:
    """Return the catalogue that lists a new release first, and whatever is `named`. Raises `BadReleaseTerms`."""
    floor = max(floor, last.floor if last else 0)
    if published.release < floor:
        raise BadReleaseTerms(f"release {published.release} is below the floor {floor}, so no device would run it")
    earlier = sorted(last.releases if last else [], key=lambda each: each.release, reverse=True)
    runnable = [each for each in earlier if each.release >= floor]
    kept = [each for i, each in enumerate(runnable) if i < LISTED_RELEASES - 1 or each.release in named]
    return Catalogue(
        app=app,
        model=model,
        number=last.number + 1 if last else 1,
        issued_at=life_ms[0],
        expires_at=life_ms[1],
        floor=floor,
        releases=[published, *kept],
    )


async def amended(
    store: Store,
    app: str,
    model: str,
    *,
    trusted: Sequence[bytes],
    revoke_below: int = 0,
    unlist: Sequence[int] = (),
    expires_in_days: int,
    now_ms: int,
) -> bytes:
    """Return the next catalogue's bytes: the last one with a later end, a higher floor or fewer releases.

    Raises `ReleaseError` or `StoreError`.
    """
    check_name("model", model)
    last = await last_trusted(store, Series(CATALOGUES, app, model), trusted)
    if last is None:
        raise BadReleaseTerms(f"nothing is published for {app}/{model}: 'release publish' comes first")
    missing = set(unlist) - {release.release for release in last.releases}
    if missing:
        listed = ", ".join(str(release.release) for release in last.releases)
        raise BadReleaseTerms(f"release {min(missing)} is not listed: listed are {listed or 'none'}")
    floor = max(last.floor, revoke_below)
    kept = [each for each in last.releases if each.release >= floor and each.release not in unlist]
    following = msgspec.structs.replace(
        last,
        number=last.number + 1,
        issued_at=now_ms,
        expires_at=expiry(now_ms, expires_in_days),
        floor=floor,
        releases=kept,
    )
    return encoded(following)


def expiry(now_ms: int, days: int) -> int:
    """Return when a catalogue ends. Raises `BadReleaseTerms`."""
    if days < 1:
        raise BadReleaseTerms(f"a catalogue that expires in {days} days is of no use: give at least 1")
    return now_ms + days * _DAY_MS


def encoded(catalogue: Catalogue) -> bytes:
    """Return the bytes that are signed. Raises `BadReleaseTerms`."""
    document = msgspec.json.encode(catalogue)
    _check_size(document)
    return document


def _check_size(document: bytes) -> None:
    if len(document) > MAX_CATALOGUE_BYTES:
        raise BadReleaseTerms(
            f"the catalogue would have {len(document)} bytes and devices read {MAX_CATALOGUE_BYTES}: bring fewer "
            "golden vectors or inputs, or unlist an old release ('release revoke --release')"
        )


async def attach(store: Store, document: bytes, signature: Signature, public: bytes) -> Catalogue:
    """Write a signed catalogue as the next one. Raises `ReleaseError` or `StoreError`."""
    _check_size(document)
    try:
        catalogue = _catalogue.decode(document)
    except ValueError as error:
        raise BadDocument(f"these bytes are no catalogue: {error}") from error
    if not signed_by(public, document, signature):
        raise BadKey(f"the signature is not one by {key_name(public)} over these bytes: sign exactly what was prepared")
    await _check_signer(store, catalogue.app, public)
    series = Series(CATALOGUES, catalogue.app, catalogue.model)
    found = await newest(store, series)
    newest_number = found[0] if found else 0
    if catalogue.number <= newest_number:
        raise someone_wrote(series, catalogue.number)
    if catalogue.number > newest_number + 1:
        raise BadReleaseTerms(
            f"this is catalogue {catalogue.number}, but {newest_number} is the newest: prepare it again"
        )
    if found is None or _lists_more(catalogue, found):
        await check_steered(store, catalogue.app, catalogue.model)
    await append(store, series, catalogue.number, msgspec.json.encode(SignedCatalogue(document, [signature])))
    return catalogue


def _lists_more(catalogue: Catalogue, last: tuple[int, bytes]) -> bool:
    try:
        earlier = read_catalogue(last[1], catalogue.app, catalogue.model, last[0])[1]
    except BadDocument:
        return True
    # Whole releases: a known number with other bytes or terms is new to devices too.
    return any(release not in earlier.releases for release in catalogue.releases)


async def _check_signer(store: Store, app: str, public: bytes) -> None:
    """Refuse a key that the app's devices would not believe. The list is not judged here: it can only refuse."""
    found = await newest_keys(store, app)
    if found is None:
        return
    signed, keys = found
    roots = {signature.key for signature in signed.signatures} if keys.threshold == 1 else set()
    if key_name(public) not in roots | {key_name(key) for key in keys.keys}:
        raise BadKey(f"{key_name(public)} is not in key list {keys.version} of {app}: list it with 'key rotate' first")


def to_sign(document: bytes) -> bytes:
    """Return what a signer signs: the context and the document."""
    return CATALOGUE_CONTEXT + document
