"""`backhaul serve --kafka`: real processes, real devices and a real broker that comes and goes."""

import asyncio
import json
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.request
import uuid
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer

from gateway.clickhouse_server import ADMIN, password_of
from gateway.client.fleet import FleetReport
from gateway.demo.served import Served, serving
from gateway.demo.stage import Stage, model_file, set_up
from gateway.demo.stored import Stored, Warehouse
from gateway.demo.verdict import faults
from gateway.releases.store import Store
from gateway.supervisor import runfile
from gateway.supervisor.ports import free_port
from tests.kafka_fixtures import Kafka

pytest.importorskip("chdb", reason="the embedded ClickHouse is an extra")

COMMAND = [sys.executable, "-P", "-m", "gateway.cli"]
DEVICES = 6


@pytest.fixture
def settings(kafka: Kafka) -> dict[str, str]:
    """Return variables without their prefix: topics of this test's own on the one broker."""
    return {
        "KAFKA_BOOTSTRAP": kafka.bootstrap,
        "KAFKA_TOPIC_PREFIX": f"t{uuid.uuid4().hex[:12]}.",
        "KAFKA_REPLICATION": "1",
        "KAFKA_PARTITIONS": "3",
        "KAFKA_PUBLISH_SECONDS": "1",
        "KAFKA_SESSION_SECONDS": "6",
    }


@pytest.fixture
def broker(kafka: Kafka) -> Kafka:
    if kafka.cluster is None:
        pytest.skip("this broker is not ours to stop")
    return kafka


async def start_devices(served: Served, stage: Stage, seconds: float) -> Process:
    directory = served.config.directory
    options = ["--url", served.url, "--app-key", stage.app_key, "--public-key", str(directory / "release.pem.pub")]
    options += ["--bundled", str(model_file(1)), "--data", str(directory / "devices"), "--day-seconds", "3"]
    options += ["--devices", str(DEVICES), "--seconds", str(seconds), "--json"]
    return await asyncio.create_subprocess_exec(*COMMAND, "fleet", "run", *options, stdout=PIPE)


async def settled(devices: Process) -> FleetReport:
    printed, _ = await devices.communicate()
    assert devices.returncode == 0
    return msgspec.json.decode(printed, type=FleetReport)


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.1)


def metrics(url: str) -> dict[str, float]:
    """Return what has one value; nothing while nobody answers."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:  # noqa: S310 - our own gateway
            text = reply.read().decode()
    except OSError:
        return {}
    return {
        name.removeprefix("backhaul_"): float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)
    }


def readiness(url: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as reply:  # noqa: S310 - our own gateway
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def totals(warehouse: Warehouse, more_than: int) -> Stored:
    async with asyncio.timeout(60):
        while (stored := await warehouse.totals()).events <= more_than:  # noqa: ASYNC110 - another process works
            await asyncio.sleep(0.1)
    return stored


async def test_kafka_goes_and_comes_and_every_event_is_stored_once(
    tmp_path: Path, settings: dict[str, str], broker: Kafka
) -> None:
    assert broker.cluster is not None
    async with serving(tmp_path, settings) as served:
        stage = await set_up(tmp_path, Store.open(served.config.store_address))
        warehouse = await Warehouse.open(served.config)
        devices = await start_devices(served, stage, 300)
        before = await totals(warehouse, 0)
        assert metrics(served.url)["sink_spool_direct"] == 1
        try:
            broker.cluster.stop()
            await until(lambda: metrics(served.url).get("sink_spool_stored_records", 0) > 20)
            assert readiness(served.url)[0] == 200  # it takes batches
            await until(lambda: metrics(served.url).get("told_flush_seconds", 0) > 600)
            os.kill(served.processes()["gateway"], signal.SIGKILL)
            # Counted since the start, so these came to the new process, behind what the old one had spooled.
            await until(lambda: metrics(served.url).get("sink_spool_stored_records", 0) > 5)
        finally:
            broker.cluster.start()
        await until(lambda: metrics(served.url).get("sink_spool_direct") == 1)
        assert metrics(served.url)["sink_spool_drained_records"] > 25
        after = await totals(warehouse, before.events + 50)
        os.kill(served.processes()["warehouse"], signal.SIGKILL)
        await totals(warehouse, after.events + 50)
        devices.kill()
        await devices.communicate()
        report = await settled(await start_devices(served, stage, 1))
        stored = await warehouse.caught_up(report.produced - sum(report.dropped.values()), 20.0, lambda _: None)
        await warehouse.close()
        assert [fault for fault in faults(report, stored) if "release" not in fault] == []
        assert stored.events > after.events
        assert await served.stop() == 0
    assert "killing it" not in (tmp_path / "serve.log").read_text()


def body_of(number: int) -> bytes:
    prediction = {"type": "prediction", "t": 1795334400000, "model": "upsell", "release": 1, "source": "bundled"}
    events = [prediction | {"id": 2 * number + i, "score": 0.5, "decision": True} for i in range(2)]
    about = {"device": str(uuid.UUID(int=number % 7)), "batch": str(uuid.UUID(int=number)), "seq": number}
    return json.dumps(about | {"sent_at": 1795334400123, "sdk": "2.3.0", "events": events}).encode()


def send(url: str, key: str, body: bytes) -> tuple[int, str | None]:
    """Return the status and the Retry-After."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/batches", data=body, headers=headers)  # noqa: S310 - our own gateway
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:  # noqa: S310 - as above
            return reply.status, None
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers["Retry-After"]


async def test_without_a_spool_batches_are_answered_503_at_once_while_kafka_is_away(
    tmp_path: Path, settings: dict[str, str], broker: Kafka
) -> None:
    assert broker.cluster is not None
    async with serving(tmp_path, settings | {"SPOOL": "off", "WAREHOUSE": "off"}) as served:
        assert set(served.processes()) == {"supervisor", "gateway"}
        key = (await set_up(tmp_path, Store.open(served.config.store_address))).app_key
        await until(lambda: send(served.url, key, body_of(1)) == (200, None))
        try:
            broker.cluster.stop()
            await until(lambda: send(served.url, key, body_of(2))[0] == 503)
            began = time.monotonic()
            status, retry_after = send(served.url, key, body_of(2))
            assert time.monotonic() - began < 0.5
            assert status == 503
            assert retry_after is not None
            assert 5 <= int(retry_after) <= 10
            ready, said = readiness(served.url)
            assert ready == 503
            assert "Kafka" in str(said["trouble"])
        finally:
            broker.cluster.start()
        await until(lambda: send(served.url, key, body_of(2)) == (200, None))
        assert readiness(served.url)[0] == 200
        assert await served.stop() == 0
    assert not (tmp_path / "spool").exists()


@asynccontextmanager
async def consuming(name: str, environ: dict[str, str], log: Path) -> AsyncIterator[Process]:
    """Run a consumer alone, and see that it leaves in order."""
    with log.open("ab") as output:
        variables = {f"BACKHAUL_{key}": value for key, value in environ.items()}
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "consume", name, stdout=DEVNULL, stderr=output, env=os.environ | variables
        )
    try:
        yield process
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 15) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def unpacked(settings: dict[str, str], count: int) -> list[bytes]:
    """Read the topic of plain events until there are so many."""
    consumer = AIOKafkaConsumer(
        f"{settings['KAFKA_TOPIC_PREFIX']}events",
        bootstrap_servers=settings["KAFKA_BOOTSTRAP"],
        auto_offset_reset="earliest",
        isolation_level="read_committed",
    )
    await consumer.start()
    try:
        async with asyncio.timeout(60):
            return [(await consumer.getone()).value for _ in range(count)]
    finally:
        await consumer.stop()


def lag_shown_at(address: str) -> float | None:
    """Return how many records wait for the whole group; None before it is known."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as reply:
        found = re.findall(r"^backhaul_consumer_lag_records\{.*\} (\S+)$", reply.read().decode(), re.MULTILINE)
    return sum(map(float, found)) if found else None


async def test_several_gateways_and_consumers_share_one_kafka(
    tmp_path: Path, settings: dict[str, str], kafka: Kafka
) -> None:
    if kafka.kind == "tansu":
        pytest.skip("Tansu has no transactions that could be counted on")
    settings |= {"KAFKA_EVENTS_COMPRESSION": "producer"}  # aiokafka reads zstd only with another library beside it
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    async with serving(first, settings) as one:
        shared = {"STORE_URL": one.config.store_address, "WAREHOUSE": "off"}
        key = (await set_up(first, Store.open(one.config.store_address))).app_key
        own = await Warehouse.open(one.config)
        run = runfile.read(first)
        assert run is not None
        other = {
            "CLICKHOUSE_URL": run.clickhouse_url,
            "CLICKHOUSE_USER": ADMIN,
            "CLICKHOUSE_PASSWORD": password_of(first / "clickhouse"),
            "CLICKHOUSE_DATABASE": "other",
        }
        shown = f"127.0.0.1:{free_port()}"
        a = settings | other | {"DATA": str(tmp_path / "a"), "CONSUMER_LISTEN": shown}
        async with (
            serving(second, settings | shared) as two,
            consuming("warehouse", a, tmp_path / "a.log"),
            consuming("warehouse", settings | other | {"DATA": str(tmp_path / "b")}, tmp_path / "b.log"),
            consuming("unpack", settings | {"DATA": str(tmp_path / "c")}, tmp_path / "c.log"),
        ):
            for number in range(1, 41):
                await until(lambda n=number: send((one, two)[n % 2].url, key, body_of(n))[0] == 200)  # type: ignore[misc]
                assert send((two, one)[number % 2].url, key, body_of(number))[0] == 200  # the answer was lost
            plain = [json.loads(event) for event in await unpacked(settings, 80)]
            assert len({(event["batch"], event["index"]) for event in plain}) == 80
            theirs = await Warehouse.open(msgspec.structs.replace(one.config, clickhouse_database="other"))
            for warehouse in (own, theirs):
                stored = await warehouse.caught_up(80, 30.0, lambda _: None)
                assert (stored.events, stored.distinct_events, stored.batches) == (80, 80, 40)
                await warehouse.close()
            await until(lambda: lag_shown_at(shown) == 0)
            assert readiness(f"http://{shown}") == (200, {"ready": True, "trouble": {}})
            assert await two.stop() == 0
        assert await one.stop() == 0
