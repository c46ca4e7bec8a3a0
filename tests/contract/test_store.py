"""What every store must do, run on each kind of store that runs on one machine."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from gateway.releases.store import AlreadyExists, NotFound, Store, StoreError

WRITER: Final = """
import asyncio, sys
from gateway.releases.store import AlreadyExists, Store
async def main(url, writer):
    store = Store.open(url)
    won = 0
    for number in range(40):
        try:
            await store.put_new(f"race/{number:010d}.json", writer.encode() * 5000)
            won += 1
        except AlreadyExists:
            pass
    print(won)
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store.open("memory://" if request.param == "memory" else (tmp_path / "a store").as_uri())


async def test_what_was_put_is_got(store: Store) -> None:
    await store.put_new("apps/shop/0000000001.json", b"one")
    assert await store.get("apps/shop/0000000001.json") == b"one"
    assert await store.size("apps/shop/0000000001.json") == 3


async def test_an_empty_object_is_an_object(store: Store) -> None:
    await store.put_new("artifacts/empty", b"")
    assert await store.get("artifacts/empty") == b""
    assert await store.size("artifacts/empty") == 0


async def test_a_second_put_is_refused_and_the_first_stays(store: Store) -> None:
    await store.put_new("apps/shop/0000000001.json", b"one")
    with pytest.raises(AlreadyExists, match="exists already"):
        await store.put_new("apps/shop/0000000001.json", b"two")
    assert await store.get("apps/shop/0000000001.json") == b"one"


async def test_one_of_many_writers_at_once_wins(store: Store) -> None:
    wrote = await asyncio.gather(*(store.put_new("n/1", b"%d" % i) for i in range(50)), return_exceptions=True)
    winners = [i for i, error in enumerate(wrote) if error is None]
    assert len(winners) == 1
    assert await store.get("n/1") == b"%d" % winners[0]
    assert all(isinstance(error, AlreadyExists) for error in wrote if error is not None)


async def test_what_does_not_exist_is_not_found(store: Store) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.get("apps/none"),
        lambda: store.size("apps/none"),
        lambda: store.get_range("apps/none", 0, 1),
    ]
    for call in calls:
        with pytest.raises(NotFound, match="apps/none does not exist"):
            await call()  # type: ignore[misc]  # the three calls return different awaitables


async def test_a_range_is_read(store: Store) -> None:
    await store.put_new("artifacts/x", bytes(range(100)))
    assert await store.get_range("artifacts/x", 10, 5) == bytes(range(10, 15))
    assert await store.get_range("artifacts/x", 98, 50) == bytes([98, 99])


async def test_names_are_sorted_and_only_of_that_directory(store: Store) -> None:
    for path in ("apps/b/2", "apps/b/1", "apps/a/1", "apps-old/1", "catalogues/a/m/1"):
        await store.put_new(path, b"x")
    assert await store.names("apps") == ["apps/a/1", "apps/b/1", "apps/b/2"]


async def test_names_of_nothing_are_none(store: Store) -> None:
    assert await store.names("apps") == []


async def test_a_path_that_leaves_the_store_is_a_store_error(store: Store) -> None:
    with pytest.raises(StoreError):
        await store.get("../../etc/passwd")
    with pytest.raises(StoreError):
        await store.put_new("../out", b"x")


@pytest.mark.parametrize("url", ["nonsense", "ftp://host/x", "file://relative/x", "file:///dev/null/x"])
def test_a_store_that_cannot_be_opened_says_which(url: str) -> None:
    with pytest.raises(StoreError, match="cannot open the store"):
        Store.open(url)


async def test_a_file_store_leaves_nothing_aside(tmp_path: Path) -> None:
    store = Store.open(tmp_path.as_uri())
    await store.put_new("apps/shop/1", b"one")
    with pytest.raises(AlreadyExists):
        await store.put_new("apps/shop/1", b"two")
    assert await store.names("") == ["apps/shop/1"]
    assert await store.names("staging") == []


async def test_what_another_writer_has_not_finished_is_not_seen(tmp_path: Path) -> None:
    store = Store.open(tmp_path.as_uri())
    await store.put_new("apps/shop/1", b"one")
    (tmp_path / "apps/shop/2#1").write_bytes(b'{"half')  # how obstore names a file it is still writing
    (tmp_path / "staging").mkdir(exist_ok=True)
    (tmp_path / "staging/killed").write_bytes(b'{"half')
    assert await store.names("apps") == ["apps/shop/1"]


async def test_a_directory_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    store = Store.open(tmp_path.as_uri())
    (tmp_path / "apps").write_bytes(b"a file in the way")
    with pytest.raises(StoreError, match="cannot write apps/shop/1"):
        await store.put_new("apps/shop/1", b"one")


def test_writers_in_separate_processes_never_share_a_number(tmp_path: Path) -> None:
    url = tmp_path.as_uri()
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, url, name], stdout=subprocess.PIPE, text=True)
        for name in ("a", "b", "c")
    ]
    won = [int(writer.communicate(timeout=60)[0]) for writer in writers]
    assert sum(won) == 40
    bodies = [path.read_bytes() for path in sorted((tmp_path / "race").iterdir())]
    assert len(bodies) == 40
    assert all(len(body) == 5000 and len(set(body)) == 1 for body in bodies)
