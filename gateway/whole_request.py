"""Read a batch's request that lies whole in one piece of bytes; say of all others whether more of them must come.

* Pure. Only what can be read in one way is read: every header once, its name of letters, digits and "-", nothing but
  printable ASCII, one length. Whatever is otherwise is strange, and for a real HTTP parser to judge.
"""

from enum import Enum
from typing import Final

from msgspec import Struct

PATH: Final = "/v1/batches"
MOST_BYTES: Final = 64 * 1024
_MOST_HEAD_BYTES: Final = 8 * 1024
_START: Final = f"POST {PATH} HTTP/1.1\r\n".encode()
_PRINTABLE: Final = bytes(range(0x20, 0x7F))
# They say where a message ends, or ask for what is not done here.
_FRAMING: Final = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer", b"http2-settings"))


class Head(Struct, frozen=True):
    """What is judged of a request's headers, as they were sent."""

    authorization: str
    content_type: str
    content_encoding: str
    announced_bytes: int


class Whole(Struct, frozen=True):
    """A request to take a batch."""

    head: Head
    body: bytes


class Unread(Enum):
    """Why nothing was read."""

    PARTIAL = "more must come"
    STRANGE = "not a plain request for this path"


def read(data: bytes) -> Whole | Unread:
    """Return the request that the bytes are, exactly and altogether."""
    if not data.startswith(_START):
        return Unread.PARTIAL if _START.startswith(data) else Unread.STRANGE
    end = data.find(b"\r\n\r\n", 0, _MOST_HEAD_BYTES)
    if end < 0:
        return Unread.PARTIAL if len(data) < _MOST_HEAD_BYTES else Unread.STRANGE
    headers = _headers(data[len(_START) : end])
    length = headers.get(b"content-length", b"")
    if not length.isdigit() or len(length) > len(str(MOST_BYTES)):
        return Unread.STRANGE
    total_bytes = end + 4 + int(length)
    if len(data) < total_bytes <= MOST_BYTES:
        return Unread.PARTIAL
    if len(data) != total_bytes:
        return Unread.STRANGE
    return Whole(_head(headers), data[end + 4 :])


def _headers(block: bytes) -> dict[bytes, bytes]:
    """Return values by names in lower case; nothing where any of it is strange."""
    lines = block.split(b"\r\n")
    if block.translate(None, _PRINTABLE) != b"\r\n" * (len(lines) - 1):
        return {}
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not name or not colon:
            return {}
        headers[name.lower()] = value.strip()
    is_plain = (
        len(headers) == len(lines)
        and b"".join(headers).replace(b"-", b"").isalnum()
        and _FRAMING.isdisjoint(headers)
        and b"host" in headers
        and headers.get(b"connection", b"keep-alive").lower() == b"keep-alive"
    )
    return headers if is_plain else {}


def _head(headers: dict[bytes, bytes]) -> Head:
    value = headers.get
    return Head(
        authorization=value(b"authorization", b"").decode(),
        content_type=value(b"content-type", b"").decode(),
        content_encoding=value(b"content-encoding", b"identity").decode(),
        announced_bytes=int(headers[b"content-length"]),
    )
