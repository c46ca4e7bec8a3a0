"""The flush control in a gateway that listens: what devices are told, and when they are refused."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp.test_utils import TestClient, TestServer

from gateway.app import create_app
from gateway.config import Config
from gateway.publish.embedded import EmbeddedLog
from gateway.releases.apps import create_app as create_shop
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store

Serve = Callable[..., Any]


class Served:
    def __init__(self, client: Any, key: str) -> None:
        self._client = client
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    async def post(self) -> tuple[int, dict[str, Any], int]:
        """Send an empty batch. Return the status, the answer and how long to wait."""
        device, batch = str(uuid.uuid4()), str(uuid.uuid4())
        body = orjson.dumps({"device": device, "batch": batch, "seq": 1, "sent_at": 1, "sdk": "2.3.0", "events": []})
        async with self._client.post("/v1/batches", data=body, headers=self._headers) as response:
            return response.status, orjson.loads(await response.read()), int(response.headers.get("Retry-After", 0))

    async def until(self, sample: str, least: float) -> None:
        async with asyncio.timeout(20):
            while await self._metric(sample) < least:  # noqa: ASYNC110 - the state is another's, over HTTP
                await asyncio.sleep(0.05)

    async def _metric(self, sample: str) -> float:
        async with self._client.get("/metrics") as response:
            lines = (await response.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(sample))


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    async with AsyncExitStack() as stack:

        async def _serve(config: Config, pressure: float = 0.0) -> Served:
            store = Store.open("memory://")
            key = await create_shop(store, "shop", 1)
            snapshots = SnapshotKeeper(store)
            await snapshots.refresh()
            sink = await EmbeddedLog.open(tmp_path, max_bytes=2**30, max_pending_bytes=2**26)
            stack.push_async_callback(sink.close)
            app = create_app(config, sink=sink, snapshots=snapshots, store=store, pressure=lambda: pressure)
            return Served(await stack.enter_async_context(TestClient(TestServer(app))), key)

        yield _serve


async def test_a_gateway_above_its_budget_refuses_a_share_until_after_the_session(serve: Serve) -> None:
    served = await serve(Config(flush_budget_requests_per_second=1))
    assert [(await served.post())[0] for _ in range(40)] == [200] * 40
    await served.until("backhaul_refused_share", 0.5)
    answers = [await served.post() for _ in range(40)]
    refused = [(answer["code"], wait) for status, answer, wait in answers if status == 429]
    assert refused
    assert {code for code, _ in refused} == {"slow_down"}
    assert all(900 <= wait <= 1800 for _, wait in refused)
    assert len({wait for _, wait in refused}) > 1, "they must not come back together"


async def test_under_pressure_devices_are_told_to_flush_less_often(serve: Serve) -> None:
    served = await serve(Config(flush_seconds=300), pressure=1.0)
    await served.until("backhaul_told_flush_seconds", 1200)
    _, answer, _ = await served.post()
    assert answer["flush"] == {"events": 200, "seconds": 1200, "lease_seconds": 86_400}


async def test_a_gateway_without_a_budget_refuses_nothing(serve: Serve) -> None:
    served = await serve(Config())
    await asyncio.gather(*(served.post() for _ in range(40)))
    await served.until("backhaul_batches_per_second", 1)
    assert [(await served.post())[0] for _ in range(40)] == [200] * 40
