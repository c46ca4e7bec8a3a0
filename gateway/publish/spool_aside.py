"""Put aside what Kafka will not take, so that one record does not hold up all that wait behind it in a spool.

* **Nothing is thrown away**: the record is whole in a file, synced before the spool moves past it, and a dead letter
  tells of it: with the whole body where that fits on its topic, so that it can be replayed, else with no body.
* A record keeps its name (topic and offset): put aside again after a crash, it is the same file and the same letter.
"""

import base64
import os
from pathlib import Path

import msgspec

from schemas.reasons import TOO_LARGE_FOR_LOG
from schemas.records import DeadLetter, Malformed, Record, StoredRecord, batch_headers, dead_letter, dead_letter_record
from schemas.topics import BATCHES


def keep(directory: Path, record: StoredRecord) -> Path:
    """Write the record to a file of its own and sync it. Raises OSError."""
    directory.mkdir(exist_ok=True)
    path = directory / f"{record.topic}-{record.offset}.json"
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        file.write(msgspec.json.encode(record))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    for folder in (directory, directory.parent):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    return path


def letter_of(record: StoredRecord) -> DeadLetter:
    """Return the dead letter of a record that is put aside, with its whole body."""
    try:
        return _batch_letter(record) if record.topic == BATCHES else dead_letter(record)
    except Malformed:
        return DeadLetter(
            app="",
            received_at=0,
            device=None,
            batch=None,
            index=None,
            reason=TOO_LARGE_FOR_LOG,
            encoding="record",
            body=base64.b64encode(record.value).decode(),
        )


def without_body(letter: DeadLetter, kept: Path) -> Record:
    """Return the letter to publish where the whole one does not fit either: it names the file."""
    told = f"{kept.name} in the spool's directory".encode()
    return dead_letter_record(
        msgspec.structs.replace(
            letter, reason=TOO_LARGE_FOR_LOG, encoding="identity", body=base64.b64encode(told).decode()
        )
    )


def _batch_letter(record: StoredRecord) -> DeadLetter:
    about = batch_headers(record)
    return DeadLetter(
        app=about.app,
        received_at=about.received_at,
        device=record.key.decode("utf-8", "replace"),
        batch=about.batch,
        index=None,
        reason=TOO_LARGE_FOR_LOG,
        encoding=about.content_encoding,
        body=base64.b64encode(record.value).decode(),
    )
