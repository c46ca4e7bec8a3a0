"""The queue's promises on a real SQLite file: bounded, durable, and every event accounted for."""

import gzip
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.client.limits import Limits
from gateway.client.queue import Contents, Frozen, Queue
from gateway.client.storage import Storage, StorageFailed
from schemas.wire import Flush, Ledger, Outcome, Prediction


def prediction(signals: int = 1) -> Prediction:
    return Prediction(0, 1_000, "upsell", 1, "bundled", 0.5, True, signals=[0.5] * signals)


def compose(contents: Contents) -> bytes:
    return msgspec.json.encode(contents)


def events_in(frozen: Frozen) -> list[int]:
    contents = msgspec.json.decode(frozen.document, type=Contents)
    return [msgspec.json.decode(event)["id"] for event in contents.events]


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[Storage]:
    opened = Storage(tmp_path)
    yield opened
    opened.close()


def fill(storage: Storage) -> None:
    """Let no file of the database grow any more: what a full disk looks like from inside SQLite."""
    with storage.transaction() as tx:
        pages = tx.execute("PRAGMA page_count").fetchone()[0]
    storage._connection.execute(f"PRAGMA max_page_count = {pages}")


def test_the_oldest_go_first_when_there_are_too_many(storage: Storage) -> None:
    queue = Queue(storage, Limits(queue_events=10))
    assert [queue.predicted(prediction(), ["a"]) for _ in range(13)][-1] == (13, 10)
    assert events_in(queue.freeze(compose, 100)) == list(range(4, 14))
    assert queue.ledger().dropped == {"queue_full": 3}
    assert queue.ledger().produced == 13


def test_the_oldest_go_first_when_they_weigh_too_much(storage: Storage) -> None:
    queue = Queue(storage, Limits(queue_bytes=4000))
    for _ in range(50):
        queue.predicted(prediction(signals=20), ["a"])
    standing = queue.standing()
    assert standing.queued_bytes <= 4000
    assert standing.queued_events + queue.ledger().dropped["queue_full"] == 50


def test_an_event_heavier_than_the_queue_is_dropped_and_counted(storage: Storage) -> None:
    queue = Queue(storage, Limits(queue_bytes=200))
    queue.predicted(prediction(signals=100), ["a"])
    assert queue.standing().queued_events == 0
    assert queue.ledger().dropped == {"queue_full": 1}


def test_what_is_frozen_is_never_dropped(storage: Storage) -> None:
    queue = Queue(storage, Limits(queue_events=10))
    for _ in range(10):
        queue.predicted(prediction(), ["a"])
    frozen = queue.freeze(compose, 5)
    for _ in range(20):
        queue.predicted(prediction(), ["a"])
    assert events_in(frozen) == [1, 2, 3, 4, 5]
    queue.delivered(frozen, 1, Limits().first_flush)
    assert events_in(queue.freeze(compose, 100)) == [26, 27, 28, 29, 30]
    assert queue.ledger().dropped == {"queue_full": 20}


def test_a_frozen_batch_is_the_same_after_a_restart(tmp_path: Path) -> None:
    first = Storage(tmp_path)
    queue = Queue(first, Limits())
    queue.predicted(prediction(), ["a"])
    frozen = queue.freeze(compose, 10)
    queue.predicted(prediction(), ["a"])
    first.close()
    second = Storage(tmp_path)
    assert Queue(second, Limits()).freeze(compose, 10) == frozen
    second.close()


def test_a_batch_is_cut_where_it_grows_too_heavy(storage: Storage) -> None:
    queue = Queue(storage, Limits(batch_bytes=1000))
    for _ in range(30):
        queue.predicted(prediction(), ["a"])
    frozen = queue.freeze(compose, 100)
    assert 0 < frozen.events < 30
    assert sum(map(len, msgspec.json.decode(frozen.document, type=Contents).events)) <= 1000


def test_a_second_outcome_does_not_replace_the_first(storage: Storage) -> None:
    queue = Queue(storage, Limits())
    number, _ = queue.predicted(prediction(), ["a"])
    assert queue.outcome(Outcome(number, 2_000, "upsell", "purchased", 1.0)) == 1
    assert queue.outcome(Outcome(number, 3_000, "upsell", "refunded", 0.0)) == 2
    assert queue.outcome(Outcome(number, 3_000, "other", "purchased", 0.0)) == 3


def test_a_full_disk_is_counted_and_confessed_when_there_is_room_again(storage: Storage) -> None:
    queue = Queue(storage, Limits())
    queue.predicted(prediction(), ["a"])
    fill(storage)
    lost = 0
    while queue.predicted(prediction(signals=200), ["a"]) != (0, 0):
        lost += 1
    for _ in range(2):
        queue.outcome(Outcome(99, 2_000, "upsell", "purchased" * 7, 1.0))
        queue.predicted(prediction(signals=200), ["a"])
    dropped = queue.ledger().dropped["disk_full"]
    assert dropped >= 3
    storage._connection.execute("PRAGMA max_page_count = 1000000")
    queue.predicted(prediction(), ["a"])
    contents = msgspec.json.decode(queue.freeze(compose, 1000).document, type=Contents)
    assert contents.ledger.dropped == {"disk_full": dropped}
    assert contents.ledger.produced == len(contents.events) + dropped


def test_a_full_disk_freezes_nothing(storage: Storage) -> None:
    queue = Queue(storage, Limits())
    for _ in range(30):
        queue.predicted(prediction(signals=200), ["a"])
    fill(storage)
    with pytest.raises(StorageFailed) as failed:
        queue.freeze(compose, 1000)
    assert failed.value.reason == "disk_full"
    assert queue.frozen() is None


@pytest.mark.parametrize("body", [gzip.compress(b'{"seq":7}', mtime=0), b"not gzip"])
def test_a_batch_that_an_older_client_kept_compressed_is_unpacked(tmp_path: Path, body: bytes) -> None:
    Storage(tmp_path).close()
    with sqlite3.connect(tmp_path / "device.db") as file:
        file.execute("INSERT INTO frozen VALUES (1, 'b', 7, 0, 0, ?)", (body,))
        for column in ("mark_ms", "refused_key"):  # as it was in version 2
            file.execute(f"ALTER TABLE device DROP COLUMN {column}")
        file.execute("PRAGMA user_version = 2")
    file.close()
    storage = Storage(tmp_path)
    frozen = Queue(storage, Limits()).frozen()
    assert storage.kept
    assert frozen is not None
    assert (frozen.seq, frozen.document) == (7, b'{"seq":7}' if body != b"not gzip" else b"")
    storage.close()


def test_damage_that_shows_while_running_costs_what_was_kept_and_not_the_app(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    queue = Queue(storage, Limits())
    for _ in range(300):
        queue.predicted(prediction(signals=50), ["a"])
    with storage.transaction():
        pass
    storage._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    file = tmp_path / "device.db"
    data = file.read_bytes()
    file.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))
    storage._connection.execute("PRAGMA cache_size = 0")
    results = [queue.predicted(prediction(), ["a"]) for _ in range(20)]
    assert results[-1][0] > 0
    assert msgspec.json.decode(queue.freeze(compose, 5).document, type=Contents).signals == {"upsell": ["a"]}
    assert queue.ledger().produced >= 20
    storage.close()


def test_a_place_that_cannot_be_opened_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "device").write_text("a file where the directory should be")
    storage = Storage(tmp_path / "device")
    assert not storage.kept
    assert Queue(storage, Limits()).predicted(prediction(), ["a"]) == (-1, 1)
    storage.close()
    assert (tmp_path / "device").read_text().startswith("a file")


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Storage]:
    """Let a device with 7 predictions, of which two wait, find its file behind something else."""
    storage = Storage(tmp_path)
    queue = Queue(storage, Limits())
    for _ in range(5):
        queue.predicted(prediction(), ["a"])
    queue.delivered(queue.freeze(compose, 5), 1_000, Flush(events=50, seconds=300, lease_seconds=600))
    for _ in range(2):
        queue.predicted(prediction(), ["a"])
    storage.close()
    (tmp_path / "device.db").rename(tmp_path / "away")
    (tmp_path / "device.db").mkdir()
    found = Storage(tmp_path)
    yield found
    found.close()


def unlock(directory: Path) -> None:
    (directory / "device.db").rmdir()
    (directory / "away").rename(directory / "device.db")


def outcome(name: int, label: str) -> Outcome:
    return Outcome(name, 2_000, "upsell", label, 1.0)


def outcomes_in(frozen: Frozen) -> list[tuple[int, str | None]]:
    contents = msgspec.json.decode(frozen.document, type=Contents)
    return [(event["id"], event.get("outcome")) for event in map(msgspec.json.decode, contents.events)]


def test_what_was_in_memory_joins_the_file_as_soon_as_that_can_be_opened(tmp_path: Path, locked: Storage) -> None:
    queue = Queue(locked, Limits())
    assert [queue.predicted(prediction(), ["b"])[0] for _ in range(3)] == [-1, -2, -3]
    queue.outcome(outcome(-1, "inside"))
    queue.outcome(outcome(-1, "again"))
    queue.outcome(outcome(3, "of an earlier launch"))
    queue.outcome(outcome(-9, "of nothing"))
    assert queue.ledger().produced == 5
    unlock(tmp_path)
    assert queue.predicted(prediction(), ["b"]) == (11, 8), "and so it is numbered"
    queue.outcome(outcome(-2, "later"))
    queue.outcome(outcome(-9, "of nothing"))
    assert queue.ledger() == Ledger(produced=13, dropped={})
    first = queue.freeze(compose, 100)
    assert outcomes_in(first) == [(6, None), (7, None)]
    queue.delivered(first, 1_000, Flush(events=50, seconds=300, lease_seconds=600))
    assert outcomes_in(queue.freeze(compose, 100)) == [
        (8, "inside"),
        (9, "later"),
        (10, None),
        (8, "again"),
        (3, "of an earlier launch"),
        (11, None),
    ]


def test_what_memory_had_no_room_for_is_counted_in_the_file(tmp_path: Path, locked: Storage) -> None:
    queue = Queue(locked, Limits(queue_events=4))
    for _ in range(9):
        queue.predicted(prediction(), ["a"])
    assert queue.ledger() == Ledger(produced=9, dropped={"queue_full": 5})
    unlock(tmp_path)
    assert queue.opened()
    assert queue.ledger() == Ledger(produced=16, dropped={"queue_full": 7})
    assert events_in(queue.freeze(compose, 100)) == [13, 14, 15, 16]


def test_a_file_that_opens_and_has_no_room_takes_nothing_out_of_memory(tmp_path: Path, locked: Storage) -> None:
    queue = Queue(locked, Limits())
    for _ in range(900):
        queue.predicted(prediction(), ["a"])
    unlock(tmp_path)
    open_file = locked._file

    def full(wait_seconds: float) -> sqlite3.Connection:
        file = open_file(wait_seconds)
        file.execute(f"PRAGMA max_page_count = {file.execute('PRAGMA page_count').fetchone()[0]}")
        return file

    locked._file = full  # type: ignore[method-assign]
    assert not queue.opened()
    assert queue.predicted(prediction(), ["a"])[0] == -901
    locked._file = open_file  # type: ignore[method-assign]
    assert queue.opened()
    assert queue.ledger().produced == 908


class Accounts(RuleBasedStateMachine):
    """Law: every event produced is queued, delivered, or counted as dropped; whatever the order of things."""

    def __init__(self) -> None:
        super().__init__()

        self.directory = tempfile.TemporaryDirectory()
        self.limits = Limits(queue_events=12, queue_bytes=2500, batch_bytes=900)
        self.storage = Storage(Path(self.directory.name))
        self.queue = Queue(self.storage, self.limits)
        self.frozen: Frozen | None = None
        self.delivered: Counter[int] = Counter()
        self.stored = 0
        self.seqs: list[int] = []

    @rule(signals=st.integers(0, 60), carried=st.sampled_from(["a", "b"]))
    def predict(self, signals: int, carried: str) -> None:
        self.queue.predicted(msgspec.structs.replace(prediction(signals), model="upsell" + carried), [carried])

    @rule(number=st.integers(1, 30))
    def outcome(self, number: int) -> None:
        self.queue.outcome(Outcome(number, 1_000, "upsell", "purchased", 1.0))

    @rule(most=st.integers(1, 20))
    def freeze(self, most: int) -> None:
        frozen = self.queue.freeze(compose, most)
        assert self.frozen in (None, frozen)
        self.frozen = frozen

    @precondition(lambda self: self.frozen is not None)
    @rule(fate=st.sampled_from(["delivered", "dropped", "thaw"]))
    def answer(self, fate: str) -> None:
        assert self.frozen is not None
        if fate == "delivered":
            self.queue.delivered(self.frozen, 1, Limits().first_flush)
            self.stored += self.frozen.events
            self.seqs.append(self.frozen.seq)
        elif fate == "dropped":
            self.queue.dropped(self.frozen, "malformed")
            self.seqs.append(self.frozen.seq)
        else:
            self.queue.thaw(self.frozen)
        self.frozen = None

    @rule()
    def restart(self) -> None:
        self.storage.close()
        self.storage = Storage(Path(self.directory.name))
        self.queue = Queue(self.storage, self.limits)
        assert self.queue.frozen() == self.frozen

    @invariant()
    def every_event_is_accounted_for(self) -> None:
        ledger, standing = self.queue.ledger(), self.queue.standing()
        assert ledger.produced == self.stored + standing.queued_events + sum(ledger.dropped.values())
        with self.storage.transaction() as tx:
            rows, size = tx.execute("SELECT count(*), coalesce(sum(length(body)), 0) FROM events").fetchone()
        assert (rows, size) == (standing.queued_events, standing.queued_bytes)
        frozen = 0 if self.frozen is None else self.frozen.events
        assert rows <= self.limits.queue_events or rows == frozen
        assert self.seqs == list(range(1, len(self.seqs) + 1))

    def teardown(self) -> None:
        self.storage.close()
        self.directory.cleanup()


TestAccounts = Accounts.TestCase
TestAccounts.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
