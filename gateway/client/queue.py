"""The durable queue: every event produced is in it, sent, or counted as dropped, whenever the process is killed.

* An event and the count that it was produced are one transaction; so are an event's loss and its count.
* A batch is frozen (identity, number, events) on disk before it is sent, and resent as that until it is answered: a
  retry can then be told from a new batch.
* Bounded by events and bytes: the oldest goes first, but never one that is frozen, since the gateway may have it.
* Nothing here raises because of the disk while recording: what could not be written is counted, and the count is
  written with the next thing that can be.
* Without a file that can be opened, events are in memory, each write tries the file again, and the first that finds it
  moves them there. The numbers of predictions are the file's; until then the app knows them by numbers below 0.
"""

import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec
from msgspec import Struct

from gateway.client.limits import Limits
from gateway.client.storage import Storage, StorageFailed
from schemas.wire import Event, Flush, Ledger, Outcome, Prediction

_encode: Final = msgspec.json.Encoder().encode
_prediction: Final = msgspec.json.Decoder(Prediction)
_event: Final[msgspec.json.Decoder[Event]] = msgspec.json.Decoder(Event)
_names: Final = msgspec.json.Decoder(list[str])
_flush: Final = msgspec.json.Decoder(Flush)


class Frozen(Struct, frozen=True):
    """A batch that may have been sent: the same document every time, but for the time of sending."""

    batch: str
    seq: int
    last: int
    events: int
    document: bytes


class Contents(Struct, frozen=True):
    """What goes into a batch's document."""

    device: str
    batch: str
    seq: int
    ledger: Ledger
    signals: dict[str, list[str]]
    events: list[bytes]


class Standing(Struct, frozen=True):
    """What the queue remembers about itself and the gateway."""

    device: str
    queued_events: int
    queued_bytes: int
    contact_ms: int
    wait_until_ms: int
    failures: int
    refused_key: str
    flush: Flush | None


class Queue:
    """The device's events, from the moment they happen until a reply says that they are safe."""

    def __init__(self, storage: Storage, limits: Limits) -> None:
        self._storage = storage
        self._limits = limits
        self._unwritten: Counter[str] = Counter()
        self._carried: dict[tuple[int, str], int] = {}
        self._numbered = 0  # the highest number that the app was given here, whatever became of the file
        self._moved: dict[int, int] = {}  # what the app calls a prediction that was in memory, and its number

    def opened(self) -> bool:
        """Say whether the file is open, by now; if only just, with what memory held."""
        if not self._storage.kept:
            try:
                with self._storage.opened_at_last() as (memory, tx):
                    moved = self._move(memory, tx)
            except StorageFailed:
                return False
            self._moved |= moved
            self._numbered = max([self._numbered, *moved.values()])
        return True

    @contextmanager
    def writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        """Open a transaction that also writes down what could not be written before. Raises `StorageFailed`."""
        self.opened()
        owed = Counter(self._unwritten)
        with self._storage.transaction(durable=durable) as tx:
            for reason, events in owed.items():
                tx.execute("UPDATE device SET produced = produced + ?", (events,))
                _count(tx, reason, events)
            yield tx
        self._unwritten -= owed  # only now is it certain

    def predicted(self, event: Prediction, names: Sequence[str]) -> tuple[int, int]:
        """Number and record a prediction, whose signals have these names.

        Return (number, events queued), (0, 0) if it was lost; a number below 0 while only memory has it.
        """
        try:
            with self.writing() as tx:
                known = (self._storage.generation, event.model)
                carried = self._carried.get(known) or _carry(tx, event.model, names)
                number = self._last(tx) + 1
                tx.execute("UPDATE device SET predictions = ?", (number,))
                queued = self.add(tx, msgspec.structs.replace(event, id=number), prediction=number, carried=carried)
        except StorageFailed as error:
            self._unwritten[error.reason] += 1
            return 0, 0
        self._carried[known] = carried
        if not self._storage.kept:
            return -number - len(self._moved), queued
        self._numbered = number
        return number, queued

    def outcome(self, outcome: Outcome) -> int:
        """Record an outcome, inside its prediction's event while that still waits. Return how many events wait."""
        try:
            with self.writing() as tx:
                number, here = self._number(tx, outcome.id)
                event = msgspec.structs.replace(outcome, id=number)
                queued = (self._merge(tx, event) if here else None) if number else _queued(tx)
                if queued is not None:
                    return queued
                return self.add(tx, event, prediction=-number if here and not self._storage.kept else None)
        except StorageFailed as error:
            self._unwritten[error.reason] += 1
            return 0

    def add(
        self, tx: sqlite3.Connection, event: Event, *, prediction: int | None = None, carried: int | None = None
    ) -> int:
        """Append inside a transaction, making room if need be. Return how many events wait."""
        body = _encode(event)
        tx.execute("INSERT INTO events (prediction, carried, body) VALUES (?, ?, ?)", (prediction, carried, body))
        queued, size = tx.execute(
            "UPDATE device SET produced = produced + 1, queued_events = queued_events + 1,"
            " queued_bytes = queued_bytes + ? RETURNING queued_events, queued_bytes",
            (len(body),),
        ).fetchone()
        if queued > self._limits.queue_events or size > self._limits.queue_bytes:
            return self._make_room(tx, queued, size)
        return int(queued)

    def lose(self, reason: str, events: int) -> None:
        """Count events that happened but could not be written."""
        if events:
            self._unwritten[reason] += events

    def freeze(self, compose: Callable[[Contents], bytes], most_events: int) -> Frozen:
        """Return the batch to send: the one already frozen, or the oldest events with a new one's identity.

        Raises `StorageFailed`; then nothing may be sent.
        """
        with self.writing(durable=True) as tx:
            found = _frozen(tx)
            if found is not None:
                return found
            rows, signals = self._oldest(tx, most_events)
            device, seq = tx.execute("UPDATE device SET seq = seq + 1 RETURNING device, seq").fetchone()
            last = rows[-1][0] if rows else 0
            batch, bodies = str(uuid.uuid4()), [body for _, body in rows]
            document = compose(Contents(device, batch, seq, self._ledger(tx), signals, bodies))
            frozen = Frozen(batch, seq, last, len(rows), document)
            tx.execute(
                "INSERT INTO frozen (only, batch, seq, last, events, body) VALUES (1, ?, ?, ?, ?, ?)",
                (frozen.batch, frozen.seq, frozen.last, frozen.events, frozen.document),
            )
        return frozen

    def delivered(self, frozen: Frozen, contact_ms: int, flush: Flush) -> None:
        """Forget a batch that is safe at the gateway, and note the contact. Raises `StorageFailed`."""
        with self._storage.transaction() as tx:
            self._remove(tx, frozen)
            tx.execute(
                "UPDATE device SET contact_ms = ?, wait_until_ms = 0, failures = 0, refused_key = '', flush = ?",
                (contact_ms, _encode(flush)),
            )

    def dropped(self, frozen: Frozen, reason: str) -> None:
        """Give up a batch that can never be sent, and count its events. Raises `StorageFailed`."""
        with self._storage.transaction() as tx:
            if self._remove(tx, frozen):
                _count(tx, reason, frozen.events)

    def thaw(self, frozen: Frozen) -> None:
        """Undo a freeze whose batch was refused whole; its number is used again, so no gap shows.

        Raises `StorageFailed`.
        """
        with self._storage.transaction() as tx:
            if _melted(tx, frozen):
                tx.execute("UPDATE device SET seq = ?", (frozen.seq - 1,))

    def wait(self, until_ms: int, failures: int, refused_key: str = "") -> None:
        """Remember across a restart until when to keep silent, and with which key if that is why.

        Raises `StorageFailed`.
        """
        with self._storage.transaction() as tx:
            row = (until_ms, failures, refused_key)
            tx.execute("UPDATE device SET wait_until_ms = ?, failures = ?, refused_key = ?", row)

    def standing(self) -> Standing:
        """Raises `StorageFailed`."""
        with self._storage.transaction() as tx:
            device, events, size, contact, until, failures, refused, flush = tx.execute(
                "SELECT device, queued_events, queued_bytes, contact_ms, wait_until_ms, failures, refused_key, flush"
                " FROM device"
            ).fetchone()
        policy = None if flush is None else _flush.decode(flush)
        return Standing(device, events, size, contact, until, failures, refused, policy)

    def frozen(self) -> Frozen | None:
        """Return the batch that is on its way. Raises `StorageFailed`."""
        with self._storage.transaction() as tx:
            return _frozen(tx)

    def newest(self) -> int:
        """Return the position of the newest event, 0 when nothing waits. Raises `StorageFailed`."""
        with self._storage.transaction() as tx:
            return int(tx.execute("SELECT coalesce(max(position), 0) FROM events").fetchone()[0])

    def ledger(self) -> Ledger:
        """Return the counts since install, with those that could not be written yet. Raises `StorageFailed`."""
        with self._storage.transaction() as tx:
            written = self._ledger(tx)
        dropped = Counter(written.dropped) + self._unwritten
        return Ledger(produced=written.produced + self._unwritten.total(), dropped=dict(dropped))

    def _last(self, tx: sqlite3.Connection) -> int:
        """Return the last prediction's number. That of a file that was replaced may have been unreadable."""
        return max(_predictions(tx), self._numbered) if self._storage.kept else _predictions(tx)

    def _number(self, tx: sqlite3.Connection, name: int) -> tuple[int, bool]:
        """Return the number of what the app knows by a name, 0 for nothing, and whether this file or memory gave it."""
        if self._storage.kept:
            return max(0, self._moved.get(name, name)), True
        if name < 0 and name not in self._moved:
            number = -name - len(self._moved)
            return (number if number <= _predictions(tx) else 0), True
        return self._moved.get(name, name), False

    def _move(self, memory: sqlite3.Connection, tx: sqlite3.Connection) -> dict[int, int]:
        """Append what memory holds, count what it lost. Return its predictions' numbers, by what the app calls them.

        In memory, an event is marked with the number there of its prediction: below 0 if it is an outcome.
        """
        given, last = _predictions(memory), max(_predictions(tx), self._numbered)
        tx.execute("UPDATE device SET predictions = ?", (last + given,))
        known = {row[0]: (row[1], _names.decode(row[2])) for row in memory.execute("SELECT * FROM carried")}
        rows = memory.execute("SELECT prediction, carried, body FROM events ORDER BY position").fetchall()
        for mark, carried, body in rows:
            event = _event.decode(body)
            if mark is not None and isinstance(event, Prediction | Outcome):
                event = msgspec.structs.replace(event, id=last + abs(mark))
            names = None if carried is None else _carry(tx, *known[carried])
            self.add(tx, event, prediction=last + mark if mark is not None and mark > 0 else None, carried=names)
        for reason, events in self._ledger(memory).dropped.items():
            tx.execute("UPDATE device SET produced = produced + ?", (events,))
            _count(tx, reason, events)
        return {-number - len(self._moved): last + number for number in range(1, given + 1)}

    def _ledger(self, tx: sqlite3.Connection) -> Ledger:
        produced = tx.execute("SELECT produced FROM device").fetchone()[0]
        return Ledger(produced=produced, dropped=dict(tx.execute("SELECT reason, events FROM dropped").fetchall()))

    def _make_room(self, tx: sqlite3.Connection, queued: int, size: int) -> int:
        after = _frozen_last(tx)
        last = lost = 0
        for position, length in tx.execute(
            "SELECT position, length(body) FROM events WHERE position > ? ORDER BY position", (after,)
        ):
            if queued <= self._limits.queue_events and size <= self._limits.queue_bytes:
                break
            queued, size, last, lost = queued - 1, size - length, position, lost + 1
        tx.execute("DELETE FROM events WHERE position > ? AND position <= ?", (after, last))
        tx.execute("UPDATE device SET queued_events = ?, queued_bytes = ?", (queued, size))
        _count(tx, "queue_full", lost)
        return queued

    def _merge(self, tx: sqlite3.Connection, outcome: Outcome) -> int | None:
        row = tx.execute(
            "SELECT position, body FROM events WHERE prediction = ? AND position > ? ORDER BY position DESC LIMIT 1",
            (outcome.id, _frozen_last(tx)),
        ).fetchone()
        if row is None:
            return None
        prediction = _prediction.decode(row[1])
        if prediction.model != outcome.model or prediction.outcome is not None:
            return None
        body = _encode(msgspec.structs.replace(prediction, outcome=outcome.outcome, value=outcome.value))
        tx.execute("UPDATE events SET body = ? WHERE position = ?", (body, row[0]))
        return int(
            tx.execute(
                "UPDATE device SET queued_bytes = queued_bytes + ? RETURNING queued_events", (len(body) - len(row[1]),)
            ).fetchone()[0]
        )

    def _oldest(self, tx: sqlite3.Connection, most: int) -> tuple[list[tuple[int, bytes]], dict[str, list[str]]]:
        """Take from the front as many events as fit and as share one list of signal names per model."""
        known = {row[0]: (row[1], row[2]) for row in tx.execute("SELECT id, model, names FROM carried")}
        rows: list[tuple[int, bytes]] = []
        names: dict[str, str] = {}
        room = max(1, min(self._limits.batch_bytes, self._limits.queue_bytes // 2))
        query = "SELECT position, carried, body FROM events ORDER BY position LIMIT ?"
        for position, carried, body in tx.execute(query, (most,)):
            model, text = known.get(carried, ("", ""))
            room -= len(body)
            if rows and (room < 0 or (model and names.get(model, text) != text)):
                break
            if model:
                names[model] = text
            rows.append((position, body))
        return rows, {model: _names.decode(text) for model, text in names.items()}

    def _remove(self, tx: sqlite3.Connection, frozen: Frozen) -> bool:
        if not _melted(tx, frozen):
            return False
        gone = tx.execute("DELETE FROM events WHERE position <= ? RETURNING length(body)", (frozen.last,)).fetchall()
        tx.execute(
            "UPDATE device SET queued_events = queued_events - ?, queued_bytes = queued_bytes - ?",
            (len(gone), sum(row[0] for row in gone)),
        )
        return True


def _predictions(tx: sqlite3.Connection) -> int:
    return int(tx.execute("SELECT predictions FROM device").fetchone()[0])


def _queued(tx: sqlite3.Connection) -> int:
    return int(tx.execute("SELECT queued_events FROM device").fetchone()[0])


def _carry(tx: sqlite3.Connection, model: str, names: Sequence[str]) -> int:
    """Return the number under which these signal names are known on disk."""
    row = (model, _encode(list(names)).decode())
    tx.execute("INSERT INTO carried (model, names) VALUES (?, ?) ON CONFLICT DO NOTHING", row)
    return int(tx.execute("SELECT id FROM carried WHERE model = ? AND names = ?", row).fetchone()[0])


def _frozen(tx: sqlite3.Connection) -> Frozen | None:
    row = tx.execute("SELECT batch, seq, last, events, body FROM frozen").fetchone()
    return None if row is None else Frozen(*row)


def _melted(tx: sqlite3.Connection, frozen: Frozen) -> bool:
    """Forget the batch on its way, if it is this one: a file that was replaced meanwhile has events of its own."""
    return tx.execute("DELETE FROM frozen WHERE batch = ?", (frozen.batch,)).rowcount > 0


def _frozen_last(tx: sqlite3.Connection) -> int:
    row = tx.execute("SELECT last FROM frozen").fetchone()
    return 0 if row is None else int(row[0])


def _count(tx: sqlite3.Connection, reason: str, events: int) -> None:
    if events:
        tx.execute(
            "INSERT INTO dropped (reason, events) VALUES (?, ?)"
            " ON CONFLICT (reason) DO UPDATE SET events = events + excluded.events",
            (reason, events),
        )
