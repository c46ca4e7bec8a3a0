"""What a device asks of its disk and memory: that things are there when they count, and no more than they take."""

from __future__ import annotations

import lzma
import os
import shutil
import tracemalloc
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from gateway.client import Limits
from gateway.client.artifacts import Artifacts
from gateway.client.queue import Contents, Queue
from gateway.client.storage import Storage
from schemas.releases import Download

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.integration.client.conftest import World

FULL = 2  # of SQLite's PRAGMA synchronous: a commit waits for the disk
NORMAL = 1


def test_a_batch_is_on_the_disk_before_it_is_sent(tmp_path: Path) -> None:
    storage = Storage(tmp_path)

    def strength() -> int:
        return int(storage._connection.execute("PRAGMA synchronous").fetchone()[0])

    seen = []

    def compose(contents: Contents) -> bytes:
        seen.append(strength())
        return b"{}"

    Queue(storage, Limits()).freeze(compose, 10)
    assert seen == [FULL], "a power cut must not make one number name two batches"
    assert strength() == NORMAL, "a prediction does not wait for the disk"
    storage.close()


def test_an_artifact_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, synced = b"x" * 70_000, list[tuple[bool, int]]()
    named = tmp_path / "models" / sha256(data).hexdigest()

    def fsync(descriptor: int) -> None:
        synced.append((named.exists(), os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", fsync)
    Artifacts(tmp_path).store(named.name, data)
    assert synced[0] == (False, len(data)), "first the whole file, then its name"
    assert [exists for exists, _ in synced] == [False, True], "then the directory that holds the name"


class _Usage(NamedTuple):
    total: int
    used: int
    free: int


async def test_a_download_wants_room_for_three_times_its_size_and_8_mib(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(world.offer_42())
    wanted, free = 3 * size + 8 * 1024 * 1024, dict[str, int]()

    def usage(path: Any) -> _Usage:
        return _Usage(10**12, 0, free["bytes"])

    monkeypatch.setattr(shutil, "disk_usage", usage)
    free["bytes"] = wanted - 1
    client = await world.open()
    await client.flush()
    assert world.gateway.fetches == []
    free["bytes"] = wanted
    world.clock.turn(61)
    await client.flush()
    assert world.runs(client) == (42, "ota", 42)
    assert (42, "failed", "disk_low") in await world.steps(client)


async def test_a_bomb_is_not_unpacked_beyond_the_signed_size(world: World) -> None:
    bomb = lzma.compress(bytes(64 * 1024 * 1024), lzma.FORMAT_XZ, preset=0)
    way = Download("xz", f"artifacts/{world.publisher.put(bomb)}", len(bomb))
    world.offer_42(downloads=[way])
    client = await world.open()
    tracemalloc.start()
    await client.flush()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 16 * 1024 * 1024
    assert (42, "failed", "too_big") in await world.steps(client)
