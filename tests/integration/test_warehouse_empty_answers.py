"""An answer without rows never means that nothing is stored: on a full disk, and from whatever stands in between."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from consumers import migrations
from consumers.warehouse.plans import Lane, Plan
from consumers.warehouse.tables import Away, Tables
from gateway.clickhouse_server import ADMIN, connect, password_of
from tests.campaign.disks import Disk

LANE = Lane("a-log", "batches", 0)
KEY = ("shop", "6f1c2f60-3f6e-4b6e-9d0e-0a6a3f6c1d11", "01980000-0000-7000-8000-000000000001")
DIGEST = b"sixteen bytes it"
NOW_S = int(time.time())


async def store(client: Any) -> Tables:
    """Plan a range, and store a batch, an event of it and a dead letter."""
    await migrations.apply(client, 90)
    tables = Tables(client, 30)
    await tables.claim(Plan(LANE, 0, 9))
    named, at = "SELECT '{}', '{}', '{}', ".format(*KEY), f"fromUnixTimestamp64Milli({NOW_S}000)"
    await client.command(f"INSERT INTO batches (app, device, batch, received_at, log, offset) {named} {at}, 'a-log', 3")
    await client.command(f"INSERT INTO events (app, device, batch, received_at) {named} {at}")
    letter = f"SELECT '{DIGEST.decode()}', {at}, 'a-log', 4"
    await client.command(f"INSERT INTO dead_letters (digest, received_at, log, offset) {letter}")
    return tables


def questions(tables: Tables) -> dict[str, Any]:
    return {
        "plan": tables.newest_plan(LANE),
        "batches": tables.batch_origins({KEY}),
        "events": tables.batches_with_events({KEY}, (NOW_S * 1000 - 5000, NOW_S * 1000 + 5000)),
        "letters": tables.letter_origins({DIGEST}),
    }


async def answers(tables: Tables) -> dict[str, Any]:
    return {name: await question for name, question in questions(tables).items()}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of its own for the server of `new_clickhouse`."""
    made = Disk.mount(tmp_path / "own-clickhouse", 400)
    if made is None:
        pytest.skip("only who may mount a file system can fill one up")
    yield made
    made.unmount(keep=False)


async def test_a_server_whose_disk_is_full_still_tells_what_is_stored(disk: Disk, new_clickhouse: Any) -> None:
    new_clickhouse.start()
    client = await new_clickhouse.connect("full")
    tables = await store(client)
    before = await answers(tables)
    assert all(before.values())
    full = asyncio.create_task(disk.be_full(3))
    await asyncio.sleep(1)
    assert await answers(tables) == before
    assert (await client.query("SELECT number FROM numbers(2)")).result_rows == [(0,), (1,)]
    await full
    await client.close()


@pytest.fixture
async def silenced(clickhouse: Any, warehouse_client: Any) -> AsyncIterator[tuple[Tables, dict[str, bool]]]:
    """Questions to a server behind something that, once told to, answers 200 and nothing else."""
    told = {"silent": False}
    await store(warehouse_client)

    async def forward(request: web.Request) -> web.StreamResponse:
        if told["silent"]:
            return web.Response()
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method,
                clickhouse.url + request.path_qs,
                data=await request.read(),
                headers={name: request.headers[name] for name in ("Authorization", "Content-Type", "Accept-Encoding")},
            ) as answer,
        ):
            kept = {name: word for name, word in answer.headers.items() if name != "Transfer-Encoding"}
            return web.Response(status=answer.status, headers=kept, body=await answer.read())

    app = web.Application(client_max_size=2**26)
    app.router.add_route("*", "/{path:.*}", forward)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    password = password_of(clickhouse.directory)
    client = await connect(f"http://127.0.0.1:{port}", ADMIN, password, warehouse_client.database)
    yield Tables(client, 30), told
    await client.close()
    await runner.cleanup()


async def test_an_empty_answer_is_none(silenced: tuple[Tables, dict[str, bool]]) -> None:
    tables, told = silenced
    assert all((await answers(tables)).values())
    told["silent"] = True
    for question in questions(tables).values():
        with pytest.raises(Away, match="empty"):
            await question
