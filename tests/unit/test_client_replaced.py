"""A device file that is replaced while processes of the app use it: nothing is lost beyond it, or counted twice."""

import errno
import fcntl
import multiprocessing
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from gateway.client.limits import Limits
from gateway.client.queue import Contents, Queue
from gateway.client.storage import Storage, write_state
from gateway.client.turn import turn
from schemas.wire import Flush, Ledger, Outcome
from tests.device_files import PREDICTION, damage_events, kept_by_a_client, newer

DAMAGE = b"no database"
FORK = multiprocessing.get_context("fork")


def bodies(contents: Contents) -> bytes:
    return b"[" + b",".join(contents.events) + b"]"


@contextmanager
def processes(number: int, target: Callable[..., None], *arguments: Any) -> Iterator[None]:
    """Run so many processes, which begin together with the block; all have to end well."""
    together = FORK.Barrier(number + 1)
    started = [FORK.Process(target=target, args=(together, *arguments)) for _ in range(number)]
    for process in started:
        process.start()
    together.wait()
    yield
    for process in started:
        process.join(20)
        assert process.exitcode == 0


def open_and_predict(together: Barrier, directory: Path) -> None:
    together.wait()
    storage = Storage(directory)
    Queue(storage, Limits()).predicted(PREDICTION, ["a"])
    storage.close()


def test_processes_that_find_it_damaged_at_once_replace_it_once(tmp_path: Path) -> None:
    for number in range(30):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "device.db").write_bytes(DAMAGE)
        with processes(3, open_and_predict, directory):
            pass
        assert (directory / "device.db.damaged").read_bytes() == DAMAGE
        storage = Storage(directory)
        assert Queue(storage, Limits()).ledger() == Ledger(3, {})
        storage.close()


@pytest.fixture
def beside(tmp_path: Path) -> tuple[Storage, Storage]:
    """Let one process hold the file, with three events that wait, while another finds it damaged and replaces it."""
    kept_by_a_client(tmp_path)
    one = Storage(tmp_path)
    with one.transaction():
        pass
    newer(tmp_path)
    return one, Storage(tmp_path)


def test_a_process_that_held_the_replaced_file_goes_on_with_the_new_one(beside: tuple[Storage, Storage]) -> None:
    held, replaced = beside
    one, two = Queue(held, Limits()), Queue(replaced, Limits())
    assert one.predicted(PREDICTION, ["a"]) == (4, 1)
    assert one.standing().device == two.standing().device
    assert one.ledger() == two.ledger() == Ledger(4, {"storage_lost": 3})
    assert held.generation == 1
    held.close()
    assert two.predicted(PREDICTION, ["a"]) == (5, 2), "a close leaves the other's write-ahead log alone"
    replaced.close()


def test_what_others_changed_is_also_seen_where_they_replaced_the_file(beside: tuple[Storage, Storage]) -> None:
    held, replaced = beside
    with replaced.transaction() as tx:
        write_state(tx, "upsell", b"stopped")
    seen = held.changes_by_others()
    assert (held.generation, held.states()) == (1, {"upsell": b"stopped"})
    assert seen[0] == 1, "so what was read before does not hold"
    held.close()
    replaced.close()


def test_a_place_that_cannot_be_looked_at_any_more_is_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(tmp_path)
    queue = Queue(storage, Limits())

    def refuse(_: Path) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "stat", refuse)
    assert queue.predicted(PREDICTION, ["a"]) == (1, 1)
    assert storage.generation == 0
    storage.close()


def test_a_place_that_names_a_file_otherwise_each_time_is_still_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(tmp_path)
    queue = Queue(storage, Limits())
    names = count()
    monkeypatch.setattr("gateway.client.storage._identity", lambda _: (0, next(names)))
    assert [queue.predicted(PREDICTION, ["a"])[0] for _ in range(3)] == [1, 2, 3]
    assert queue.ledger() == Ledger(3, {})
    storage.close()


def test_a_file_that_another_process_is_replacing_is_opened_later(tmp_path: Path) -> None:
    with turn(tmp_path / "open.lock", fcntl.LOCK_EX, 0):
        storage = Storage(tmp_path, busy_seconds=0.05)
        queue = Queue(storage, Limits())
        assert not storage.kept
        assert queue.predicted(PREDICTION, ["a"]) == (-1, 1)
    assert queue.opened()
    assert queue.ledger() == Ledger(1, {})
    storage.close()


def test_a_place_without_locks_is_used_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    (tmp_path / "device.db").write_bytes(DAMAGE)
    storage = Storage(tmp_path)
    assert storage.kept
    assert (tmp_path / "device.db.damaged").read_bytes() == DAMAGE
    storage.close()


@pytest.mark.parametrize("readable", [True, False])
def test_the_write_ahead_log_of_an_earlier_file_is_not_read_with_a_later_one(tmp_path: Path, readable: bool) -> None:
    kept_by_a_client(tmp_path)
    held = Storage(tmp_path)
    with held.transaction() as tx:
        write_state(tx, "upsell", b"floor 1")
    newer(tmp_path)
    replaced = Storage(tmp_path)
    held._connection.close()  # leaves what was beside the file that is set aside
    assert (tmp_path / "device.db.damaged-wal").stat().st_size > 0
    with replaced.transaction() as tx:
        write_state(tx, "upsell", b"floor 2")
    replaced.close()
    if readable:
        newer(tmp_path)
    else:
        (tmp_path / "device.db").write_bytes(DAMAGE)
    again = Storage(tmp_path)
    assert again.states() == ({"upsell": b"floor 2"} if readable else {})
    again.close()


def test_a_file_that_is_deleted_brings_back_nothing_of_one_that_was_replaced_long_ago(tmp_path: Path) -> None:
    kept_by_a_client(tmp_path)
    newer(tmp_path)
    Storage(tmp_path).close()
    held = Storage(tmp_path)
    Queue(held, Limits()).predicted(PREDICTION, ["a"])
    (tmp_path / "device.db").unlink()  # and what is beside it stays
    storage = Storage(tmp_path)
    assert (Queue(storage, Limits()).ledger(), storage.states()) == (Ledger(0, {}), {})
    held._connection.close()
    storage.close()


def test_what_memory_holds_does_not_move_into_a_file_that_is_replaced_just_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept_by_a_client(tmp_path)
    with turn(tmp_path / "open.lock", fcntl.LOCK_EX, 0):
        waiting = Storage(tmp_path, busy_seconds=0.05)
    queue = Queue(waiting, Limits())
    begin = waiting._begin

    def begin_late(durable: bool) -> sqlite3.Connection:
        newer(tmp_path)
        Storage(tmp_path).close()
        return begin(durable)

    monkeypatch.setattr(waiting, "_begin", begin_late)
    assert not queue.opened()
    monkeypatch.undo()
    assert queue.predicted(PREDICTION, ["a"]) == (4, 1)
    assert queue.ledger() == Ledger(4, {"storage_lost": 3})
    waiting.close()


def test_a_file_that_another_process_is_writing_is_not_replaced_meanwhile(tmp_path: Path) -> None:
    kept_by_a_client(tmp_path)
    damage_events(tmp_path)
    writing = sqlite3.connect(tmp_path / "device.db", isolation_level=None)
    writing.execute("BEGIN IMMEDIATE")
    storage = Storage(tmp_path, busy_seconds=0.05)
    assert not storage.kept
    assert not (tmp_path / "device.db.damaged").exists()
    writing.close()
    assert Queue(storage, Limits()).opened()
    assert (tmp_path / "device.db.damaged").exists()
    storage.close()


@pytest.mark.parametrize("done", [1, 2, 3])
def test_a_kill_between_two_renames_loses_nothing_of_what_was_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    kept_by_a_client(tmp_path)
    held = Storage(tmp_path)  # so what it commits now is in the write-ahead log alone
    with held.transaction() as tx:
        write_state(tx, "upsell", b"floor 1")
        tx.execute("PRAGMA user_version = 99")
    replace, left = Path.replace, iter(range(done))

    def killed(source: Path, target: Path) -> Path:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", killed)
    with suppress(KeyboardInterrupt):
        Storage(tmp_path).close()
    monkeypatch.undo()
    storage = Storage(tmp_path)
    assert storage.states() == {"upsell": b"floor 1"}
    assert Queue(storage, Limits()).ledger() == Ledger(3, {"storage_lost": 3})
    held.close()
    storage.close()


def predict_on(together: Barrier, directory: Path, numbers: "multiprocessing.SimpleQueue[list[int]]") -> None:
    storage = Storage(directory)
    queue = Queue(storage, Limits(queue_events=100_000))
    together.wait()
    numbers.put([queue.predicted(PREDICTION, ["a"])[0] for _ in range(200)])
    storage.close()


def test_what_others_predict_while_one_replaces_the_file_is_counted_and_numbered_once(tmp_path: Path) -> None:
    for turns in range(20):
        directory = tmp_path / str(turns)
        directory.mkdir()
        Storage(directory).close()
        numbers: multiprocessing.SimpleQueue[list[int]] = FORK.SimpleQueue()
        with processes(2, predict_on, directory, numbers):
            time.sleep(0.002 * turns)
            newer(directory)
            replaced = Storage(directory)
            given = numbers.get() + numbers.get()
        assert len(set(given)) == len(given) == 400
        assert Queue(replaced, Limits()).ledger().produced == 400
        replaced.close()


def test_numbers_go_on_in_a_process_though_nothing_of_its_file_is_left(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    queue = Queue(storage, Limits())
    assert [queue.predicted(PREDICTION, ["a"])[0] for _ in range(3)] == [1, 2, 3]
    shutil.rmtree(tmp_path)
    assert queue.predicted(PREDICTION, ["a"]) == (4, 1)
    assert queue.outcome(Outcome(1, 2_000, "upsell", "bought", 1.0)) == 2, "an event of its own"
    storage.close()


@pytest.mark.parametrize("fate", ["delivered", "dropped", "thawed"])
def test_the_fate_of_a_batch_of_the_replaced_file_takes_nothing_from_the_new_one(tmp_path: Path, fate: str) -> None:
    kept_by_a_client(tmp_path)
    held = Storage(tmp_path)
    queue = Queue(held, Limits())
    frozen = queue.freeze(bodies, 50)
    (tmp_path / "device.db").unlink()
    for _ in range(2):
        queue.predicted(PREDICTION, ["a"])
    if fate == "delivered":
        queue.delivered(frozen, 1_000, Flush(events=50, seconds=300, lease_seconds=600))
    elif fate == "dropped":
        queue.dropped(frozen, "refused")
    else:
        queue.thaw(frozen)
    assert queue.standing().queued_events == 2
    assert queue.ledger() == Ledger(2, {})
    assert queue.freeze(bodies, 50).seq == 1
    held.close()


def test_an_outcome_for_a_prediction_of_the_replaced_file_does_not_become_that_of_another(
    beside: tuple[Storage, Storage],
) -> None:
    held, replaced = beside
    queue = Queue(replaced, Limits())
    assert queue.predicted(PREDICTION, ["a"]) == (4, 1)
    queue.outcome(Outcome(2, 2_000, "upsell", "bought", 1.0))
    document = queue.freeze(bodies, 50).document
    assert document.count(b"bought") == 1
    assert document.index(b'"id":4') < document.index(b'"id":2')
    held.close()
    replaced.close()
