"""How far every registered consumer has read: below that the log may be trimmed.

* When in doubt, keep: a file that cannot be read, of another log, or ahead of the log's end holds everything.
* A topic that no consumer names is kept whole.
"""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from schemas.positions import DIRECTORY, SUFFIX, Positions

_log = logging.getLogger(__name__)
_decoder = msgspec.json.Decoder(Positions)


def floors(directory: Path, identity: str, ends: Mapping[str, int]) -> dict[str, int]:
    """Return the smallest position of each topic; 0 holds all. Raises OSError."""
    found: dict[str, int] = {}
    for positions in _registered(directory, identity):
        if positions is None:
            return dict.fromkeys(ends, 0)
        for topic, end in ends.items():
            if topic in positions:
                position = positions[topic] if positions[topic] <= end else 0
                found[topic] = min(position, found.get(topic, position))
    return {topic: found.get(topic, 0) for topic in ends}


def _registered(directory: Path, identity: str) -> Iterator[Mapping[str, int] | None]:
    """Yield each consumer's positions on this log; None for one that cannot be trusted."""
    for path in sorted((directory / DIRECTORY).glob(f"*{SUFFIX}")):
        try:
            stored = _decoder.decode(path.read_bytes())
        except FileNotFoundError:  # a consumer was taken off the register just now
            continue
        except ValueError as error:
            _log.warning("%s cannot be read, so nothing is trimmed: %s", path, error)
            yield None
        else:
            yield stored.positions if stored.identity == identity else None
