"""The embedded ClickHouse as a process: how it starts, whom it serves, how it ends and what it refuses."""

import asyncio
import os
import re
import signal
import stat
import time
from contextlib import suppress
from typing import Any

import aiohttp
import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError, DatabaseError

from gateway import clickhouse_server
from gateway.clickhouse_server import ADMIN, READER, ServerError, connect, password_of


async def test_the_wheel_still_holds_a_server_that_listens(clickhouse: Any) -> None:
    # If this fails, chdb-core no longer serves HTTP: pin the last release that does (see the module's docstring).
    client = await clickhouse.connect("default")
    assert (await client.query("SELECT 1, currentUser()")).result_rows == [(1, ADMIN)]
    await client.close()


async def test_the_server_begins_no_write_on_a_disk_that_is_nearly_full(clickhouse: Any) -> None:
    # To the last byte full, the engine was seen to lose rows in merges (`make campaign`, disk.clickhouse).
    client = await clickhouse.connect("default")
    assert (await client.query("SELECT keep_free_space FROM system.disks")).result_rows == [(128 * 1024 * 1024,)]
    await client.close()


def test_passwords_are_files_that_only_the_owner_reads(clickhouse: Any) -> None:
    for name in ("password", "reader-password", "run/users.xml", "run/config.xml"):
        mode = (clickhouse.directory / name).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600, name


async def test_nobody_comes_in_without_the_password(clickhouse: Any) -> None:
    with pytest.raises(ServerError, match="refuses the user"):
        await connect(clickhouse.url, ADMIN, "wrong")


async def test_the_user_without_a_password_is_not_let_in(clickhouse: Any) -> None:
    for user in ("default", ""):
        with pytest.raises(ServerError, match="refuses the user"):
            await connect(clickhouse.url, user, "")


@pytest.mark.parametrize("path", ["/", "/?user=default", "/?user=default&password=", "/play", "/query"])
@pytest.mark.parametrize("headers", [{}, {"X-ClickHouse-User": "default"}, {"Authorization": "Basic ZGVmYXVsdDo="}])
async def test_nobody_stops_the_listener_without_a_password(
    clickhouse: Any, path: str, headers: dict[str, str]
) -> None:
    async with aiohttp.ClientSession(clickhouse.url, headers=headers) as session:
        async with session.post(path, data=b"SYSTEM STOP LISTEN HTTP") as response:
            assert response.status == 403
        async with session.get("/ping") as response:
            assert response.status == 200


async def test_the_reader_cannot_act_as_the_user_without_a_password(clickhouse: Any) -> None:
    as_reader = {"Authorization": aiohttp.encode_basic_auth(READER, password_of(clickhouse.directory, READER))}
    async with aiohttp.ClientSession(clickhouse.url, headers=as_reader) as session:
        for path, statement in (
            ("/", b"SYSTEM STOP LISTEN HTTP"),
            ("/?user=default&password=", b"SYSTEM STOP LISTEN HTTP"),
            ("/?user=default&password=", b"SELECT count() FROM system.numbers"),
        ):
            async with session.post(path, data=statement) as response:
                assert response.status >= 400
                assert re.search("ACCESS_DENIED|QUOTA_EXCEEDED", await response.text())
        async with session.get("/ping") as response:
            assert response.status == 200


async def test_it_beats_while_it_answers_and_no_longer(new_clickhouse: Any) -> None:
    reader, writer = os.pipe()
    new_clickhouse.spawn(pulse=writer)
    assert os.read(reader, 1) == b"."
    client = await new_clickhouse.connect("default")
    with suppress(ClickHouseError):  # the answer is cut off, or not
        await client.command("SYSTEM STOP LISTEN HTTP")
    await client.close()
    os.set_blocking(reader, False)
    beats, silent_since = 1, time.monotonic()
    while time.monotonic() - silent_since < 3:
        with suppress(BlockingIOError):
            beats += len(os.read(reader, 4096))
            silent_since = time.monotonic()
        assert beats < 30
        await asyncio.sleep(0.05)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE x (a Int8) ENGINE = Memory",
        "CREATE DATABASE x",
        "INSERT INTO FUNCTION file('x.csv') SELECT 1",
        "SELECT * FROM file('/etc/passwd', 'LineAsString')",
        "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
        "SYSTEM SHUTDOWN",
    ],
)
async def test_the_reader_reads_tables_and_nothing_else(clickhouse: Any, statement: str) -> None:
    client = await connect(clickhouse.url, READER, password_of(clickhouse.directory, READER))
    assert (await client.query("SELECT count() > 0 FROM system.tables")).result_rows == [(1,)]
    with pytest.raises(DatabaseError, match=r"Not enough privileges|readonly"):
        await client.command(statement)
    await client.close()


async def test_sigterm_ends_it_with_status_0_even_while_a_client_is_connected(new_clickhouse: Any) -> None:
    new_clickhouse.start()
    client = await new_clickhouse.connect("default")
    await client.query("SELECT 1")
    code, _ = await asyncio.to_thread(new_clickhouse.end, signal.SIGTERM)
    assert code == 0
    await client.close()


def test_it_ends_when_its_lifeline_closes(new_clickhouse: Any) -> None:
    reader, writer = os.pipe()
    process = new_clickhouse.spawn(lifeline=reader)
    os.close(reader)
    clickhouse_server.wait_until_ready(new_clickhouse.url, 60)
    os.close(writer)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, ""), "of the query that a stop ends nothing is said"


def test_sigterm_while_it_starts_ends_it_too(new_clickhouse: Any) -> None:
    process = new_clickhouse.spawn()
    while not (new_clickhouse.directory / "run" / "users.xml").exists():
        assert process.poll() is None
    code, _ = new_clickhouse.end(signal.SIGTERM)
    assert code in (0, -signal.SIGTERM)


def test_a_second_server_on_the_directory_is_refused_and_says_why(clickhouse: Any) -> None:
    second = type(clickhouse)(clickhouse.directory)
    _, said = second.spawn().communicate(timeout=30)
    assert second.process.returncode == 1
    assert said == f"clickhouse: another server already runs on {clickhouse.directory}; stop it first\n"


def test_a_taken_port_is_refused_and_says_so(clickhouse: Any, new_clickhouse: Any) -> None:
    new_clickhouse.port = clickhouse.port
    _, said = new_clickhouse.spawn().communicate(timeout=30)
    assert f"port {clickhouse.port} is taken" in said


async def test_a_server_that_is_not_there_is_an_error_of_one_line() -> None:
    with pytest.raises(ServerError, match=r"ClickHouse at http://127\.0\.0\.1:1 cannot be reached: ") as raised:
        await connect("http://127.0.0.1:1", ADMIN, "")
    assert "\n" not in str(raised.value)
    with pytest.raises(ServerError, match="does not answer"):
        await asyncio.to_thread(clickhouse_server.wait_until_ready, "http://127.0.0.1:1", 0.1)
    with pytest.raises(ServerError, match="not an http or https URL"):
        await connect("localhost:8123")


async def test_what_was_answered_survives_kill_9_during_inserts(new_clickhouse: Any) -> None:
    new_clickhouse.start()
    client = await new_clickhouse.connect("default")
    await client.command(
        "CREATE TABLE kept (n UInt64) ENGINE = MergeTree ORDER BY n "
        "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 100"
    )
    answered = 0

    async def insert_until_it_dies() -> None:
        nonlocal answered
        while True:
            token = {"insert_deduplication_token": str(answered)}
            row = {"n": answered}
            await client.command("INSERT INTO kept SELECT {n:UInt64} FROM numbers(1000)", row, settings=token)
            answered += 1
            if answered == 5:
                assert new_clickhouse.process is not None
                asyncio.get_running_loop().call_later(0.02, new_clickhouse.process.kill)

    with pytest.raises(Exception, match=r"."):
        await insert_until_it_dies()
    await client.close()
    await asyncio.to_thread(new_clickhouse.close)
    await asyncio.to_thread(new_clickhouse.start)
    client = await new_clickhouse.connect("default")
    rows = (await client.query("SELECT n, count() FROM kept GROUP BY n ORDER BY n")).result_rows
    assert rows[:answered] == [(n, 1000) for n in range(answered)]
    assert rows[answered:] in ([], [(answered, 1000)])
    await client.close()
