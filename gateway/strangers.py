"""Keep strangers from filling the gateway's own output: what they send that is no HTTP is one line a minute.

* Such a request never reaches the application: no key was seen, and the server answers it itself, with a traceback in
  the log for each. Anybody could write megabytes a second that way.
* Everything else passes as it is: an error of ours is never kept back.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

from aiohttp.http_exceptions import HttpProcessingError

QUIET_SECONDS: Final = 60.0
# What a stranger sent is quoted in the error; a header of eight kilobytes must not come out whole.
_QUOTED_CHARACTERS: Final = 200


def connection_log() -> logging.Logger:
    """Return the logger for a server's connections."""
    logger = logging.getLogger("gateway.connections")
    if not any(isinstance(each, Strangers) for each in logger.filters):
        logger.addFilter(Strangers())
    return logger


class Strangers(logging.Filter):
    """Lets one record about requests that are no HTTP pass in a minute; it stands for those before it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._monotonic = monotonic
        self._quiet_until = float("-inf")
        self._kept_back = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a record is written; where it is a stranger's, without its traceback."""
        error = record.exc_info[1] if record.exc_info else None
        if not isinstance(error, HttpProcessingError):
            return True
        now = self._monotonic()
        if now < self._quiet_until:
            self._kept_back += 1
            return False
        said = " ".join(error.message.split())[:_QUOTED_CHARACTERS]
        record.msg = "a request that is no HTTP: %s (%d more since the last such line)"
        record.args = (said, self._kept_back)
        record.levelno, record.levelname = logging.INFO, logging.getLevelName(logging.INFO)
        record.exc_info = record.exc_text = None
        self._quiet_until, self._kept_back = now + QUIET_SECONDS, 0
        return logging.getLogger(record.name).isEnabledFor(logging.INFO)
