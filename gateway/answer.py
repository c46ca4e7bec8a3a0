"""Write an answer in one piece: what aiohttp does for every response costs a tenth of what a whole batch does.

* `JsonAnswer` is for the usual case of aiohttp's, HTTP/1.1 on a connection that stays open: everything else goes
  aiohttp's way, byte for byte as any other response. `on_response_prepare` signals are not sent; the application has
  none.
"""

import asyncio
from typing import Final

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.web_request import BaseRequest

from gateway.problems import MEDIA_TYPE, RequestFailed

_HEADERS: Final = {hdrs.CONTENT_TYPE: "application/json"}
_HEAD: Final = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nDate: %s\r\n%s\r\n"
_CLOSE: Final = "Connection: close\r\n"


def json_answer(body: bytes, *, closing: bool = False) -> bytes:
    """Return a whole 200."""
    return (_HEAD % (len(body), rfc822_formatted_time(), _CLOSE if closing else "")).encode() + body


def problem_answer(failed: RequestFailed, *, closing: bool = False) -> tuple[bytes, int, str]:
    """Return a whole answer to a failed request, its status and its code."""
    document = failed.document()
    headers = {**failed.headers, hdrs.CONTENT_TYPE: MEDIA_TYPE, hdrs.CONTENT_LENGTH: len(document)}
    lines = [f"HTTP/1.1 {failed.status.value} {failed.status.phrase}", f"Date: {rfc822_formatted_time()}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    head = "\r\n".join(lines) + "\r\n" + (_CLOSE if closing else "") + "\r\n"
    return head.encode() + document, failed.status.value, failed.code


class JsonAnswer(web.Response):
    """A 200 whose body is JSON."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body=body, headers=_HEADERS)
        self._json = body
        self._direct: asyncio.Transport | None = None

    @property
    def keep_alive(self) -> bool | None:
        """Say whether the connection stays open, as the server asks once the answer is written."""
        return True if self._direct is not None else super().keep_alive

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Choose the way."""
        transport = request.transport
        if (
            transport is None
            or transport.is_closing()
            or super().keep_alive is False  # the gateway is stopping
            or not request.keep_alive
            or request.version != HttpVersion11
        ):
            return await super().prepare(request)
        self._direct = transport
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Write all of it."""
        if self._direct is None:
            await super().write_eof(data)
        else:
            self._direct.write(json_answer(self._json))
