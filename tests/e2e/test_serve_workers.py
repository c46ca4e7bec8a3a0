"""`backhaul serve --workers 2`: two gateway processes behind one address, killed under traffic."""

import asyncio
import json
import os
import re
import signal
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.demo.served import DemoError, Served, serving
from gateway.demo.stored import Warehouse
from gateway.releases.apps import create_app
from gateway.releases.store import Store

pytest.importorskip("chdb", reason="the embedded ClickHouse is an extra")

WORKERS = ("gateway", "gateway-2")
BATCHES = 150
SENDERS = 6
NOBODY = "127.0.0.1:1"


def body_of(number: int) -> bytes:
    events = [
        {"type": "prediction", "t": 1795334400000, "model": "upsell", "release": 1, "source": "bundled"}
        | {"id": 2 * number + i, "score": 0.5, "decision": True}
        for i in range(2)
    ]
    about = {"device": str(uuid.UUID(int=number % 7 + 1)), "batch": str(uuid.UUID(int=number)), "seq": number}
    return json.dumps(about | {"sent_at": 1795334400123, "sdk": "2.3.0", "events": events}).encode()


def send(url: str, key: str, body: bytes) -> dict[str, object]:
    """Send on a connection of its own, so that the kernel chooses a worker anew; nothing where nobody takes it."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/batches", data=body, headers=headers)  # noqa: S310 - our own gateway
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:  # noqa: S310 - as above
            answer: dict[str, object] = json.load(reply)
    except OSError:  # answers that are failures too
        return {}
    del answer["server_time"]
    return answer


def get(url: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url + path, timeout=3) as reply:  # noqa: S310 - our own gateway
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def counted(url: str, name: str) -> dict[str, float]:
    """Return a metric's value of each worker that has it."""
    found = re.findall(rf'^backhaul_{name}\{{(?:[^}}]*,)?worker="(\d+)"[^}}]*\}} (\S+)$', get(url, "/metrics")[1], re.M)
    return {worker: float(value) for worker, value in found}


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < end, "it did not happen in time"
        await asyncio.sleep(0.05)


async def sending(url: str, key: str, numbers: range, killer: Callable[[int], None]) -> None:
    """Send each batch until it is taken, and then once more, as where the first answer was lost."""
    for number in numbers:
        killer(number)
        first: dict[str, object] = {}
        while not first:
            first = await asyncio.to_thread(send, url, key, body_of(number))
        again = await asyncio.to_thread(send, url, key, body_of(number))
        assert again in ({}, first)  # {}: its worker was killed over it


async def test_workers_are_killed_under_traffic_and_every_batch_is_stored_once(tmp_path: Path) -> None:
    async with serving(tmp_path, {"WORKERS": "2"}) as served:
        assert set(WORKERS) < set(served.processes())
        key = await create_app(Store.open(served.config.store_address), "shop", 1)

        def kill(number: int) -> None:
            if number % 40 == 0:
                pid = served.processes().get(WORKERS[number // 40 % 2])
                if pid is not None:
                    os.kill(pid, signal.SIGKILL)

        await asyncio.gather(
            *(sending(served.url, key, range(at, BATCHES, SENDERS), kill) for at in range(1, SENDERS + 1))
        )
        await until(lambda: get(served.url, "/readyz")[0] == 200)
        await until(lambda: send(served.url, key, body_of(1)) and len(counted(served.url, "events_total")) == 2)
        assert counted(served.url, "worker_answers") == {"1": 1.0, "2": 1.0}
        warehouse = await Warehouse.open(served.config)
        stored = await warehouse.caught_up(2 * (BATCHES - 1), 30.0, lambda _: None)
        assert (stored.events, stored.distinct_events) == (2 * (BATCHES - 1),) * 2
        assert (stored.batches, stored.distinct_batches, stored.letters) == (BATCHES - 1, BATCHES - 1, 0)
        await warehouse.close()
        assert await served.stop() == 0


async def both_spool(served: Served, key: str) -> None:
    for number in range(1, 200):
        await until(lambda n=number: send(served.url, key, body_of(n)))  # type: ignore[misc]
        stored = await asyncio.to_thread(counted, served.url, "sink_spool_stored_records")
        if len([count for count in stored.values() if count]) == 2:
            return
    raise AssertionError("the kernel gives all connections to one worker")


def names_worker_2(url: str) -> bool:
    status, said = get(url, "/readyz")  # nobody answers what reaches worker 2 itself
    return status == 503 and json.loads(said)["trouble"].get("worker 2") == "it: does not answer"


async def test_each_worker_spools_for_itself_one_that_hangs_is_named_and_fewer_workers_leave_no_spool_behind(
    tmp_path: Path,
) -> None:
    settings = {"KAFKA_BOOTSTRAP": NOBODY, "KAFKA_PUBLISH_SECONDS": "0.5", "WAREHOUSE": "off"}
    async with serving(tmp_path, settings | {"WORKERS": "2"}) as served:
        key = await create_app(Store.open(served.config.store_address), "shop", 1)
        await both_spool(served, key)
        os.kill(served.processes()["gateway-2"], signal.SIGSTOP)
        await until(lambda: names_worker_2(served.url))
        await until(lambda: counted(served.url, "worker_answers") == {"1": 1.0, "2": 0.0})
        os.kill(served.processes()["gateway-2"], signal.SIGCONT)
        await until(lambda: get(served.url, "/readyz")[0] == 200)
        assert await served.stop() == 0
    with pytest.raises(DemoError, match=r"spool-2 holds .* records that Kafka has not: .* workers=2"):
        async with serving(tmp_path, settings | {"WORKERS": "1"}):
            pass
