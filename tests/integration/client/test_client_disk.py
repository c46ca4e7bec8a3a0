"""What a device asks of its disk and memory: that things are there when they count, and no more than they take."""

from __future__ import annotations

import lzma
import os
import tracemalloc
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from gateway.client import Limits
from gateway.client.artifacts import Artifacts
from gateway.client.queue import Contents, Queue
from gateway.client.storage import Storage
from schemas.releases import Download

if TYPE_CHECKING:
    from pathlib import Path

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


@pytest.mark.parametrize("inline", [False, True], ids=["fetched", "in the reply"])
async def test_an_update_wants_room_for_three_times_its_size_and_8_mb(world: World, inline: bool) -> None:
    data = world.offer_42()
    if inline:
        world.gateway.inline = {world.publisher.put(data): data}
    wanted = 3 * len(data) + 8_000_000
    free = wanted - 1
    client = await world.open(free_bytes=lambda directory: free)
    await client.flush()
    assert world.gateway.fetches == []
    assert world.runs(client) == (1, "bundled", "bundled")
    free = wanted
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
