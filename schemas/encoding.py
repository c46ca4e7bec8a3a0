"""Inflate a body without ever holding more than the cap: gzip, zstd and identity.

* A gzip body is exactly one member with its whole trailer: a second member or a cut trailer is malformed.
* A zstd body is exactly one frame. The decompressor bounds what it writes, whatever size the frame declares.
"""

import sys
from typing import Final

from isal import isal_zlib

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

ENCODINGS: Final = ("gzip", "zstd", "identity")
# A frame may ask for a window of gigabytes; a body of megabytes needs 8 MiB at most (RFC 8878, section 3.1.1.1.2).
_ZSTD_OPTIONS: Final[dict[int, int]] = {DecompressionParameter.window_log_max: 23}


class Damaged(ValueError):
    """A body that cannot be inflated: damaged, cut short, or followed by something else."""


class TooLarge(ValueError):
    """A body that inflates past the cap."""


def inflate(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return the body inflated, at most `max_bytes` long. Raises `Damaged` or `TooLarge`."""
    if encoding == "gzip":
        return _gunzip(body, max_bytes)
    if encoding == "zstd":
        return _unzstd(body, max_bytes)
    if encoding != "identity":
        raise Damaged(f"unknown content encoding {encoding!r}")
    if len(body) > max_bytes:
        raise TooLarge(f"more than {max_bytes} bytes")
    return body


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    stream = isal_zlib.decompressobj(31)  # 31: a gzip header and trailer are required
    try:
        data: bytes = stream.decompress(body, max_bytes + 1)
    except isal_zlib.IsalError as error:  # type: ignore[misc]  # its stub declares a bare object
        raise Damaged(f"gzip: {error}") from error
    if len(data) > max_bytes:
        raise TooLarge(f"more than {max_bytes} bytes")
    if not stream.eof:
        raise Damaged("gzip: cut short")
    if stream.unused_data:
        raise Damaged("gzip: something follows the first member")
    return data


def _unzstd(body: bytes, max_bytes: int) -> bytes:
    stream = ZstdDecompressor(options=_ZSTD_OPTIONS)
    try:
        data = stream.decompress(body, max_bytes + 1)
    except ZstdError as error:
        raise Damaged(f"zstd: {error}") from error
    if len(data) > max_bytes:
        raise TooLarge(f"more than {max_bytes} bytes")
    if not stream.eof:
        raise Damaged("zstd: cut short")
    if stream.unused_data:
        raise Damaged("zstd: something follows the first frame")
    return data
