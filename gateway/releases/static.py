"""Write catalogues and artifacts as plain files, for a bucket or a page host: devices can live on that alone.

* Artifacts are written first and a catalogue last, each synced and then renamed: whoever reads meanwhile, or after a
  power cut, sees the old or the new. A file that is there already counts only if it has the hash of its name.
* Plain files cannot choose by device: while a rollout is under way everyone gets its `otherwise`.
"""

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import UNSET

from gateway.releases.catalogues import last_catalogue
from gateway.releases.decide import tried
from gateway.releases.documents import CATALOGUES, Series, parse_path
from gateway.releases.errors import BadArtifact
from gateway.releases.keylists import newest_keys
from gateway.releases.rollouts import standing
from gateway.releases.store import Store, sync, sync_directories
from schemas.releases import Catalogue
from schemas.wire import StaticNews

# From catalogues/<app>/<model>.json back to where `artifacts/` stands.
_TOP = "../../"


async def write_static(store: Store, directory: Path, app: str | None = None) -> list[Catalogue]:
    """Write the newest catalogues and what they list; return them.

    Raises `ReleaseError`, `StoreError` or OSError.
    """
    paths = map(parse_path, await store.names(f"{CATALOGUES}/{app}" if app else CATALOGUES))
    return [await _write_model(store, directory, series) for series in sorted({found[0] for found in paths if found})]


async def _write_model(store: Store, directory: Path, series: Series) -> Catalogue:
    last = await last_catalogue(store, series)
    if last is None:
        raise BadArtifact(f"{series.prefix} went away while it was read")
    signed, catalogue = last
    for path in _paths(catalogue):
        if not _is_whole(directory / path):
            data = await store.get(path)
            if sha256(data).hexdigest() != path.rpartition("/")[2]:
                raise BadArtifact(f"{path} is damaged in the store: see 'release verify'")
            _write(directory, path, data)
    news = StaticNews(signed.document, signed.signatures, _TOP)
    keys = await newest_keys(store, series.app)
    rollout = (await standing(store, series.app, series.model)).rollout
    if keys is not None:
        news = msgspec.structs.replace(news, keys=keys[0])
    if rollout is not None:
        never = sorted(use for use in tried(rollout) if isinstance(use, int))
        news = msgspec.structs.replace(news, use=rollout.otherwise, never=never or UNSET)
    _write(directory, f"{series.prefix}.json", msgspec.json.encode(news))
    return catalogue


def _paths(catalogue: Catalogue) -> Iterator[str]:
    for release in catalogue.releases:
        yield from (download.path for download in release.downloads)


def _is_whole(path: Path) -> bool:
    try:
        return sha256(path.read_bytes()).hexdigest() == path.name
    except FileNotFoundError:
        return False


def _write(root: Path, name: str, data: bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_bytes(data)
        sync(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_directories(root, path)
