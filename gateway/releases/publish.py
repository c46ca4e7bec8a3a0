"""Publish a release: artifacts first, the signed catalogue last.

* A crash in between leaves artifacts that nothing points to, and the old catalogue valid; running it again finishes.
* Artifacts are named by their hash: one that is there already is checked and done.
* What is signed is built on the last catalogue only if one of the publisher's own keys signed that: whoever can write
  to the store must not get his release signed along with the next.
* A catalogue lists few releases, the newest: a gateway that was broken into can choose among these and no others.
"""

import lzma
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.releases.apps import check_name, load_app
from gateway.releases.artifact import Artifact, Format, judge
from gateway.releases.documents import CATALOGUES, Series, append, artifact_path, newest, parse_path
from gateway.releases.errors import BadArtifact, BadDocument, BadReleaseTerms, UntrustedHistory
from gateway.releases.keys import key_name, public_bytes, sign, signed_by
from gateway.releases.rules import read_catalogue
from gateway.releases.store import AlreadyExists, Store
from schemas.releases import MAX_CATALOGUE_BYTES, Catalogue, Download, Parameters, Probe, Release, SignedCatalogue
from schemas.versions import parse_specifier

LISTED_RELEASES: Final = 4
_SMALLEST_DICTIONARY: Final = 4096  # liblzma's own bound
_LARGEST_DICTIONARY: Final = 8 * 1024 * 1024
_DAY_MS: Final = 24 * 60 * 60 * 1000


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
) -> Catalogue:
    """Check a file, write it and sign the next catalogue, which lists it first; return that catalogue.

    What is not given (`threshold`, `explore`, `inputs`) comes from the file's metadata. `trusted` are public keys,
    beside the signing key's own, that may have signed the catalogue before. Raises `ReleaseError` or `StoreError`.
    """
    check_name("model", model)
    await load_app(store, app)
    _check_terms(sdk, expires_in_days)
    artifact = judge(_read(file), format, inputs=inputs, probes=probes)
    parameters = _parameters(artifact.metadata, threshold, explore)
    last = await _last_trusted(store, Series(CATALOGUES, app, model), [public_bytes(signing_key), *trusted])
    published = Release(
        release=_number(release, last),
        format=artifact.format,
        sha256=artifact.sha256,
        size=len(artifact.data),
        sdk=sdk,
        inputs=artifact.inputs,
        parameters=parameters,
        probe=artifact.probes,
        downloads=await _write_artifact(store, artifact),
    )
    expires_at = now_ms + expires_in_days * _DAY_MS
    catalogue = _next_catalogue(app, model, last, published, floor, (now_ms, expires_at))
    await append(store, Series(CATALOGUES, app, model), catalogue.number, _signed(catalogue, signing_key))
    return catalogue


async def list_releases(store: Store, app: str | None = None, model: str | None = None) -> list[Catalogue]:
    """Return the newest catalogue of each model, of one app or of all. Raises `ReleaseError` or `StoreError`."""
    paths = map(parse_path, await store.names(f"{CATALOGUES}/{app}" if app else CATALOGUES))
    found = {path[0] for path in paths if path and model in (None, path[0].model)}
    catalogues = [await _last(store, series) for series in sorted(found)]
    return [each[1] for each in catalogues if each]


async def _last(store: Store, series: Series) -> tuple[SignedCatalogue, Catalogue] | None:
    found = await newest(store, series)
    if found is None:
        return None
    number, stored = found
    try:
        return read_catalogue(stored, series.app, series.model, number)
    except BadDocument as error:
        path = series.path(number)
        raise BadDocument(f"{path} is damaged ({error}): restore it from a copy of the store") from error


async def _last_trusted(store: Store, series: Series, keys: Sequence[bytes]) -> Catalogue | None:
    last = await _last(store, series)
    if last is None:
        return None
    signed, catalogue = last
    if not any(signed_by(key, signed.document, signature) for signature in signed.signatures for key in keys):
        names = ", ".join(signature.key for signature in signed.signatures) or "nobody"
        raise UntrustedHistory(
            f"{series.path(catalogue.number)} is signed by {names}, not by {key_name(keys[0])}: sign with the key that "
            "was used before, or find out who wrote it"
        )
    return catalogue


def _number(wanted: int | None, last: Catalogue | None) -> int:
    highest = max((release.release for release in last.releases), default=0) if last else 0
    highest = max(highest, last.floor - 1) if last else highest
    if wanted is None:
        return highest + 1
    if wanted <= highest:
        raise BadReleaseTerms(f"release {wanted} is not above {highest}, the last one: leave the number out")
    return wanted


def _check_terms(sdk: str, expires_in_days: int) -> None:
    try:
        parse_specifier(sdk)
    except ValueError as error:
        raise BadReleaseTerms(f"the SDK specifier {sdk!r} cannot be read: {error}") from error
    if expires_in_days < 1:
        raise BadReleaseTerms(f"a catalogue that expires in {expires_in_days} days is of no use: give at least 1")


def _parameters(metadata: Mapping[str, str], threshold: float | None, explore: float | None) -> Parameters:
    given = {"threshold": threshold, "explore": explore}
    chosen = {name: metadata.get(name) if value is None else value for name, value in given.items()}
    try:
        # Not strict: metadata is text.
        return msgspec.convert({n: v for n, v in chosen.items() if v is not None}, Parameters, strict=False)
    except msgspec.ValidationError as error:
        raise BadReleaseTerms(f"threshold and explore are numbers from 0 to 1: {error}") from error


def _next_catalogue(
    app: str, model: str, last: Catalogue | None, published: Release, floor: int, life_ms: tuple[int, int]
) -> Catalogue:
    floor = max(floor, last.floor if last else 0)
    if published.release < floor:
        raise BadReleaseTerms(f"release {published.release} is below the floor {floor}, so no device would run it")
    earlier = sorted(last.releases if last else [], key=lambda each: each.release, reverse=True)
    listed = [published, *(each for each in earlier if each.release >= floor)][:LISTED_RELEASES]
    return Catalogue(
        app=app,
        model=model,
        number=last.number + 1 if last else 1,
        issued_at=life_ms[0],
        expires_at=life_ms[1],
        floor=floor,
        releases=listed,
    )


def _signed(catalogue: Catalogue, signing_key: Ed25519PrivateKey) -> bytes:
    document = msgspec.json.encode(catalogue)
    if len(document) > MAX_CATALOGUE_BYTES:
        raise BadReleaseTerms(f"the catalogue has {len(document)} bytes, {MAX_CATALOGUE_BYTES} at most: fewer probes")
    return msgspec.json.encode(SignedCatalogue(document, [sign(signing_key, document)]))


async def _write_artifact(store: Store, artifact: Artifact) -> list[Download]:
    """Write the bytes in every encoding worth having; return the downloads, identity first. Raises `StoreError`."""
    downloads = [await _write_download(store, "identity", artifact.data)]
    packed = _pack(artifact.data)
    if len(packed) < len(artifact.data):
        downloads.append(await _write_download(store, "xz", packed))
    return downloads


def _pack(data: bytes) -> bytes:
    # A decoder allocates the dictionary that the file declares, and preset 9 declares 64 MiB: a phone should not.
    dictionary = min(_LARGEST_DICTIONARY, max(_SMALLEST_DICTIONARY, len(data)))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}]
    return lzma.compress(data, check=lzma.CHECK_CRC32, filters=filters)


async def _write_download(store: Store, encoding: str, data: bytes) -> Download:
    path = artifact_path(sha256(data).hexdigest())
    try:
        await store.put_new(path, data)
    except AlreadyExists as error:
        if await store.get(path) != data:
            raise BadArtifact(f"{path} is damaged in the store: delete it there and publish again") from error
    return msgspec.convert({"encoding": encoding, "path": path, "size": len(data)}, Download)


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise BadArtifact(f"cannot read {file}: {error.strerror}") from error
