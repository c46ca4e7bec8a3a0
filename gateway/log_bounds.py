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
# The index of a refused event in its batch's header, five digits and a comma.
_INDEX_BYTES: Final = 6
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
    for key, least_bytes in (
        ("log_pending_max_bytes", most_published_bytes(bounds)),
        ("log_max_bytes", least_log_bytes(bounds)),
    ):
        if getattr(bounds, key) < least_bytes:
            return f"{key} ({getattr(bounds, key)}) must be at least {least_bytes}: {grounds(bounds)}"
    return None


def grounds(bounds: LogBounds) -> str:
    """Say what a bound follows from."""
    return (
        f"so much may come of one request with body_max_bytes {bounds.body_max_bytes},"
        f" inflated_max_bytes {bounds.inflated_max_bytes} and batch_max_events {bounds.batch_max_events}"
    )


def least_log_bytes(bounds: LogBounds) -> int:
    """Return the least that a log must hold: one such request while another waits for its consumer."""
    return 2 * (most_published_bytes(bounds) + _PAGE_BYTES * (1 + bounds.batch_max_events))


def most_published_bytes(bounds: LogBounds) -> int:
    """Return the most that one request puts on the log: a body that is refused whole, in base64, or one that is taken
    and the letters of all its events."""
    characters = max(LETTERS_CHARACTERS, LETTER_CHARACTERS * bounds.batch_max_events)
    texts = min(_CHARACTER_BYTES * characters, 2 * bounds.inflated_max_bytes)
    taken = bounds.body_max_bytes + texts + _LETTER_BYTES * bounds.batch_max_events
    return _HEADERS_BYTES + max(taken, bounds.body_max_bytes * 4 // 3 + _LETTER_BYTES)


def most_record_bytes(bounds: LogBounds) -> int:
    """Return the most that one record takes: a refused body in base64, a batch with its headers, or one huge letter."""
    batch = bounds.body_max_bytes + _INDEX_BYTES * bounds.batch_max_events
    letter = min(_CHARACTER_BYTES * LETTERS_CHARACTERS, 2 * bounds.inflated_max_bytes)
    return _HEADERS_BYTES + max(bounds.body_max_bytes * 4 // 3, batch, letter)
