"""Publish a release: artifacts first, the signed catalogue last.

* A crash in between leaves artifacts that nothing points to, and the old catalogue valid; running it again finishes.
* Under the two-person rule, what would reach everyone at once is refused before anything is written.
* Signing may happen elsewhere: `prepare_release` does all but sign, and `catalogues.attach` takes the signature.
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from gateway.releases.apps import check_name, load_app
from gateway.releases.artifact import Artifact, Format, inspect, judge
from gateway.releases.catalogues import (
    LISTED_RELEASES,
    attach,
    encoded,
    expiry,
    highest_release,
    last_catalogue,
    last_trusted,
    with_release,
)
from gateway.releases.documents import CATALOGUES, Series, artifact_path, parse_path
from gateway.releases.errors import BadArtifact, BadReleaseTerms
from gateway.releases.facts import Facts
from gateway.releases.keylists import listed_floor
from gateway.releases.keys import public_bytes, sign
from gateway.releases.packing import write_artifact
from gateway.releases.rollouts import check_steered, standing
from gateway.releases.store import NotFound, Store
from schemas.releases import Catalogue, Parameters, Probe, Release
from schemas.versions import parse_specifier
from schemas.wire import Use

__all__ = ["LISTED_RELEASES", "facts_of", "list_releases", "prepare_release", "publish_release"]


async def publish_release(
    store: Store,
    *,
    app: str,
    model: str,
    file: Path,
    sdk: str,
    signing_key: Ed25519PrivateKey,
    now_ms: int,
    threshold: float | None = None,
    explore: float | None = None,
    inputs: Sequence[str] = (),
    probes: Sequence[Probe] = (),
    format: Format = "mlmodel",  # noqa: A002 - the word that catalogues use
    release: int | None = None,
    floor: int = 0,
    expires_in_days: int = 90,
    trusted: Sequence[bytes] = (),
    urgent: bool = False,
    again: bool = True,
) -> Catalogue:
    """Check a file, write it and sign the next catalogue, which lists it first; return that catalogue.

    What is not given (`threshold`, `explore`, `inputs`) comes from the file's metadata. `trusted` are public keys,
    beside the signing key's own, that may have signed the catalogue before. Without `again`, what is the newest release
    already is refused. Raises `ReleaseError` or `StoreError`.
    """
    public = public_bytes(signing_key)
    document = await prepare_release(
        store,
        app=app,
        model=model,
        file=file,
        sdk=sdk,
        trusted=[public, *trusted],
        now_ms=now_ms,
        threshold=threshold,
        explore=explore,
        inputs=inputs,
        probes=probes,
        format=format,
        release=release,
        floor=floor,
        expires_in_days=expires_in_days,
        urgent=urgent,
        again=again,
    )
    return await attach(store, document, sign(signing_key, document), public)


async def prepare_release(
    store: Store,
    *,
    app: str,
    model: str,
    file: Path,
    sdk: str,
    trusted: Sequence[bytes],
    now_ms: int,
    threshold: float | None = None,
    explore: float | None = None,
    inputs: Sequence[str] = (),
    probes: Sequence[Probe] = (),
    format: Format = "mlmodel",  # noqa: A002 - the word that catalogues use
    release: int | None = None,
    floor: int = 0,
    expires_in_days: int = 90,
    urgent: bool = False,
    again: bool = True,
) -> bytes:
    """Check a file, write it and return the bytes of the next catalogue, to be signed.

    `trusted` are the public keys that may have signed the catalogue before. Without `again`, what is the newest release
    already is refused. Raises `ReleaseError` or `StoreError`.
    """
    check_name("model", model)
    await load_app(store, app)
    await check_steered(store, app, model)
    _check_sdk(sdk)
    expires_at = expiry(now_ms, expires_in_days)
    artifact = judge(_read(file), format, inputs=inputs, probes=probes)
    parameters = _parameters(artifact.metadata, threshold, explore)
    series = Series(CATALOGUES, app, model)
    last = await last_trusted(store, series, trusted)
    number = _number(release, last, await highest_release(store, series, trusted))
    published = _described(number, artifact, sdk, parameters, urgent=urgent)
    await _check_floor(store, app, model, published.release)
    if not again:
        _check_new(published, last)
    named, life_ms = await _named(store, app, model), (now_ms, expires_at)
    # Before anything is written; its downloads take the little that is left, and are counted again at the end.
    encoded(with_release(app, model, last, published, floor=floor, named=named, life_ms=life_ms))
    published = replace(published, downloads=await write_artifact(store, artifact, last.releases if last else ()))
    return encoded(with_release(app, model, last, published, floor=floor, named=named, life_ms=life_ms))


async def list_releases(store: Store, app: str | None = None, model: str | None = None) -> list[Catalogue]:
    """Return the newest catalogue of each model, of one app or of all. Raises `ReleaseError` or `StoreError`."""
    paths = map(parse_path, await store.names(f"{CATALOGUES}/{app}" if app else CATALOGUES))
    found = {path[0] for path in paths if path and model in (None, path[0].model)}
    catalogues = [await last_catalogue(store, series) for series in sorted(found)]
    return [each[1] for each in catalogues if each]


async def facts_of(store: Store, release: Release) -> Facts | None:
    """Describe a listed release's artifact, as it lies in the store; None if it is opaque, gone or damaged.

    Raises `StoreError`.
    """
    if release.format == "opaque":
        return None
    try:
        data = await store.get(artifact_path(release.sha256))
        return inspect(data, release.format) if sha256(data).hexdigest() == release.sha256 else None
    except (NotFound, BadArtifact):
        return None


def _described(number: int, artifact: Artifact, sdk: str, parameters: Parameters, *, urgent: bool) -> Release:
    """Return the release, without downloads yet."""
    return Release(
        release=number,
        format=artifact.format,
        sha256=artifact.sha256,
        size=len(artifact.data),
        sdk=sdk,
        os=artifact.os,
        urgent=urgent,
        inputs=artifact.inputs,
        parameters=parameters,
        probe=artifact.probes,
        downloads=[],
    )


def _number(wanted: int | None, last: Catalogue | None, highest: int) -> int:
    highest = max(highest, last.floor - 1) if last else highest
    if wanted is None:
        return highest + 1
    if wanted <= highest:
        raise BadReleaseTerms(f"release {wanted} is not above {highest}, the last one: leave the number out")
    return wanted


async def _check_floor(store: Store, app: str, model: str, number: int) -> None:
    floor = await listed_floor(store, app, model)
    if number < floor:
        raise BadReleaseTerms(
            f"release {number} is below the floor {floor} of the key list, so no device would run it: --release {floor}"
        )


async def _named(store: Store, app: str, model: str) -> set[Use]:
    """Return what the rollout in force tells devices to run."""
    rollout = (await standing(store, app, model)).rollout
    return set() if rollout is None else {arm.use for arm in rollout.arms} | {rollout.otherwise}


def _check_new(published: Release, last: Catalogue | None) -> None:
    newest = last.releases[0] if last and last.releases else None
    if newest and replace(published, release=newest.release, downloads=newest.downloads) == newest:
        raise BadReleaseTerms(
            f"this file with these terms is release {newest.release} already: nothing would change on any device; "
            "say --again to publish it under the next number all the same"
        )


def _check_sdk(sdk: str) -> None:
    try:
        parse_specifier(sdk)
    except ValueError as error:
        raise BadReleaseTerms(f"the SDK specifier {sdk!r} cannot be read: {error}") from error


def _parameters(metadata: Mapping[str, str], threshold: float | None, explore: float | None) -> Parameters:
    given = {"threshold": threshold, "explore": explore}
    chosen = {name: metadata.get(name) if value is None else value for name, value in given.items()}
    try:
        # Not strict: metadata is text.
        return msgspec.convert({n: v for n, v in chosen.items() if v is not None}, Parameters, strict=False)
    except msgspec.ValidationError as error:
        raise BadReleaseTerms(f"threshold and explore are numbers from 0 to 1: {error}") from error


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadArtifact(f"cannot read {file}: {error.strerror}") from error
