"""The copied sample client does what the field sees it do: a test for each failure, so that the copy stays fair."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway.client.fleet.blog import BlogClient, BlogTally
from gateway.client.runtimes import BadModel, PredictionFailed


class Model:
    """Answers with the number in its bytes."""

    input_size, labels = 1, ("Dismissed", "Purchased")
    metadata: Mapping[str, str] = {}

    def __init__(self, score: float) -> None:
        self._score = score

    def predict(self, inputs: Any) -> dict[str, float]:
        if self._score > 1:
            raise PredictionFailed("as told")
        return {"Purchased": self._score}


class Runtime:
    """Loads numbers; "crash" takes the process with it."""

    format = "opaque"

    def load(self, data: bytes) -> Model:
        if data == b"crash":
            raise SystemError("the process is gone")
        try:
            return Model(float(data))
        except ValueError as error:
            raise BadModel("not a number") from error


class Server:
    """Serves one poll and one artifact."""

    content = b"0.8"
    status = 200

    async def poll(self, _: web.Request) -> web.Response:
        return web.json_response({"url": "/models/upsell.mlmodel"})

    async def artifact(self, _: web.Request) -> web.Response:
        return web.Response(status=self.status, body=self.content)


Launch = Callable[..., BlogClient]


@pytest.fixture
def told() -> Server:
    return Server()


@pytest.fixture
async def launch(told: Server, tmp_path: Path) -> AsyncIterator[Launch]:
    app = web.Application()
    app.add_routes([web.get("/latest.json", told.poll), web.get("/models/{name}", told.artifact)])
    server, tally = TestServer(app), BlogTally()
    await server.start_server()
    async with aiohttp.ClientSession() as session:
        url = str(server.make_url("/latest.json"))

        def launched(**changes: Any) -> BlogClient:
            return BlogClient(url, tmp_path / "models", b"0.2", Runtime(), session, tally=tally, **changes)

        yield launched
    await server.close()


class Names(random.Random):
    """Gives the random part of the names of downloads, as told."""

    def __init__(self, *told: int) -> None:
        super().__init__(1)
        self._told = list(told)

    def getrandbits(self, bits: int, /) -> int:
        return self._told.pop(0)


async def test_twenty_checks_are_twenty_downloads(launch: Launch) -> None:
    client = launch()
    for _ in range(20):
        await client.check()
    assert (client.tally.polls, client.tally.downloads, client.tally.bytes) == (20, 20, 60)
    assert client.predict([0.0]) == 0.8


async def test_the_page_of_a_404_is_kept_as_a_model_and_may_hide_the_good_one(launch: Launch, told: Server) -> None:
    client = launch(dice=Names(0xB, 0xC, 0xA), right_sha256=sha256(b"0.8").hexdigest())
    await client.check()
    assert client.predict([0.0]) == 0.8
    told.status, told.content = 404, b"<html>not found</html>"
    await client.check()
    assert client.predict([0.0]) == 0.2
    assert [path.name for path in client.directory.glob("*.tmp")] == ["CFNetworkDownload_00000c.tmp"]
    assert (client.tally.fallbacks, client.tally.wrong_models) == (1, 0)
    told.status, told.content = 200, b"0.8"
    await client.check()
    assert client.predict([0.0]) == 0.8, "until the next success"


def dying(after: str) -> Callable[[str], Any]:
    async def between(step: str) -> None:
        if step == after:
            raise KeyboardInterrupt

    return between


async def test_killed_between_the_two_moves_it_falls_back_to_the_bundle(launch: Launch) -> None:
    with pytest.raises(KeyboardInterrupt):
        await launch(between=dying("moved")).check()
    assert launch().predict([0.0]) == 0.2


async def test_killed_before_it_deletes_the_outdated_the_highest_name_wins(launch: Launch, told: Server) -> None:
    await launch(dice=Names(0xB)).check()
    told.content = b"0.9"
    with pytest.raises(KeyboardInterrupt):
        await launch(dice=Names(0xA), between=dying("removed")).check()
    client = launch(right_sha256=sha256(b"0.9").hexdigest())
    assert client.predict([0.0]) == 0.8
    assert client.tally.wrong_models == 1


async def test_two_checks_at_once_leave_no_model(launch: Launch) -> None:
    await asyncio.gather(launch().check(), launch().check())
    assert list(launch().directory.iterdir()) == []
    assert launch().predict([0.0]) == 0.2


async def test_a_newer_bundle_of_an_app_update_is_ignored(launch: Launch) -> None:
    await launch().check()
    updated = launch()
    updated.bundled = b"0.5"
    assert updated.predict([0.0]) == 0.8


async def test_a_model_that_crashes_on_load_crashes_every_launch(launch: Launch) -> None:
    await launch().check()
    (compiled,) = launch().directory.iterdir()
    (compiled / "model").write_bytes(b"crash")
    for _ in range(50):
        with pytest.raises(SystemError):
            launch().predict([0.0])
    assert launch().tally.crashes == 50


async def test_an_error_of_a_prediction_has_no_answer(launch: Launch, told: Server) -> None:
    told.content = b"7"
    await launch().check()
    assert launch().predict([0.0]) is None
    assert launch().tally.unanswered == 1
