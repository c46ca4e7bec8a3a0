"""One request to the gateway: the body as it was frozen, the answer as it came.

* No answer at all is an answer with status 0: the batch then waits, like after any status the contract does not name.
* A redirect is not followed: it would carry the app key to a stranger.
"""

import gzip
import logging
from typing import Final

import aiohttp
import msgspec
from msgspec import Struct

from schemas.wire import Reply

logger = logging.getLogger(__name__)

_reply: Final = msgspec.json.Decoder(Reply)


class Answer(Struct, frozen=True):
    """A status and, for 200, the reply; for the others, the wait that was asked for."""

    status: int
    reply: Reply | None = None
    retry_after: str | None = None


NO_ANSWER: Final = Answer(0)


def pack(document: bytes) -> bytes:
    """Compress a body. The header carries no time, so that equal batches are equal bytes."""
    return gzip.compress(document, 6, mtime=0)


class Transport:
    """The way to one gateway for one app."""

    def __init__(
        self, session: aiohttp.ClientSession, url: str, app_key: str, *, seconds: float, reply_bytes: int
    ) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/v1/batches"
        self._timeout = aiohttp.ClientTimeout(total=seconds)
        self._reply_bytes = reply_bytes
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
                    return Answer(response.status, None, response.headers.get("Retry-After"))
                text = await read_at_most(response, self._reply_bytes)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            logger.info("no answer from the gateway: %r", error)
            return NO_ANSWER
        try:
            reply = _reply.decode(text)
        except (ValueError, RecursionError):
            logger.warning("a 200 that is not a reply")
            return NO_ANSWER
        return Answer(200, reply) if reply.batch == batch else NO_ANSWER


async def read_at_most(response: aiohttp.ClientResponse, most: int) -> bytes:
    """Return the body. Raises ValueError for a longer one."""
    text = b""
    async for chunk in response.content.iter_any():
        text += chunk
        if len(text) > most:
            raise ValueError(f"a reply of more than {most} bytes")
    return text
