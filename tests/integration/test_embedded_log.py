"""The embedded log on a real disk: its bounds, trimming, disk errors, several writers, its schema's versions."""

import asyncio
import fcntl
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from consumers.source import EmbeddedSource, SourceError
from gateway.publish import Unavailable
from gateway.publish.embedded import EmbeddedLog
from schemas.records import Record, StoredRecord
from schemas.topics import BATCHES, DEAD_LETTERS

MIB = 1024 * 1024
Open = Callable[..., Awaitable[EmbeddedLog]]


def batch(value: bytes) -> Record:
    return Record(BATCHES, b"device-1", value)


async def eventually(holds: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for what the writer does by itself."""
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - the writer is a thread, and publishes no event for its gauges
            await asyncio.sleep(0.01)


async def publish_until_refused(log: EmbeddedLog, record: Record) -> tuple[int, Unavailable]:
    """Return how many were stored before the log refused, and with what."""
    for stored in count():
        try:
            await log.publish([record])
        except Unavailable as error:
            return stored, error
    raise AssertionError("never refused")


async def read_all(source: EmbeddedSource, first: int = 0) -> list[StoredRecord]:
    found: list[StoredRecord] = []
    while more := await source.read(BATCHES, 0, first, max_records=500, max_bytes=MIB):
        found += more
        first = more[-1].offset + 1
    return found


@pytest.fixture
async def open_log(tmp_path: Path) -> AsyncIterator[Open]:
    opened: list[EmbeddedLog] = []

    async def make(max_bytes: int = 64 * MIB, max_pending_bytes: int = MIB, **options: Any) -> EmbeddedLog:
        log = await EmbeddedLog.open(
            tmp_path / "log", max_bytes=max_bytes, max_pending_bytes=max_pending_bytes, **options
        )
        opened.append(log)
        return log

    yield make
    for log in opened:
        await log.close()


@pytest.fixture
async def source(open_log: Open, tmp_path: Path) -> AsyncIterator[EmbeddedSource]:
    await open_log()
    source = await EmbeddedSource.open(tmp_path / "log", "reader")
    yield source
    await source.close()


async def test_bytes_that_wait_for_the_disk_are_bounded(open_log: Open) -> None:
    log = await open_log(max_pending_bytes=10_000)
    calls = (log.publish([batch(b"x" * 4_900)]) for _ in range(3))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert outcomes[:2] == [None, None]
    assert isinstance(outcomes[2], Unavailable)
    assert outcomes[2].retry_after_seconds > 0
    await log.publish([batch(b"x" * 4_900)])
    assert log.gauges()["log_pending_bytes"] == 0


async def test_a_full_log_refuses_until_its_slowest_consumer_has_read(open_log: Open, source: EmbeddedSource) -> None:
    log = await open_log(max_bytes=400_000)
    stored, refusal = await publish_until_refused(log, batch(b"x" * 4_700))
    assert "full" in refusal.reason
    assert refusal.retry_after_seconds > 0
    assert 30 < stored < 400_000 / 4_700
    assert "full" in (log.trouble() or "")
    await source.commit(BATCHES, 0, stored)
    await eventually(lambda: log.trouble() is None)
    await log.publish([batch(b"after")])
    assert [(record.offset, record.value) for record in await read_all(source)] == [(stored, b"after")]


async def test_a_call_that_does_not_fit_is_refused_whole_and_alone(open_log: Open, source: EmbeddedSource) -> None:
    log = await open_log(max_bytes=400_000)
    calls = [[batch(b"before")], [batch(b"x" * 200_000), batch(b"y" * 200_000)], [batch(b"after")]]
    outcomes = await asyncio.gather(*map(log.publish, calls), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), Unavailable, type(None)]
    assert [record.value for record in await read_all(source)] == [b"before", b"after"]


async def test_live_bytes_never_pass_the_bound_for_any_size_of_record(open_log: Open) -> None:
    # 4,100 bytes: just past what fits on a page, so the row's overflow page is nearly empty or nearly full.
    log = await open_log(max_bytes=300_000)
    for size in (10, 489, 4_062, 4_100, 8_200) * 40:
        await asyncio.gather(*(log.publish([batch(b"x" * size)]) for _ in range(8)), return_exceptions=True)
    await eventually(lambda: log.gauges().get("log_bytes", 0) > 250_000)
    assert log.gauges()["log_bytes"] <= 300_000


async def test_nothing_is_trimmed_that_some_consumer_has_not_read(
    open_log: Open, source: EmbeddedSource, tmp_path: Path
) -> None:
    slow = await EmbeddedSource.open(tmp_path / "log", "slow", topics=[BATCHES])
    log = await open_log()
    await log.publish([*map(batch, [b"0", b"1", b"2", b"3"]), Record(DEAD_LETTERS, b"", b"letter")])
    await source.commit(BATCHES, 0, 4)
    await source.commit(DEAD_LETTERS, 0, 1)  # which `slow` does not read
    await slow.commit(BATCHES, 0, 1)
    await eventually(lambda: log.gauges().get("log_batches_oldest_offset") == 1)
    await eventually(lambda: log.gauges().get("log_dead_letters_oldest_offset") == 1)
    assert [record.offset for record in await read_all(slow)] == [1, 2, 3]
    await slow.close()


@pytest.mark.parametrize(("size", "records"), [(300, 60_000), (4_700, 12_000)])
async def test_trimming_alone_keeps_the_wal_short(open_log: Open, tmp_path: Path, size: int, records: int) -> None:
    log = await open_log(max_bytes=512 * MIB, max_pending_bytes=64 * MIB)
    source = await EmbeddedSource.open(tmp_path / "log", "reader")
    for _ in range(0, records, 1000):
        await log.publish([batch(b"x" * size)] * 1000)
    with sqlite3.connect(tmp_path / "log/log.db", isolation_level=None) as other:
        # Busy while the log's own checkpoint runs, and SQLite does not wait for that.
        await eventually(lambda: other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
    other.close()
    await source.commit(BATCHES, 0, records)
    await eventually(lambda: log.gauges().get("log_batches_oldest_offset") == records)
    assert (tmp_path / "log/log.db-wal").stat().st_size < 12 * MIB
    await source.close()


async def test_offsets_go_on_after_everything_was_trimmed_and_the_log_reopened(
    open_log: Open, source: EmbeddedSource
) -> None:
    log = await open_log()
    await log.publish([batch(b"x")] * 10)
    await source.commit(BATCHES, 0, 10)
    await eventually(lambda: log.gauges().get("log_batches_oldest_offset") == 10)
    assert await read_all(source) == []
    await log.close()
    log = await open_log()
    await log.publish([batch(b"next")])
    assert [record.offset for record in await read_all(source)] == [10]


async def test_a_position_past_the_end_is_refused(source: EmbeddedSource) -> None:
    with pytest.raises(SourceError, match="not on the log"):
        await source.commit(BATCHES, 0, 1)


async def test_a_log_restored_from_a_backup_is_refused_by_its_consumers(open_log: Open, tmp_path: Path) -> None:
    log = await open_log()
    await log.close()
    kept = (tmp_path / "log/log.db").read_bytes()
    log = await open_log()
    first = await EmbeddedSource.open(tmp_path / "log", "reader")
    await log.publish([batch(b"x")])
    await first.commit(BATCHES, 0, 1)
    await first.close()
    await log.close()
    for part in (tmp_path / "log").glob("log.db*"):
        part.unlink()
    (tmp_path / "log/log.db").write_bytes(kept)
    with pytest.raises(SourceError, match="backup"):
        await EmbeddedSource.open(tmp_path / "log", "reader")


async def test_a_log_made_again_is_read_from_its_start_under_another_identity(open_log: Open, tmp_path: Path) -> None:
    log = await open_log()
    first = await EmbeddedSource.open(tmp_path / "log", "reader")
    await log.publish([batch(b"old")])
    await first.commit(BATCHES, 0, 1)
    await first.close()
    await log.close()
    (tmp_path / "log/log.db").unlink()
    log = await open_log()
    again = await EmbeddedSource.open(tmp_path / "log", "reader")
    assert again.identity != first.identity
    assert await again.position(BATCHES, 0) == 0
    await again.close()


async def test_a_disk_that_hangs_is_trouble_and_refuses_what_comes_later(open_log: Open, tmp_path: Path) -> None:
    now = 0.0
    log = await open_log(clock=lambda: now)
    calls: list[asyncio.Task[None]] = []
    with (tmp_path / "log/write.lock").open() as other:  # another writer that has stopped in the middle of its turn
        fcntl.flock(other, fcntl.LOCK_EX)
        async with asyncio.timeout(20):
            while not (log.trouble() and any(call.done() for call in calls)):
                calls.append(asyncio.create_task(log.publish([batch(b"x")])))
                await asyncio.sleep(0.01)
                now += 6.0
        assert "not answered" in (log.trouble() or "")
    refusals = [error for error in await asyncio.gather(*calls, return_exceptions=True) if error is not None]
    assert all(isinstance(error, Unavailable) and "not answered" in error.reason for error in refusals)
    await eventually(lambda: log.trouble() is None)
    await log.publish([batch(b"after")])


DISK_ERROR = """
import asyncio, resource, sys
from pathlib import Path
from gateway.publish import Unavailable
from gateway.publish.embedded import EmbeddedLog
from schemas.records import Record

def file_size(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

async def attempt(log, value):
    try:
        await log.publish([Record("batches", b"", value)] * 2)
        print("stored", value.decode())
    except Unavailable as error:
        assert error.retry_after_seconds > 0 and "disk" in error.reason, error.reason
        print("failed", value.decode())

async def main():
    log = await EmbeddedLog.open(Path(sys.argv[1]), max_bytes=10**9, max_pending_bytes=10**9)
    await attempt(log, b"a")
    file_size(4096)  # from here on every write past 4 KiB of a file fails with EFBIG
    await asyncio.gather(*(attempt(log, b"b") for _ in range(20)))
    assert "disk" in log.trouble(), log.trouble()
    await attempt(log, b"c")
    file_size(resource.RLIM_INFINITY)
    if sys.argv[2] == "idle":
        async with asyncio.timeout(20):
            while log.trouble() is not None:
                await asyncio.sleep(0.01)
    await asyncio.gather(*(attempt(log, b"d") for _ in range(20)))
    assert log.trouble() is None, log.trouble()
    await log.close()

asyncio.run(main())
"""


@pytest.mark.parametrize("recovery", ["idle", "busy"])
async def test_after_a_disk_error_the_log_goes_on_by_itself(recovery: str, tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DISK_ERROR, str(tmp_path / "log"), recovery, stdout=subprocess.PIPE
    )
    said = (await child.communicate())[0].decode().split("\n")[:-1]
    assert child.returncode == 0
    assert said == ["stored a", *["failed b"] * 20, "failed c", *["stored d"] * 20]
    source = await EmbeddedSource.open(tmp_path / "log", "reader")
    values = [record.value for record in await read_all(source)]
    await source.close()
    assert values[:2] == [b"a"] * 2
    assert values[-40:] == [b"d"] * 40
    assert len(values) % 2 == 0  # what failed may be stored all the same, but never half of a call


PUBLISHER = """
import asyncio, sys
from pathlib import Path
from gateway.publish.embedded import EmbeddedLog
from schemas.records import Record

async def main():
    log = await EmbeddedLog.open(Path(sys.argv[1]), max_bytes=10**9, max_pending_bytes=10**9)
    async def publisher(lane):
        for number in range(50):
            await log.publish([Record("batches", f"{sys.argv[2]}-{lane}".encode(), b"%d" % number)])
    await asyncio.gather(*map(publisher, range(8)))
    await log.close()

asyncio.run(main())
"""


async def test_several_processes_write_one_log(tmp_path: Path) -> None:
    children = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", PUBLISHER, str(tmp_path / "log"), name)
        for name in ("one", "two", "three")
    ]
    assert [await child.wait() for child in children] == [0, 0, 0]
    source = await EmbeddedSource.open(tmp_path / "log", "reader")
    found = await read_all(source)
    await source.close()
    assert [record.offset for record in found] == list(range(1200))
    lanes: dict[bytes, list[int]] = {}
    for record in found:
        lanes.setdefault(record.key, []).append(int(record.value))
    assert len(lanes) == 24
    assert all(numbers == list(range(50)) for numbers in lanes.values())


async def test_a_reader_in_the_middle_of_a_read_holds_up_no_acknowledgement(open_log: Open, tmp_path: Path) -> None:
    log = await open_log()
    await log.publish([batch(b"x" * 4_700)] * 100)
    with sqlite3.connect(tmp_path / "log/log.db", isolation_level=None) as stopped:
        stopped.execute("BEGIN")
        stopped.execute("SELECT count(*) FROM batches").fetchone()
        for _ in range(30):  # past several checkpoints
            await log.publish([batch(b"x" * 500_000)])
        assert stopped.execute("SELECT count(*) FROM batches").fetchone() == (100,)
    stopped.close()
    assert log.trouble() is None


async def test_a_schema_newer_than_this_software_is_refused_by_both_sides(open_log: Open, tmp_path: Path) -> None:
    log = await open_log()
    await log.close()
    newer = sqlite3.connect(tmp_path / "log/log.db")
    newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(Unavailable, match="version 99"):
        await open_log()
    with pytest.raises(SourceError, match="version 99"):
        await EmbeddedSource.open(tmp_path / "log", "reader")


async def test_every_name_that_leads_to_a_new_log_is_synced(tmp_path: Path) -> None:
    # The kernel's own account of the calls; a log that is opened again syncs them too, whoever made the directories.
    tracer = shutil.which("strace")
    if tracer is None:
        pytest.skip("needs strace to see what is synced")
    open_and_close = (
        "import asyncio, sys; from pathlib import Path; from gateway.publish.embedded import EmbeddedLog\n"
        "async def main():\n"
        "    log = await EmbeddedLog.open(Path(sys.argv[1]), max_bytes=10**7, max_pending_bytes=10**7)\n"
        "    await log.close()\n"
        "asyncio.run(main())\n"
    )
    command = [tracer, "-f", "-y", "-e", "trace=fsync", "-o", str(tmp_path / "calls")]
    child = await asyncio.create_subprocess_exec(
        *command, sys.executable, "-c", open_and_close, str(tmp_path / "a/b/log")
    )
    if await child.wait():
        pytest.skip("this machine lets no process be traced")
    synced = re.findall(r"fsync\(\d+<([^>]+)>", (tmp_path / "calls").read_text())
    assert {str(tmp_path / "a/b"), str(tmp_path / "a"), str(tmp_path)} <= set(synced)


async def test_a_directory_that_cannot_be_made_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a file in the way")
    with pytest.raises(Unavailable):
        await EmbeddedLog.open(tmp_path / "log", max_bytes=MIB, max_pending_bytes=MIB)


async def test_a_source_waits_for_its_log_no_longer_than_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is the gateway running"):
        await EmbeddedSource.open(tmp_path / "log", "reader", wait_seconds=0.0)


async def test_a_source_that_came_first_finds_the_log_once_it_is_made(open_log: Open, tmp_path: Path) -> None:
    opening = asyncio.create_task(EmbeddedSource.open(tmp_path / "log", "reader"))
    await asyncio.sleep(0.05)
    log = await open_log()
    await log.publish([batch(b"x")])
    source = await opening
    assert [record.value for record in await read_all(source)] == [b"x"]
    await source.close()


async def test_a_damaged_positions_file_stops_its_consumer(open_log: Open, tmp_path: Path) -> None:
    await open_log()
    await (await EmbeddedSource.open(tmp_path / "log", "reader")).close()
    (tmp_path / "log/positions/reader.json").write_text("{")
    with pytest.raises(SourceError, match=r"reader\.json is damaged"):
        await EmbeddedSource.open(tmp_path / "log", "reader")
