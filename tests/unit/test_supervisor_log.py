"""Acknowledged batches are not left where a new configuration would not look for them."""

from pathlib import Path

import pytest

from consumers.source import EmbeddedSource
from gateway.cli import main
from gateway.config import load
from gateway.publish.embedded import EmbeddedLog
from gateway.supervisor.log import LeftBehind, check_nothing_is_left_behind
from schemas.records import Record
from schemas.topics import BATCHES

KAFKA = {"kafka_bootstrap": "127.0.0.1:1"}


async def leave(directory: Path, consumer: str, *, read: int) -> None:
    """Write two records, of which so many are read."""
    log = await EmbeddedLog.open(directory, max_bytes=1 << 24, max_pending_bytes=1 << 20)
    source = await EmbeddedSource.open(directory, consumer)
    await log.publish([Record(BATCHES, b"k", b"1"), Record(BATCHES, b"k", b"2")])
    await source.commit(BATCHES, 0, read)
    await source.close()
    await log.close()


async def test_a_file_with_unread_batches_is_not_left_for_kafka(tmp_path: Path) -> None:
    await leave(tmp_path / "log", "warehouse", read=1)
    with pytest.raises(LeftBehind, match=r"log holds 1 records that the warehouse has not"):
        check_nothing_is_left_behind(load({"data": str(tmp_path), **KAFKA}))
    check_nothing_is_left_behind(load({"data": str(tmp_path)}))


async def test_a_file_that_was_read_to_its_end_is(tmp_path: Path) -> None:
    await leave(tmp_path / "log", "warehouse", read=2)
    check_nothing_is_left_behind(load({"data": str(tmp_path), **KAFKA}))


@pytest.mark.parametrize("flags", [{}, KAFKA | {"spool": "off"}])
async def test_a_spool_that_is_not_drained_is_not_left(tmp_path: Path, flags: dict[str, object]) -> None:
    await leave(tmp_path / "spool", "drain", read=0)
    with pytest.raises(LeftBehind, match=r"spool holds 2 records that Kafka has not"):
        check_nothing_is_left_behind(load({"data": str(tmp_path), **flags}))
    check_nothing_is_left_behind(load({"data": str(tmp_path), **KAFKA}))


async def test_a_file_that_cannot_be_read_is_not_left_either(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "log.db").write_bytes(b"damaged" * 1000)
    with pytest.raises(LeftBehind, match="may hold acknowledged batches"):
        check_nothing_is_left_behind(load({"data": str(tmp_path), **KAFKA}))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve", "--kafka", "here"], "kafka_bootstrap from the flag --kafka: 'here' is not allowed"),
        (["serve", "--clickhouse", "here"], "clickhouse_url from the flag --clickhouse: 'here' is not allowed"),
        (["consume", "warehouse", "--kafka", "a:1"], "a consumer alone needs clickhouse_url"),
        (["consume", "unpack"], "plain events are for other consumers of Kafka: say --kafka HOST:PORT"),
    ],
)
def test_servers_that_cannot_be_are_refused_in_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert said in printed
    assert printed.count("\n") == 1


def test_a_tls_file_that_is_not_there_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKHAUL_KAFKA_SECURITY", "tls")
    monkeypatch.setenv("BACKHAUL_KAFKA_CA_FILE", str(tmp_path / "ca.pem"))
    assert main(["consume", "unpack", "--kafka", "a:1"]) == 2
    assert "Kafka's TLS files cannot be used" in capsys.readouterr().err
