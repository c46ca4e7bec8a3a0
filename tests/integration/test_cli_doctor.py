"""The doctor where nothing runs; with everything running it is examined in the e2e tests."""

import asyncio
import json
import uuid
from pathlib import Path

import pytest
from msgspec.structs import replace

from gateway.cli import main
from gateway.config import Config
from gateway.publish.embedded import EmbeddedLog
from gateway.publish.kafka_topics import ensure_topics
from gateway.publish.spool import ASIDE
from gateway.supervisor import runfile
from gateway.supervisor.behind import spool_behind, warehouse_behind
from schemas.records import BatchHeaders, Record, batch_record
from schemas.topics import BATCHES, TOPICS
from tests.kafka_fixtures import Kafka


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    return {finding["part"]: finding for finding in json.loads(capsys.readouterr().out)}


def test_nothing_running_is_a_warning_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--data", str(tmp_path / "new"), "--json"]) == 0
    found = findings(capsys)
    assert {part: finding["state"] for part, finding in found.items()} == {
        "configuration": "ok",
        "python": "ok",
        "packages": "ok",
        "data": "warn",
        "disk": found["disk"]["state"],  # the machine's own
        "fsync": found["fsync"]["state"],  # the machine's own
        "supervisor": "warn",
        "store": "warn",
        "kafka": "ok",
        "gateway": "warn",
        "clickhouse": "warn",
        "sql": "ok",
        "spool": "ok",
        "warehouse": "warn",
        "unpack": "ok",
        "retention": "ok",
    }
    assert all(finding["advice"] for finding in found.values() if finding["state"] != "ok")
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_its_disk_cannot_hold_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKHAUL_LOG_MAX_BYTES", str(2**50))
    assert main(["doctor", "--data", str(tmp_path), "--json"]) == 0
    found = findings(capsys)["disk"]
    assert found["state"] == "warn"
    assert "of which the log may take 1048576.0 GiB" in found["text"]


def test_a_data_directory_that_cannot_be_made_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--data", str(tmp_path / "file" / "under"), "--json"]) == 1
    assert findings(capsys)["data"]["state"] == "fail"


def test_a_clickhouse_that_is_configured_and_silent_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKHAUL_CLICKHOUSE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("BACKHAUL_CLICKHOUSE_PASSWORD", "hunter2")
    assert main(["doctor", "--data", str(tmp_path), "--json"]) == 1
    found = findings(capsys)
    assert found["clickhouse"]["state"] == "fail"
    assert "clickhouse_password=***" in found["configuration"]["text"]
    assert "hunter2" not in json.dumps(found)


def test_a_wrong_configuration_is_one_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKHAUL_LISTEN", "here")
    assert main(["doctor"]) == 2
    assert capsys.readouterr().out.startswith("FAIL  configuration  listen from the variable BACKHAUL_LISTEN")


def test_damaged_documents_in_the_store_are_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["app", "create", "shop", "--data", str(tmp_path)])
    [document] = (tmp_path / "store" / "apps" / "shop").iterdir()
    document.write_bytes(document.read_bytes()[:-3])
    capsys.readouterr()
    assert main(["doctor", "--data", str(tmp_path), "--json"]) == 1
    store = findings(capsys)["store"]
    assert store["state"] == "fail"
    assert "apps/shop/0000000001.json" in store["text"]


def test_a_catalogue_that_ends_soon_is_said_in_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, key = ("--data", str(tmp_path)), str(tmp_path / "k")
    main(["app", "create", "shop", *here])
    main(["key", "generate", key])
    (tmp_path / "model").write_bytes(b"anything")
    words = ["--app", "shop", "--model", "m", "--file", str(tmp_path / "model"), "--format", "opaque", "--sdk", ""]
    assert main(["release", "publish", *words, "--sign", key, *here, "--expires-in-days", "13"]) == 0
    capsys.readouterr()
    main(["doctor", *here, "--json"])
    store = findings(capsys)["store"]
    assert store["state"] == "warn"
    assert "catalogues or key lists end soon, or have: shop/m" in store["text"]
    assert main(["release", "renew", "--app", "shop", "--model", "m", "--sign", key, *here]) == 0
    capsys.readouterr()
    main(["doctor", *here, "--json"])
    assert findings(capsys)["store"]["state"] == "ok"


def test_the_packages_are_counted_for_people_and_listed_for_programs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor", "--data", str(tmp_path)])
    [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("ok    packages")]
    assert len(line) < 80
    main(["doctor", "--data", str(tmp_path), "--json"])
    assert any(item.startswith("aiohttp ") for item in findings(capsys)["packages"]["items"])


def test_a_disk_with_no_more_than_its_reserve_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKHAUL_DISK_RESERVE_BYTES", str(2**50))
    assert main(["doctor", "--data", str(tmp_path), "--json"]) == 1
    assert findings(capsys)["disk"]["state"] == "fail"


def test_brokers_that_do_not_answer_are_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--data", str(tmp_path), "--kafka", "127.0.0.1:1", "--json"]) == 1
    found = findings(capsys)["kafka"]
    assert found["state"] == "fail"
    assert "127.0.0.1:1" in found["text"]
    assert "batches go to the spool" in found["advice"]


def test_that_what_serves_uses_kafka_is_known_without_being_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runfile.write(tmp_path, runfile.Run(1, "http://127.0.0.1:1", "", kafka="broker:9092"))
    main(["doctor", "--data", str(tmp_path), "--json"])
    found = findings(capsys)["kafka"]
    assert (found["state"], found["advice"]) == ("warn", "say --kafka broker:9092, as `backhaul serve` was told")


async def test_a_spool_that_waits_for_kafka_is_told_of_and_what_was_put_aside(tmp_path: Path) -> None:
    config = Config(data=str(tmp_path), kafka_bootstrap="127.0.0.1:1", lag_warn_seconds=60, spool_max_bytes=8 << 20)
    assert (await spool_behind(config)).text == "nothing waits"
    log = await EmbeddedLog.open(tmp_path / "spool", max_bytes=1 << 30, max_pending_bytes=1 << 26)
    about = BatchHeaders(
        app="shop", content_encoding="identity", received_at=1, gateway="gw", batch=str(uuid.UUID(int=1)), events=0
    )
    await log.publish([batch_record(str(uuid.UUID(int=2)), b"{}", about)] * 3)
    found = await spool_behind(config)
    assert found.state == "warn"
    assert found.text.startswith("3 records wait, the oldest for ")
    no_room = replace(config, disk_reserve_bytes=2**50)
    assert (await spool_behind(no_room)).text.endswith("100% full")
    await log.publish([batch_record(str(uuid.UUID(int=2)), b"x" * 100_000, about)] * 50)
    assert (await spool_behind(config)).state == "fail"
    await log.close()
    (tmp_path / "spool" / ASIDE).mkdir()
    (tmp_path / "spool" / ASIDE / "batches-1.json").write_bytes(b"x")
    assert "1 records were too large for Kafka" in (await spool_behind(config)).text


async def test_a_log_that_fills_because_nobody_consumes_it_is_a_failure(tmp_path: Path) -> None:
    config = Config(data=str(tmp_path), log_max_bytes=8 << 20)
    log = await EmbeddedLog.open(tmp_path / "log", max_bytes=1 << 30, max_pending_bytes=1 << 26)
    await log.publish([Record(BATCHES, b"device", b"x" * 100_000)] * 10)
    assert (await warehouse_behind(config)).text == "10 records wait"
    await log.publish([Record(BATCHES, b"device", b"x" * 100_000)] * 40)
    found = await warehouse_behind(config)
    assert found.state == "fail"
    assert "% full" in found.text
    await log.close()


@pytest.mark.parametrize(("days", "hours", "said"), [(29, 168, "not recognised"), (60, 24 * 61, "expires as it is")])
def test_what_is_forgotten_too_early_is_a_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    days: int,
    hours: int,
    said: str,
) -> None:
    monkeypatch.setenv("BACKHAUL_RETENTION_DAYS", str(days))
    monkeypatch.setenv("BACKHAUL_KAFKA_BATCHES_RETENTION_HOURS", str(hours))
    main(["doctor", "--data", str(tmp_path), "--kafka", "127.0.0.1:1", "--json"])
    found = findings(capsys)["retention"]
    assert found["state"] == "warn"
    assert said in found["text"]


def test_topics_are_compared_and_not_made(
    kafka: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = kafka.settings()
    monkeypatch.setenv("BACKHAUL_KAFKA_TOPIC_PREFIX", settings.topic_prefix)
    monkeypatch.setenv("BACKHAUL_KAFKA_REPLICATION", "1")
    monkeypatch.setenv("BACKHAUL_KAFKA_PARTITIONS", "2")
    words = ["doctor", "--data", str(tmp_path), "--kafka", kafka.bootstrap, "--json"]
    for _ in range(2):
        assert main(words) == 0
        found = findings(capsys)["kafka"]
        assert found["state"] == "warn"
        assert f"topic {settings.topic('batches')} is not there" in found["text"]
    asyncio.run(ensure_topics(settings, kafka.topics(2), TOPICS))
    assert main(words) == 0
    assert findings(capsys)["kafka"]["state"] == "ok"
    monkeypatch.setenv("BACKHAUL_KAFKA_PARTITIONS", "3")
    assert main(words) == 0
    found = findings(capsys)["kafka"]
    assert found["state"] == "warn"
    assert "has 2 partitions where 3 are configured" in found["text"]
    monkeypatch.setenv("BACKHAUL_KAFKA_REPLICATION", "3")
    assert main(words) == 1
    found = findings(capsys)["kafka"]
    assert found["state"] == "fail"
    assert "has min.insync.replicas=1 where 2 is configured" in found["text"]
