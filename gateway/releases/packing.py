"""Write an artifact in every form worth downloading: whole, packed, and as patches on what devices have already.

* Every download is named by the hash of its own bytes; one that is there already is checked and done.
* A small patch rides in a reply to whoever has its base; the device checks the result as if it had fetched it.
* A patch is kept only where it saves at least a fifth against the best whole download: a retrained model shares little
  with the one before, and each patch is one more line in a catalogue that every device reads.
* Patches are zstd frames with the old file as raw prefix, as `zstd --patch-from` writes them (RFC 8878).
"""

import lzma
import sys
from collections.abc import Sequence
from hashlib import sha256
from typing import Final, Literal

from gateway.releases.artifact import Artifact
from gateway.releases.documents import artifact_path
from gateway.releases.errors import BadArtifact
from gateway.releases.store import AlreadyExists, NotFound, Store
from schemas.releases import Download, Release

if sys.version_info >= (3, 14):
    from compression.zstd import CompressionParameter, ZstdCompressor, ZstdDict
else:
    from backports.zstd import CompressionParameter, ZstdCompressor, ZstdDict

Encoding = Literal["identity", "xz", "zstd-patch"]

_SMALLEST_DICTIONARY: Final = 4096  # liblzma's own bound
_LARGEST_DICTIONARY: Final = 8 * 1024 * 1024
_WORTH: Final = 0.8
_LEVEL: Final = 19
# zstd's own bound for a prefix; what is shorter saves nothing anyway.
_SHORTEST_BASE: Final = 8
_SMALLEST_WINDOW_LOG: Final = 10


async def write_artifact(store: Store, artifact: Artifact, earlier: Sequence[Release]) -> list[Download]:
    """Write every download worth having; return them, identity first. Raises `BadArtifact` or `StoreError`."""
    downloads = [await _write(store, "identity", artifact.data)]
    packed = pack(artifact.data)
    if len(packed) < len(artifact.data):
        downloads.append(await _write(store, "xz", packed))
    most = _WORTH * min(download.size for download in downloads)
    for base in dict.fromkeys(release.sha256 for release in earlier if release.sha256 != artifact.sha256):
        old = await _base(store, base)
        patch = patched(artifact.data, old) if len(old) >= _SHORTEST_BASE else None
        if patch is not None and len(patch) <= most:
            downloads.append(await _write(store, "zstd-patch", patch, base))
    return downloads


def pack(data: bytes) -> bytes:
    """Compress with xz."""
    # A decoder allocates the dictionary that the file declares, and preset 9 declares 64 MiB: a phone should not.
    dictionary = min(_LARGEST_DICTIONARY, max(_SMALLEST_DICTIONARY, len(data)))
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": dictionary}]
    return lzma.compress(data, check=lzma.CHECK_CRC32, filters=filters)


def patched(data: bytes, base: bytes) -> bytes:
    """Return a patch that makes `data` of `base`."""
    # The window has to span the base and the result, or what lies furthest back cannot be referred to.
    window_log = max(_SMALLEST_WINDOW_LOG, (len(data) + len(base)).bit_length())
    options: dict[int, int] = {
        CompressionParameter.compression_level: _LEVEL,
        CompressionParameter.window_log: window_log,
        CompressionParameter.enable_long_distance_matching: 1,
    }
    compressor = ZstdCompressor(options=options, zstd_dict=ZstdDict(base, is_raw=True).as_prefix)
    return compressor.compress(data, ZstdCompressor.FLUSH_FRAME)


async def _base(store: Store, digest: str) -> bytes:
    """Return an earlier artifact, or nothing where it is gone or damaged: then there is no patch on it."""
    try:
        data = await store.get(artifact_path(digest))
    except NotFound:
        return b""
    return data if sha256(data).hexdigest() == digest else b""


async def _write(store: Store, encoding: Encoding, data: bytes, base: str | None = None) -> Download:
    path = artifact_path(sha256(data).hexdigest())
    try:
        await store.put_new(path, data)
    except AlreadyExists as error:
        if await store.get(path) != data:
            raise BadArtifact(f"{path} is damaged in the store: delete it there and publish again") from error
    return Download(encoding, path, len(data), base)
