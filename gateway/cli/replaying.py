"""Bring dead letters back: look up what each came with, judge it again, publish what is acceptable now."""

from collections.abc import Sequence
from typing import Literal

import msgspec
from clickhouse_connect.driver.asyncclient import AsyncClient
from msgspec import Struct
from msgspec.structs import replace

from consumers.dead_letters import Batch, Kept, batch_of, is_stored, signal_names
from consumers.one_record import record_in_file, record_on_kafka
from gateway.config import Config
from gateway.decode import Caps
from gateway.replay import Around, RefusedAgain, Replayed, batch_of_event, replayed
from gateway.supervisor.log import open_log
from schemas.reading import read_batch
from schemas.records import DeadLetter, Malformed
from schemas.topics import BATCHES
from schemas.wire import Envelope, Prediction


class Outcome(Struct, frozen=True):
    """What became of a letter; `refused` counts events that a batch was accepted without."""

    digest: str
    app: str
    outcome: Literal["replayed", "acceptable", "stored already", "refused again"]
    batch: str = ""
    accepted: int = 0
    refused: int = 0
    detail: str = ""


async def bring_back(client: AsyncClient, config: Config, letters: Sequence[Kept], *, dry: bool) -> list[Outcome]:
    """Judge the letters again and publish what is acceptable, unless dry. Raises `Unavailable`."""
    log = None if dry or not letters else await open_log(config, spooling=False)
    try:
        outcomes = []
        for each in letters:
            outcome, found = await _judged(client, config, each)
            if found is not None and log is not None:
                await log.sink.publish(found.records)
                outcome = replace(outcome, outcome="replayed")
            outcomes.append(outcome)
        return outcomes
    finally:
        if log is not None:
            await log.sink.close()


async def _judged(client: AsyncClient, config: Config, each: Kept) -> tuple[Outcome, Replayed | None]:
    """Return what is to be said of a letter, and what is to be published if anything is."""
    letter, caps = each.letter, Caps(config.inflated_max_bytes, config.batch_max_events)
    around = None
    if letter.index is not None:
        batch = batch_of_event(each.digest)
        if await is_stored(client, letter.app, letter.device or "", batch):
            return Outcome(each.digest, letter.app, "stored already", batch, 1), None
        around = await _around(client, config, letter)
    try:
        found = replayed(letter, each.digest, around, each.topic, caps, config.name)
    except RefusedAgain as refused:
        return Outcome(each.digest, letter.app, "refused again", detail=str(refused)), None
    detail = ", ".join(f"{index}: {reason}" for index, reason in found.refused.items())
    outcome = Outcome(each.digest, letter.app, "acceptable", found.batch, found.accepted, len(found.refused), detail)
    if await is_stored(client, letter.app, found.device, found.batch):
        return replace(outcome, outcome="stored already"), None
    return outcome, found


async def _around(client: AsyncClient, config: Config, letter: DeadLetter) -> Around | None:
    """Return the refused event's batch, with its signals' names.

    Where the batch came before the warehouse kept them, and had no accepted prediction, the log may still hold it, or
    all other predictions of that release may agree.
    """
    batch = await batch_of(client, letter)
    if batch is None:
        return None
    envelope, event = batch.envelope, _prediction(letter)
    if event is not None and event.signals and event.model not in envelope.signals:
        original = await _original(config, batch)
        names = original.signals.get(event.model) if original is not None else None
        names = names or await signal_names(client, envelope, letter.app, event)
        envelope = replace(envelope, signals=envelope.signals | ({event.model: names} if names else {}))
    return Around(envelope, batch.offer)


def _prediction(letter: DeadLetter) -> Prediction | None:
    try:
        return msgspec.json.decode(letter.body, type=Prediction)
    except ValueError:
        return None


async def _original(config: Config, batch: Batch) -> Envelope | None:
    """Read the batch from the log, if it is still there."""
    kafka = config.kafka
    if kafka is None:
        record = record_in_file(config.directory / "log", BATCHES, batch.offset)
    else:
        record = await record_on_kafka(kafka, BATCHES, batch.partition, batch.offset)
    if record is None:
        return None
    try:
        _, found, _ = read_batch(record)
    except Malformed:
        return None
    same = (found.device, found.batch) == (batch.envelope.device, batch.envelope.batch)
    return found if same else None
