"""Examine a store end to end, as the devices will find it: documents, signatures, artifacts and what they turn into.

* Every download of the newest catalogues is read and turned into its artifact; the artifact must have its signed hash
  and, where it is a model that can run here, give the signed answers.
* Signatures are judged only against root keys that whoever asks brings along: the store cannot vouch for itself.
"""

import lzma
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from hashlib import sha256
from typing import Literal

from msgspec import Struct

from gateway.client.keyring import Keyring
from gateway.releases.apps import read_app
from gateway.releases.artifact import judge
from gateway.releases.documents import APPS, CATALOGUES, KEYS, ROLLOUTS, Series, artifact_path, parse_path
from gateway.releases.errors import BadArtifact, BadDocument, UntrustedHistory
from gateway.releases.keylists import keyring_of
from gateway.releases.keys import signed_by
from gateway.releases.rules import read_catalogue, read_keys, read_rollout
from gateway.releases.store import NotFound, Store
from schemas.releases import Catalogue, Download, Release, Rollout, SignedCatalogue

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdDict, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdDict, ZstdError


Document = Rollout | tuple[SignedCatalogue, Catalogue]


class Finding(Struct, frozen=True):
    """Something that is not as it should be: `fail` breaks devices or trust, `warn` will, or is odd."""

    path: str
    level: Literal["warn", "fail"]
    text: str


async def examine(
    store: Store, *, app: str | None, roots: Sequence[bytes], threshold: int, now_ms: int
) -> AsyncIterator[Finding]:
    """Yield what is wrong with a store, or with one app in it. Raises `StoreError`."""
    series: dict[Series, list[int]] = {}
    for kind in (APPS, KEYS, CATALOGUES, ROLLOUTS):
        for path in await store.names(kind):
            found = parse_path(path)
            if found is None:
                yield Finding(path, "warn", "is no document: nothing reads it")
            elif app in (None, found[0].app):
                series.setdefault(found[0], []).append(found[1])
    newest: dict[Series, Catalogue] = {}
    rings: dict[str, Keyring | None] = {}
    for each, numbers in series.items():
        for finding in _gaps(each, numbers):
            yield finding
        if each.app not in rings and roots:
            rings[each.app], trouble = await _ring(store, each.app, roots, threshold)
            if trouble is not None:
                yield trouble
        async for finding in _examine_series(store, each, sorted(numbers), rings.get(each.app), newest, now_ms):
            yield finding


async def _ring(
    store: Store, app: str, roots: Sequence[bytes], threshold: int
) -> tuple[Keyring | None, Finding | None]:
    try:
        return await keyring_of(store, app, roots, threshold), None
    except (UntrustedHistory, BadDocument) as error:
        return None, Finding(f"{KEYS}/{app}", "fail", str(error))


def _gaps(series: Series, numbers: Sequence[int]) -> list[Finding]:
    missing = sorted(set(range(1, max(numbers) + 1)) - set(numbers))
    return [Finding(series.path(number), "fail", "is missing: history has a gap") for number in missing]


async def _examine_series(
    store: Store,
    series: Series,
    numbers: Sequence[int],
    ring: Keyring | None,
    newest: dict[Series, Catalogue],
    now_ms: int,
) -> AsyncIterator[Finding]:
    last: Document | None = None
    for number in numbers:
        path = series.path(number)
        try:
            document = _read(series, number, await store.get(path))
        except BadDocument as error:
            yield Finding(path, "fail", str(error))
            continue
        if isinstance(document, tuple) and isinstance(last, tuple):
            for finding in _changes(path, last[1], document[1]):
                yield finding
        last = document
    if isinstance(last, Rollout):
        for finding in _rollout_findings(series.prefix, last, newest.get(series._replace(kind=CATALOGUES))):
            yield finding
    elif last is not None:
        newest[series] = last[1]
        async for finding in _examine_newest(store, series.path(last[1].number), *last, ring, now_ms):
            yield finding


def _read(series: Series, number: int, stored: bytes) -> Document | None:
    """Read a document; what needs no further look is None. Raises `BadDocument`."""
    if series.kind == ROLLOUTS:
        return read_rollout(stored, series.app, series.model)
    if series.kind == CATALOGUES:
        return read_catalogue(stored, series.app, series.model, number)
    if series.kind == APPS:
        read_app(stored, series.app, number)
    else:
        read_keys(stored, series.app, number)
    return None


def _rollout_findings(path: str, rollout: Rollout, catalogue: Catalogue | None) -> list[Finding]:
    listed = {release.release for release in catalogue.releases} if catalogue is not None else set()
    named = {use for use in (rollout.otherwise, *(arm.use for arm in rollout.arms)) if isinstance(use, int)}
    return [
        Finding(path, "warn", f"names release {use}, which is not listed: devices get an older one that is")
        for use in sorted(named - listed)
    ]


def _changes(path: str, before: Catalogue, after: Catalogue) -> list[Finding]:
    found = []
    if after.floor < before.floor:
        found.append(
            Finding(path, "fail", f"lowers the floor from {before.floor} to {after.floor}: no device takes it")
        )
    known = {release.release: release.sha256 for release in before.releases}
    found += [
        Finding(path, "fail", f"release {release.release} became another artifact: publish it under a new number")
        for release in after.releases
        if known.get(release.release, release.sha256) != release.sha256
    ]
    return found


async def _examine_newest(
    store: Store, path: str, signed: SignedCatalogue, catalogue: Catalogue, ring: Keyring | None, now_ms: int
) -> AsyncIterator[Finding]:
    if ring is not None:
        keys = ring.trusted(now_ms).values()
        if not any(signed_by(key, signed.document, signature) for key in keys for signature in signed.signatures):
            yield Finding(path, "fail", "is signed by no key that devices believe now: sign it again, 'release renew'")
    if catalogue.expires_at <= now_ms:
        yield Finding(path, "fail", "has expired: devices install nothing new until 'release renew'")
    artifacts: dict[str, bytes] = {}
    for release in sorted(catalogue.releases, key=lambda each: each.release):
        async for finding in _examine_release(store, path, release, artifacts):
            yield finding


async def _examine_release(
    store: Store, path: str, release: Release, artifacts: dict[str, bytes]
) -> AsyncIterator[Finding]:
    for download in release.downloads:
        trouble, data = await _fetched(store, release, download, artifacts)
        if trouble:
            yield Finding(download.path, "fail", f"release {release.release} in {path}: {trouble}")
        elif data is not None:
            artifacts[release.sha256] = data
    whole = artifacts.get(release.sha256)
    if whole is not None and release.format != "opaque":
        try:
            judge(whole, release.format, inputs=release.inputs, probes=release.probe)
        except BadArtifact as error:
            yield Finding(artifact_path(release.sha256), "fail", f"release {release.release} in {path}: {error}")


async def _fetched(
    store: Store, release: Release, download: Download, artifacts: Mapping[str, bytes]
) -> tuple[str, bytes | None]:
    """Return what is wrong with a download, and the artifact that it yields."""
    try:
        wire = await store.get(download.path)
    except NotFound:
        return "the file is missing", None
    if len(wire) != download.size or sha256(wire).hexdigest() != download.path.rpartition("/")[2]:
        return "the file is damaged: its bytes are not those that it is named for", None
    if download.base is not None and download.base not in artifacts:
        try:  # a base that is no longer listed may still be on devices
            base = await store.get(artifact_path(download.base))
        except NotFound:
            return "", None
    else:
        base = artifacts.get(download.base or "", b"")
    try:
        data = _unpacked(wire, download, base, release.size)
    except (lzma.LZMAError, ZstdError, ValueError) as error:
        return f"the file cannot be unpacked: {error}", None
    if sha256(data).hexdigest() != release.sha256:
        return "what the file unpacks to is not the release", None
    return "", data


def _unpacked(wire: bytes, download: Download, base: bytes, size: int) -> bytes:
    if download.encoding == "xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(wire, size + 1)
    if download.encoding == "zstd-patch":
        unpacker = ZstdDecompressor(ZstdDict(base, is_raw=True).as_prefix)
        return unpacker.decompress(wire, size + 1)
    return wire
