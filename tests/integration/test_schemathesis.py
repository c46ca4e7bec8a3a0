"""Requests made up from the served description: none may bring about a 5xx or an answer that is not described."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import schemathesis
from aiohttp import web
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from gateway.app import create_app
from gateway.config import Config
from gateway.publish.embedded import EmbeddedLog
from gateway.releases import apps
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store

CHECKS: Final = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


class Served:
    """A gateway on a thread of its own, since the schema's requests are synchronous."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._listening = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.url = ""
        self.key = ""
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        store = Store.open("memory://")
        self.key = await apps.create_app(store, "shop", 1)
        snapshots = SnapshotKeeper(store)
        await snapshots.refresh()
        sink = await EmbeddedLog.open(self._directory, max_bytes=2**30, max_pending_bytes=2**26)

        runner = web.AppRunner(create_app(Config(), sink=sink, snapshots=snapshots, store=store), auto_decompress=False)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        self._listening.set()
        await self._stop.wait()
        await runner.cleanup()
        await sink.close()

    def __enter__(self) -> "Served":
        self._thread.start()
        assert self._listening.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(20)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with Served(tmp_path_factory.mktemp("log")) as served:
        yield served


TAKING_INPUT: Final = ["/v1/batches", "/artifacts/{sha256}"]
PLAIN: Final = ["/healthz", "/readyz", "/metrics", "/openapi.json"]
TRIED: Final = [
    *((path, mode) for path in TAKING_INPUT for mode in GenerationMode),
    *((path, GenerationMode.POSITIVE) for path in PLAIN),  # nothing about them can be wrong
]


def test_every_operation_is_tried(served: Served) -> None:
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    assert sorted(schema) == sorted(TAKING_INPUT + PLAIN)


@pytest.mark.parametrize(("path", "mode"), TRIED)
def test_no_request_brings_about_what_is_not_described(served: Served, path: str, mode: GenerationMode) -> None:
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    [operation] = schema[path].values()

    @given(operation.as_strategy(generation_mode=mode))
    @settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
    def shoot(case: Any) -> None:
        case.call_and_validate(headers={"Authorization": f"Bearer {served.key}"}, checks=CHECKS)

    shoot()
