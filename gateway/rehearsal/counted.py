"""What the log holds in the end: every event once, or how many twice."""

from pathlib import Path
from typing import Final

from msgspec import Struct

from consumers.source import EmbeddedSource
from schemas.reading import read_batch
from schemas.topics import BATCHES
from schemas.wire import Outcome, Prediction

CONSUMER: Final = "rehearsal"
_RECORDS: Final = 1000
_BYTES: Final = 16 * 1024 * 1024


class Counted(Struct, frozen=True):
    """Events of distinct batches, accepted and refused; `doubled` stand in two batches; `resent`: batches that came
    again under the name under which they are stored once."""

    events: int
    refused: int
    doubled: int
    resent: int


async def count(directory: Path) -> Counted:
    """Read the log from its beginning."""
    source = await EmbeddedSource.open(directory, CONSUMER, topics=(BATCHES,))
    try:
        return await _count(source)
    finally:
        await source.close()


async def _count(source: EmbeddedSource) -> Counted:
    batches, known = set[tuple[str, str]](), set[tuple[str, str, int]]()
    events = refused = doubled = resent = first = 0
    while records := await source.read(BATCHES, 0, first, max_records=_RECORDS, max_bytes=_BYTES):
        for record in records:
            about, batch, accepted = read_batch(record)
            name = (batch.device, batch.batch)
            if name in batches:
                resent += 1
                continue
            batches.add(name)
            events += len(accepted)
            refused += len(about.refused)
            for _, event in accepted:
                if isinstance(event, Prediction | Outcome):
                    identity = (batch.device, type(event).__name__, event.id)
                    doubled += identity in known
                    known.add(identity)
        first = records[-1].offset + 1
    return Counted(events, refused, doubled, resent)
