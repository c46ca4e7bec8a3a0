"""`backhaul sql` against a server that is not its own, as a user who may do everything: it reads and does no more."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway import clickhouse_server
from gateway.cli import main
from gateway.cli.failures import CommandError
from gateway.cli.warehouse import ask
from gateway.config import Config

# Refused by the server, though its user may do all of it, because the query says that it only reads.
BY_THE_SERVER = [
    "INSERT INTO FUNCTION file('{file}', 'CSV') SELECT 1",
    "WITH a AS (SELECT 1) INSERT INTO FUNCTION file('{file}', 'CSV') SELECT * FROM a",
    "SELECT * FROM file('/etc/passwd', 'LineAsString')",
    "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
    "CREATE TEMPORARY TABLE t (a Int8)",
    "CREATE TABLE t (a Int8) ENGINE = Memory",
    "CREATE DATABASE d",
    "CREATE USER u",
    "DROP TABLE system.one",
    "SYSTEM FLUSH LOGS",
    "SET max_threads = 1",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT * FROM executable('id', 'TSV', 'a String')",
]
# These it would let pass: they are not sent.
BY_THE_GUARD = [
    "KILL QUERY WHERE 1 = 0",
    "DESCRIBE TABLE file('/etc/passwd', 'LineAsString')",
    "SELECT file('/etc/passwd')",
]


@pytest.fixture
def elsewhere(clickhouse: Any) -> Config:
    return Config(
        clickhouse_url=clickhouse.url,
        clickhouse_user=clickhouse_server.ADMIN,
        clickhouse_password=clickhouse_server.password_of(clickhouse.directory),
        clickhouse_database="system",
    )


@pytest.fixture
def variables(elsewhere: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("clickhouse_url", "clickhouse_user", "clickhouse_password", "clickhouse_database"):
        monkeypatch.setenv(f"BACKHAUL_{key.upper()}", getattr(elsewhere, key))


@pytest.mark.parametrize("statement", BY_THE_SERVER)
def test_the_server_is_told_that_the_query_only_reads(elsewhere: Config, tmp_path: Path, statement: str) -> None:
    query = statement.format(file=tmp_path / "written.csv")
    with pytest.raises(CommandError, match=r"readonly|privileges|CREATE TEMPORARY TABLE"):
        ask(elsewhere, lambda client: client.query(query))
    assert not (tmp_path / "written.csv").exists()


@pytest.mark.usefixtures("variables")
@pytest.mark.parametrize("statement", [*BY_THE_SERVER, *BY_THE_GUARD])
def test_the_command_refuses_all_of_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], statement: str
) -> None:
    assert main(["sql", statement.format(file=tmp_path / "written.csv")]) == 1
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)


@pytest.mark.usefixtures("variables")
def test_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sql", "SELECT number FROM numbers(2); ", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"number": 0}, {"number": 1}]


@pytest.mark.usefixtures("variables")
def test_the_doctor_warns_of_a_user_who_may_write(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["doctor", "--data", str(tmp_path), "--json"])
    found = {finding["part"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert (found["clickhouse"]["state"], found["sql"]["state"]) == ("ok", "warn")
    assert "may write" in found["sql"]["text"]
