"""Examine a store end to end, as the devices will find it: documents, signatures, artifacts and what they turn into.

* Every download of the newest catalogues is read and turned into its artifact; the artifact must have its signed hash
  and, where it is a model that can run here, give the signed answers.
* Whom devices believe is judged only by root keys that whoever asks brings along: the store cannot vouch for itself.
  That a catalogue is still what a listed key signed is checked in any case, for the whole history.
"""

import lzma
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from hashlib import sha256
from typing import Final, Literal

from msgspec import Struct

from gateway.client.keyring import Keyring
from gateway.client.verify import named_keys
from gateway.releases.apps import read_app
from gateway.releases.artifact import judge
from gateway.releases.documents import APPS, CATALOGUES, KEYS, PROPOSALS, ROLLOUTS, Series, artifact_path, parse_path
from gateway.releases.errors import BadArtifact, BadDocument, UntrustedHistory
from gateway.releases.keylists import keyring_of
from gateway.releases.keys import signed_by
from gateway.releases.rules import read_catalogue, read_keys, read_proposal, read_rollout
from gateway.releases.store import NotFound, Store
from schemas.releases import App, Catalogue, Download, KeyList, Release, Rollout, SignedCatalogue

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdDict, ZstdError
else:
    from backports.zstd import ZstdDecompressor, ZstdDict, ZstdError


DAY_MS: Final = 24 * 60 * 60 * 1000
# Time enough to find who holds the key.
SOON_MS: Final = 14 * DAY_MS

Document = App | KeyList | Rollout | tuple[SignedCatalogue, Catalogue]


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
    for kind in (APPS, KEYS, CATALOGUES, ROLLOUTS, PROPOSALS):
        for path in await store.names(kind):
            found = parse_path(path)
            if found is None:
                yield Finding(path, "warn", "is no document: nothing reads it")
            elif app in (None, found[0].app):
                series.setdefault(found[0], []).append(found[1])
    examination = _Examination(store, roots, threshold, now_ms)
    for each, numbers in series.items():
        async for finding in examination.series(each, sorted(numbers)):
            yield finding
    if app is None:
        async for finding in examination.others():
            yield finding


class _Examination:
    """What is known by now of the store that is being examined."""

    def __init__(self, store: Store, roots: Sequence[bytes], threshold: int, now_ms: int) -> None:
        self._store = store
        self._roots = roots
        self._threshold = threshold
        self._now_ms = now_ms
        self._newest: dict[Series, Catalogue] = {}
        self._rings: dict[str, Keyring | None] = {}
        # Every key that was ever to be believed. Here it only says whether what it signed is still what it signed.
        self._known: dict[str, dict[str, bytes]] = {}
        self._released: dict[tuple[str, str], dict[int, str]] = {}
        self._seen: set[str] = set()

    async def series(self, series: Series, numbers: Sequence[int]) -> AsyncIterator[Finding]:
        """Examine one series: its gaps, every document, and what devices get from the newest."""
        for number in sorted(set(range(1, numbers[-1] + 1)) - set(numbers)):
            yield Finding(series.path(number), "fail", "is missing: history has a gap")
        if series.app not in self._known:
            self._known[series.app] = named_keys(self._roots)
            async for finding in self._ring(series.app):
                yield finding
        last: Document | None = None
        for number in numbers:
            path = series.path(number)
            try:
                document = _read(series, number, await self._store.get(path))
            except BadDocument as error:
                yield Finding(path, "fail", str(error))
                continue
            for finding in self._findings(path, last, document):
                yield finding
            last = document
        async for finding in self._newest_findings(series, last):
            yield finding

    async def others(self) -> AsyncIterator[Finding]:
        """Examine the artifacts that no newest catalogue lists: patches may need them, and devices may run them."""
        for path in await self._store.names("artifacts"):
            if path not in self._seen and not _is_named_for(path, await self._store.get(path)):
                yield Finding(path, "warn", "is damaged; nothing lists it now")

    async def _ring(self, app: str) -> AsyncIterator[Finding]:
        self._rings[app] = None
        if self._roots:
            try:
                self._rings[app] = await keyring_of(self._store, app, self._roots, self._threshold)
            except (UntrustedHistory, BadDocument) as error:
                yield Finding(f"{KEYS}/{app}", "fail", str(error))

    def _findings(self, path: str, last: Document | None, document: Document) -> list[Finding]:
        if isinstance(document, KeyList):
            self._known[document.app] |= named_keys(document.keys)
            return []
        if not isinstance(document, tuple):
            return []
        signed, catalogue = document
        keys = self._known[catalogue.app]
        broken = [
            Finding(path, "fail", f"is not what {signature.key} signed: its bytes were changed")
            for signature in signed.signatures
            if signature.key in keys and not signed_by(keys[signature.key], signed.document, signature)
        ]
        known = self._released.setdefault((catalogue.app, catalogue.model), {})
        changes = _changes(path, last[1] if isinstance(last, tuple) else None, catalogue, known)
        known |= {release.release: release.sha256 for release in catalogue.releases}
        return broken + changes

    async def _newest_findings(self, series: Series, last: Document | None) -> AsyncIterator[Finding]:
        if isinstance(last, KeyList):
            for finding in _expiry(series.path(last.version), last.expires_at, self._now_ms, "'key rotate'"):
                yield finding
        if isinstance(last, Rollout) and series.kind == ROLLOUTS:
            for finding in _rollout_findings(series.prefix, last, self._newest.get(series._replace(kind=CATALOGUES))):
                yield finding
        elif isinstance(last, tuple):
            self._newest[series] = last[1]
            path, ring = series.path(last[1].number), self._rings[series.app]
            self._seen.update(download.path for release in last[1].releases for download in release.downloads)
            async for finding in _examine_newest(self._store, path, *last, ring, self._now_ms):
                yield finding


def _expiry(path: str, expires_at: int, now_ms: int, remedy: str) -> list[Finding]:
    if expires_at <= now_ms:
        return [Finding(path, "fail", f"has expired: devices install nothing new until {remedy}")]
    if expires_at <= now_ms + SOON_MS:
        days = (expires_at - now_ms) / DAY_MS
        return [Finding(path, "warn", f"expires in {days:.1f} days; then devices install nothing new until {remedy}")]
    return []


def _is_named_for(path: str, data: bytes) -> bool:
    return sha256(data).hexdigest() == path.rpartition("/")[2]


def _read(series: Series, number: int, stored: bytes) -> Document:
    """Read a document. Raises `BadDocument`."""
    if series.kind == ROLLOUTS:
        return read_rollout(stored, series.app, series.model)
    if series.kind == PROPOSALS:
        return read_proposal(stored, series.app, series.model, number).rollout
    if series.kind == CATALOGUES:
        return read_catalogue(stored, series.app, series.model, number)
    if series.kind == APPS:
        return read_app(stored, series.app, number)
    return read_keys(stored, series.app, number)[1]


def _rollout_findings(path: str, rollout: Rollout, catalogue: Catalogue | None) -> list[Finding]:
    listed = {release.release for release in catalogue.releases} if catalogue is not None else set()
    named = {use for use in (rollout.otherwise, *(arm.use for arm in rollout.arms)) if isinstance(use, int)}
    return [
        Finding(path, "warn", f"names release {use}, which is not listed: devices get an older one that is")
        for use in sorted(named - listed)
    ]


def _changes(path: str, before: Catalogue | None, after: Catalogue, known: Mapping[int, str]) -> list[Finding]:
    """Return what no catalogue may change; `known` are the hashes of all releases before it."""
    found = []
    if before is not None and after.floor < before.floor:
        found.append(
            Finding(path, "fail", f"lowers the floor from {before.floor} to {after.floor}: no device takes it")
        )
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
    for finding in _expiry(path, catalogue.expires_at, now_ms, "'release renew'"):
        yield finding
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
    if len(wire) != download.size or not _is_named_for(download.path, wire):
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
