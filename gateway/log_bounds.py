"""Refuse bounds of the embedded log under which some batch that the gateway accepts could never be stored.

* Such a batch would be answered 503 for ever, and its device would send it for ever.
* What is reckoned is the worst that one request can put on the log; `gateway.ingest` cuts letters as is said here.
"""

from typing import Final, Protocol

# Letters of one request have so many characters altogether, or so many each where that is more. Events of a real batch
# have a few hundred, so none of theirs is ever cut.
LETTERS_CHARACTERS: Final = 256 * 1024
LETTER_CHARACTERS: Final = 512
# A character is at most four bytes: one of UTF-8's four, or an escaped one of two.
_CHARACTER_BYTES: Final = 4
# What stands around a letter's text and around a batch's body: names, times, reasons, headers.
_LETTER_BYTES: Final = 512
_HEADERS_BYTES: Final = 64 * 1024
# A row ends in a page of its own.
_PAGE_BYTES: Final = 4096


class LogBounds(Protocol):
    """The keys that must fit together."""

    @property
    def body_max_bytes(self) -> int: ...
    @property
    def inflated_max_bytes(self) -> int: ...
    @property
    def batch_max_events(self) -> int: ...
    @property
    def log_max_bytes(self) -> int: ...
    @property
    def log_pending_max_bytes(self) -> int: ...


def contradiction(bounds: LogBounds) -> str | None:
    """Say which keys contradict each other; None where none do."""
    pending_bytes = most_published_bytes(bounds)
    # Twice, so that the log can take one such request while another waits for its consumer.
    stored_bytes = 2 * (pending_bytes + _PAGE_BYTES * (1 + bounds.batch_max_events))
    for key, least_bytes in (("log_pending_max_bytes", pending_bytes), ("log_max_bytes", stored_bytes)):
        if getattr(bounds, key) < least_bytes:
            return (
                f"{key} ({getattr(bounds, key)}) must be at least {least_bytes}: so much may come of one request with"
                f" body_max_bytes {bounds.body_max_bytes}, inflated_max_bytes {bounds.inflated_max_bytes}"
                f" and batch_max_events {bounds.batch_max_events}"
            )
    return None


def most_published_bytes(bounds: LogBounds) -> int:
    """Return the most that one request puts on the log: a body that is refused whole, in base64, or one that is taken
    and the letters of all its events."""
    characters = max(LETTERS_CHARACTERS, LETTER_CHARACTERS * bounds.batch_max_events)
    texts = min(_CHARACTER_BYTES * characters, 2 * bounds.inflated_max_bytes)
    taken = bounds.body_max_bytes + texts + _LETTER_BYTES * bounds.batch_max_events
    return _HEADERS_BYTES + max(taken, bounds.body_max_bytes * 4 // 3 + _LETTER_BYTES)
