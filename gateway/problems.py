"""The one tree of failed requests: each says its status, its stable code and when to try again.

* Every part of the gateway raises these; the application answers them in one place, as RFC 9457 problem documents.
* A refused *event* is not here: it is data (`schemas.reasons`), and the rest of its batch goes on.
* Pure: the dice for a Retry-After are a parameter.
"""

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import ClassVar, Final

import msgspec

from schemas.encoding import ENCODINGS
from schemas.wire import Problem

MEDIA_TYPE: Final = "application/problem+json"
# A detail may quote what a device sent; a body of megabytes must not come back whole.
MAX_DETAIL: Final = 300


class RequestFailed(Exception):
    """A request that is not answered with what it asked for."""

    status: ClassVar[HTTPStatus]
    code: ClassVar[str]

    def __init__(self, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail if len(detail) <= MAX_DETAIL else detail[: MAX_DETAIL - 1] + "…"
        self.headers: dict[str, str] = dict(headers or {})

    def document(self) -> bytes:
        """Render the problem document."""
        problem = Problem(title=self.status.phrase, status=self.status, code=self.code, detail=self.detail)
        return msgspec.json.encode(problem)


class MalformedBody(RequestFailed):
    """A body that is no batch. The device drops it; `reason` says in the dead letters what was wrong."""

    status = HTTPStatus.BAD_REQUEST
    code = "malformed"

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason

    def forget_frames(self) -> None:
        """Let go of the frames that raised it. They hold the inflated body, a thousand times what the device sent,
        and would hold it for as long as the log takes."""
        self.__traceback__ = self.__cause__ = self.__context__ = None


class UnknownKey(RequestFailed):
    """No app key, or one that names no app."""

    status = HTTPStatus.UNAUTHORIZED
    code = "unknown_key"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, {"WWW-Authenticate": "Bearer"})


class KeyRevoked(RequestFailed):
    """An app key that was good once."""

    status = HTTPStatus.FORBIDDEN
    code = "key_revoked"


class NothingThere(RequestFailed):
    """No such path, or no such artifact."""

    status = HTTPStatus.NOT_FOUND
    code = "not_found"


class MethodNotAllowed(RequestFailed):
    """The path is there, but not for this method."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    code = "method_not_allowed"


class BatchTooLarge(RequestFailed):
    """A body or batch past a cap. The device splits it and tries the halves."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    code = "too_large"


class UnsupportedMedia(RequestFailed):
    """A media type or content encoding that no batch has."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    code = "unsupported_media"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, {"Accept": "application/json", "Accept-Encoding": ", ".join(ENCODINGS)})


class RangeNotSatisfiable(RequestFailed):
    """A range that begins past the end."""

    status = HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
    code = "range_not_satisfiable"

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"there are {size_bytes} bytes", {"Content-Range": f"bytes */{size_bytes}"})


class TryLater(RequestFailed):
    """What the device may send again, unchanged, after Retry-After."""

    def __init__(self, detail: str, retry_after_seconds: int) -> None:
        super().__init__(detail, {"Retry-After": str(retry_after_seconds)})


class SlowDown(TryLater):
    """More is in work than this gateway may hold."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    code = "slow_down"


class ServiceUnavailable(TryLater):
    """What the request needs, the log or the store, does not answer."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "unavailable"


class Internal(RequestFailed):
    """A mistake of the gateway's own. Its traceback is in the gateway's output, not in the answer."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    code = "internal"

    def __init__(self) -> None:
        super().__init__("the gateway failed; the request may be sent again")


def spread(seconds: float, roll: float) -> int:
    """Return whole seconds between `seconds` and twice that, for a roll in [0, 1), so that devices do not come back
    at once."""
    return max(1, math.ceil(seconds * (1.0 + roll)))
