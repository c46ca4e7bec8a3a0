"""One request to the gateway: the body as it is given, the answer as it came.

* No answer at all is an answer with status 0: the batch then waits, like after any status the contract does not name.
* A status counts only with the contract's word for it: proxies and captive portals have statuses of their own.
* A reply is not signed, and yet an old one is no answer: it has to name the batch that was sent, whose id is 122 bits
  that this device drew when it froze the batch (`queue`). That is the nonce; and since a batch that was answered is
  gone, no reply counts twice. Who cannot read the request, which TLS sees to, cannot make a reply to it either.
* Signing replies with that nonce was measured and left out: Ed25519 costs the gateway 23 microseconds of CPU a request,
  about an eighth of what a batch of 50 events takes it, 88 bytes in every reply of 160, and the device 75 microseconds;
  and it helps only against who stands between the two, not against a gateway that was broken into, which would hold the
  key. What either may say is bounded by what was signed offline.
* A redirect is not followed: it would carry the app key to a stranger.
* That a batch has arrived is read apart from the news: news that cannot be read must not make a device resend what is
  stored, to be told the same again.
"""

import gzip
import logging
import re
from typing import Final

import aiohttp
import msgspec
from msgspec import Struct

from gateway.client.limits import Limits
from schemas.wire import Reply

logger = logging.getLogger(__name__)

_PROBLEM_TYPE: Final = "application/problem+json"
_reply: Final = msgspec.json.Decoder(Reply)
# A gateway writes these two first, so that they can be read of a reply that is too long or damaged further on.
_BEGINNING: Final = re.compile(rb'\s*\{\s*"batch"\s*:\s*"([0-9a-f-]{36})"\s*,\s*"accepted"\s*:\s*[0-9]+\s*[,}]')


class Receipt(Struct, frozen=True):
    """The part of a reply that says what has arrived."""

    batch: str
    accepted: int


class Refusal(Struct, frozen=True):
    """The part of a problem document that a device goes by."""

    code: str


_receipt: Final = msgspec.json.Decoder(Receipt)
_refusal: Final = msgspec.json.Decoder(Refusal)


class Answer(Struct, frozen=True):
    """What came back.

    * `delivered`: the gateway has this very batch. `reply` is what it says besides, where that can be read.
    * `code` is the contract's word for a refusal, empty when it came from somebody else.
    * `sent`: something of the batch may have left the device.
    """

    status: int
    code: str = ""
    delivered: bool = False
    reply: Reply | None = None
    retry_after: str | None = None
    sent: bool = True


NO_ANSWER: Final = Answer(0)
NO_CONNECTION: Final = Answer(0, sent=False)


def pack(document: bytes) -> bytes:
    """Compress a body. The header carries no time, so that equal batches are equal bytes."""
    return gzip.compress(document, 6, mtime=0)


class Transport:
    """The way to one gateway for one app."""

    def __init__(self, session: aiohttp.ClientSession, url: str, app_key: str, limits: Limits) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/v1/batches"
        self._timeout = aiohttp.ClientTimeout(total=limits.request_seconds)
        self._reply_bytes = limits.reply_bytes
        self._problem_bytes = limits.problem_bytes
        self._headers = {
            "Authorization": f"Bearer {app_key}",
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
        }

    async def send(self, batch: str, body: bytes) -> Answer:
        """Post a batch. A 200 counts only with a reply to this very batch: a captive portal answers 200 to anything."""
        try:
            async with self._session.post(
                self._url, data=body, headers=self._headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                if response.status != 200:
                    return await _refused(response, self._problem_bytes)
                text = await _beginning_of(response, self._reply_bytes + 1)
        except aiohttp.ClientConnectorError as error:
            logger.info("no connection to the gateway: %r", error)
            return NO_CONNECTION
        except (aiohttp.ClientError, OSError, ValueError) as error:
            logger.info("no answer from the gateway: %r", error)
            return NO_ANSWER
        return _judge(batch, text, whole=len(text) <= self._reply_bytes)


async def read_at_most(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Return the body. Raises ValueError for a longer one."""
    text = await _beginning_of(response, most + 1)
    if len(text) > most:
        raise ValueError(f"a reply of more than {most} bytes")
    return text


async def _beginning_of(response: aiohttp.ClientResponse, most: int) -> bytes:
    text = bytearray()
    async for chunk in response.content.iter_any():
        text += chunk
        if len(text) >= most:
            break
    return bytes(text[:most])


async def _refused(response: aiohttp.ClientResponse, most_bytes: int) -> Answer:
    code = ""
    if response.content_type == _PROBLEM_TYPE:
        try:
            code = _refusal.decode(await read_at_most(response, most_bytes)).code
        except (aiohttp.ClientError, OSError, ValueError, RecursionError):
            logger.info("status %d with a problem that cannot be read", response.status)
    return Answer(response.status, code, retry_after=response.headers.get("Retry-After"))


def _judge(batch: str, text: bytes, *, whole: bool) -> Answer:
    """Read a 200: first whether this batch has arrived, then what else it says."""
    if _acknowledged(text) != batch:
        logger.warning("a 200 that is not a reply to the batch")
        return NO_ANSWER
    try:
        return Answer(200, delivered=True, reply=_reply.decode(text) if whole else None)
    except (ValueError, RecursionError) as error:
        logger.warning("the batch has arrived, but what else the reply says cannot be read: %s", error)
        return Answer(200, delivered=True)


def _acknowledged(text: bytes) -> str | None:
    """Return the batch that a reply acknowledges."""
    try:
        return _receipt.decode(text).batch
    except (ValueError, RecursionError):
        found = _BEGINNING.match(text)
        return None if found is None else found.group(1).decode()
