"""What each answer makes a device do with the batch it sent."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import msgspec
import pytest
from aiohttp import web

from gateway.client import Limits

if TYPE_CHECKING:
    from schemas.wire import Batch
    from tests.integration.client.conftest import World

SIGNALS = {"battery": 0.5, "charging": 1.0}
DAY_SECONDS = 86_400


@pytest.mark.parametrize("status", [429, 503, 500, 404, 302, 408])
async def test_a_refusal_that_may_pass_keeps_the_batch_and_resends_it(world: World, status: int) -> None:
    world.gateway.answers = [world.gateway.problem(status, **{"Retry-After": "120"})]
    client = await world.open()
    client.predict("upsell", SIGNALS)
    assert await client.flush() == "kept"
    client.predict("upsell", SIGNALS)
    world.clock.turn(119.9)
    assert await client.flush() == "waiting"
    world.clock.turn(0.2)
    assert await client.flush() == "sent"
    first, second, third = world.gateway.batches
    assert second == msgspec.structs.replace(first, sent_at=second.sent_at)
    assert [first.seq, second.seq, third.seq] == [1, 1, 2]
    assert len(third.events) == 1


async def test_a_retry_says_when_it_is_sent_so_that_its_events_are_dated_right(world: World) -> None:
    world.gateway.answers = [world.gateway.problem(503)]
    client = await world.open()
    client.predict("upsell", SIGNALS)
    happened_ms = world.clock.now_ms()
    world.clock.turn(60)
    assert await client.flush() == "kept"
    world.clock.turn(6 * 3600)
    assert await client.flush() == "sent"
    received_ms = world.clock.now_ms() + 7_000_000  # the device's clock is behind
    batch = world.gateway.batches[-1]
    [event] = batch.events
    assert event.t + received_ms - batch.sent_at == happened_ms + 7_000_000


async def test_a_batch_that_the_warehouse_may_have_forgotten_is_dropped_and_counted(world: World) -> None:
    async with world.client() as client:
        client.predict("upsell", SIGNALS)
        client.predict("upsell", SIGNALS)
        world.gateway.cut_next = True
        assert await client.flush() == "kept"
    world.clock.turn(30 * DAY_SECONDS)
    client = await world.open()
    world.gateway.cut_next = True
    await client.background()  # flushes, and lets only this test flush from now on
    assert len(world.gateway.bodies) == 2, "thirty days are not too many"
    client.predict("upsell", SIGNALS)
    world.clock.turn(DAY_SECONDS)
    assert await client.flush() == "dropped"
    assert [batch.seq for batch in world.gateway.batches] == [1, 1, 2]
    assert world.gateway.batches[-1].ledger.dropped == {"too_old": 2}
    assert [len(batch.events) for batch in world.gateway.batches] == [2, 2, 1]


@pytest.mark.parametrize("status", [302, 307, 308])
async def test_a_redirect_is_not_followed_with_the_app_key(world: World, status: int) -> None:
    world.gateway.answers = [
        world.gateway.problem(status, Location=f"{world.url}{'v1/batches' if status > 302 else 'artifacts/elsewhere'}")
    ]
    client = await world.open()
    assert await client.flush() == "kept"
    assert world.gateway.fetches == []
    assert len(world.gateway.bodies) == 1


async def test_the_wait_and_the_frozen_batch_survive_a_restart(world: World) -> None:
    world.gateway.answers = [world.gateway.problem(503, **{"Retry-After": "120"})]
    async with world.client() as client:
        client.predict("upsell", SIGNALS)
        await client.flush()
    client = await world.open()
    assert await client.flush() == "waiting"
    assert client.status().wait_seconds == pytest.approx(120, abs=1)
    world.clock.turn(121)
    assert await client.flush() == "sent"
    assert len({(batch.batch, batch.seq) for batch in world.gateway.batches}) == 1


async def test_a_kept_batch_that_the_disk_has_spoilt_is_counted_and_makes_way(world: World) -> None:
    client = await world.open()
    client.predict("upsell", SIGNALS)
    world.gateway.cut_next = True
    assert await client.flush() == "kept"
    with client._storage.transaction() as tx:
        tx.execute("UPDATE frozen SET body = CAST('{' AS BLOB)")
    world.clock.turn(31)
    assert await client.flush() == "dropped"
    client.predict("upsell", SIGNALS)
    assert await client.flush() == "sent"
    assert client.ledger.dropped == {"storage": 1}


async def test_no_answer_backs_off_with_full_jitter(world: World) -> None:
    waits = []
    client = await world.open(dice=random.Random(3))  # noqa: S311 - a seeded draw, no secret
    await client.background()  # so that only this test flushes
    client.predict("upsell", SIGNALS)
    for _ in range(9):
        world.gateway.cut_next = True
        assert await client.flush() == "kept"
        waits.append(client.status().wait_seconds)
        world.clock.turn(waits[-1] + 0.001)
    assert all(wait <= min(3600, 30 * 2**n) for n, wait in enumerate(waits))
    assert len({round(wait) for wait in waits}) > 5
    assert max(waits) > 600


async def test_a_network_that_hangs_is_given_up_and_the_batch_sent_again_as_it_was(world: World) -> None:
    answering = asyncio.Event()
    world.gateway.before_answer = answering.wait
    client = await world.open(limits=Limits(jitter_seconds=0.0, request_seconds=0.2))
    client.predict("upsell", SIGNALS)
    assert await client.flush() == "kept"
    assert client.status().trouble == "no answer"
    answering.set()
    world.clock.turn(31)
    assert await client.flush() == "sent"
    assert [(batch.seq, len(batch.events)) for batch in world.gateway.batches] == [(1, 1), (1, 1)]
    assert len(world.gateway.stored) == 1


@pytest.mark.parametrize(
    "body",
    [
        b"<html>Sign in to the Wi-Fi</html>",
        b"{}",
        b"[" * 100_000,
        b'{"batch":"00000000-0000-4000-8000-000000000000","accepted":0,"server_time":1,'
        b'"flush":{"events":1,"seconds":1,"lease_seconds":1}}',
    ],
    ids=["captive portal", "not a reply", "deep", "another batch"],
)
async def test_a_200_that_is_not_the_reply_deletes_nothing(world: World, body: bytes) -> None:
    world.gateway.answers = [lambda batch: web.Response(body=body)]
    client = await world.open()
    client.predict("upsell", SIGNALS)
    assert await client.flush() == "kept"
    assert client.status().queued_events == 1


@pytest.mark.parametrize(
    "rest",
    [
        b'"flush":{"events":1,"seconds":1,"lease_seconds":1}}',
        b'"server_time":1}',
        b'"server_time":1,"flush":{"events":1,"seconds":1,"lease_seconds":1},"use":{"upsell":-1}}',
        b'"server_time":1,"flush":{"events":1,"seconds":1,"lease_seconds":1},"inline":{"a":"?"}}',
        b'"server_time":1,"flush":{"events":1,"seconds":1,"lease_seconds":1},"catalogues":' + b"[" * 100_000,
        b'"server_time":1,"flush":{"events":1,"seconds":1,"lease_seconds":1},"inline":{"a":"'
        + b"A" * 9_000_000
        + b'"}}',
    ],
    ids=["no time", "no policy", "use", "inline", "deep", "too long"],
)
async def test_news_that_cannot_be_read_never_makes_a_device_resend_what_is_stored(world: World, rest: bytes) -> None:
    def answer(batch: Batch) -> web.Response:
        world.gateway.stored[batch.batch] = batch
        return web.Response(body=f'{{"batch":"{batch.batch}","accepted":1,'.encode() + rest)

    world.gateway.answers = [answer, answer]
    client = await world.open()
    for _ in range(2):
        client.predict("upsell", SIGNALS)
        assert await client.flush() == "sent"
    assert client.status().wait_seconds == 0
    await client.flush()
    assert [batch.seq for batch in world.gateway.batches] == [1, 2, 3]
    assert world.gateway.steps() == [(0, "failed", "news_unreadable")], "said once in a session"
    assert world.gateway.batches[-1].ledger.dropped == {}


@pytest.mark.parametrize("status", [400, 401, 403, 413, 415])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/plain", b"Bad Request"),
        ("text/html", b"<html>Sign in</html>"),
        ("application/json", b'{"code":"malformed"}'),
        ("application/problem+json", b'{"title":"Bad Request"}'),
        ("application/problem+json", b'{"code":"blocked_by_waf"}'),
        ("application/problem+json", b"{" * 20_000),
    ],
    ids=["text", "portal", "json", "no code", "another code", "long"],
)
async def test_what_a_stranger_refuses_is_kept(world: World, status: int, kind: str, body: bytes) -> None:
    world.gateway.answers = [lambda batch: web.Response(status=status, body=body, content_type=kind)]
    client = await world.open()
    client.predict("upsell", SIGNALS)
    client.predict("upsell", SIGNALS)
    assert await client.flush() == "kept"
    assert client.status().wait_seconds <= 30, "not a lease: it was not about the key"
    world.clock.turn(31)
    assert await client.flush() == "sent"
    assert [len(batch.events) for batch in world.gateway.batches] == [2, 2]
    assert client.ledger.dropped == {}


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_keeps_the_batch_and_waits_one_lease(world: World, status: int) -> None:
    world.gateway.answers = [world.gateway.problem(status)]
    client = await world.open()
    client.predict("upsell", SIGNALS)
    assert await client.flush() == "kept"
    assert client.status().wait_seconds == 21_600
    world.clock.turn(21_601)
    assert await client.flush() == "sent"
    assert len(world.gateway.events("prediction")) == 1


async def test_a_refused_key_is_told_and_another_key_need_not_wait(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.gateway.answers = [world.gateway.problem(401)] * 2
    async with world.client() as client:
        client.predict("upsell", SIGNALS)
        await client.flush()
        assert client.status().trouble == "unknown_key"
        assert "unknown_key" in caplog.text
        assert "21600 s" in caplog.text
    async with world.client() as client:
        assert await client.flush() == "waiting", "the same key"
        directory = client._directory
    other = world.client(app_key="shop.secret2", directory=directory)
    async with other:
        assert await other.flush() == "kept"
        assert len(world.gateway.bodies) == 2, "asked at once"
    client = await world.open()
    assert await client.flush() == "sent"
    assert client.status().trouble == ""


async def test_a_check_that_never_left_the_device_makes_way_for_what_happens_next(world: World) -> None:
    url, world.url = world.url, "http://127.0.0.1:9"  # the port of "discard", where nothing listens
    async with world.client() as client:
        assert await client.flush() == "kept"
        assert client.status().frozen_batch is None
        client.predict("upsell", SIGNALS)
        assert await client.flush() == "waiting"
        world.clock.turn(31)
        assert await client.flush() == "kept"
        assert client.status().frozen_batch is not None, "one with events keeps its identity whatever happened to it"
    world.url = url
    world.clock.turn(3601)
    client = await world.open()
    assert await client.flush() == "sent"
    assert [(batch.seq, len(batch.events)) for batch in world.gateway.batches] == [(1, 1)]


async def test_a_check_that_may_have_arrived_is_sent_again_as_it_was(world: World) -> None:
    client = await world.open()
    world.gateway.cut_next = True
    assert await client.flush() == "kept"
    client.predict("upsell", SIGNALS)
    world.clock.turn(31)
    assert await client.flush() == "sent"
    assert [(batch.seq, len(batch.events)) for batch in world.gateway.batches] == [(1, 0), (1, 0), (2, 1)]


async def test_a_device_says_why_it_does_not_send(world: World) -> None:
    client = await world.open()
    world.gateway.cut_next = True
    await client.flush()
    assert client.status().trouble == "no answer"
    world.clock.turn(31)
    world.gateway.answers = [lambda batch: web.Response(status=502)]
    await client.flush()
    assert client.status().trouble == "status 502"
    world.clock.turn(3601)
    await client.flush()
    assert client.status().trouble == ""


@pytest.mark.parametrize(("status", "reason"), [(400, "malformed"), (415, "unsupported_media")])
async def test_a_batch_that_will_never_be_taken_is_dropped_and_counted(world: World, status: int, reason: str) -> None:
    world.gateway.answers = [world.gateway.problem(status)]
    client = await world.open()
    client.predict("upsell", SIGNALS)
    client.predict("upsell", SIGNALS)
    assert await client.flush() == "dropped"
    assert client.status().queued_events == 0
    client.predict("upsell", SIGNALS)
    await client.flush()
    assert world.gateway.batches[-1].ledger.dropped == {reason: 2}
    assert world.gateway.batches[-1].ledger.produced == 3


async def test_a_batch_too_large_is_halved_until_it_fits(world: World) -> None:
    world.gateway.most_events = 6
    client = await world.open(limits=Limits(jitter_seconds=0))
    for _ in range(20):
        client.predict("upsell", SIGNALS)
    assert await client.flush() == "sent"
    assert [event["id"] for event in world.gateway.events("prediction")] == list(range(1, 21))
    assert sorted(batch.seq for batch in world.gateway.stored.values()) == list(
        range(1, len(world.gateway.stored) + 1)
    ), "a refused batch leaves no gap"
    assert client.ledger.dropped == {}


async def test_one_event_that_is_too_large_alone_is_dropped_and_counted(world: World) -> None:
    world.gateway.most_events = 0
    client = await world.open()
    client.predict("upsell", SIGNALS)
    client.predict("upsell", SIGNALS)
    assert await client.flush() == "dropped"
    assert client.ledger.dropped == {"too_large": 2}
    assert client.status().queued_events == 0
