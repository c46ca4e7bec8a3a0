"""The reports, on rows that the consumer wrote."""

from typing import Any

import pytest

from consumers import migrations
from consumers.reports import Conversion, Counts, Loss, Running, stored_counts, summary
from gateway.clickhouse_server import READER, connect, password_of
from schemas.records import DeadLetter, Told, dead_letter_record

ONE = "6f1c0000-0000-4000-8000-000000000001"
TWO = "6f1c0000-0000-4000-8000-000000000002"


def predicted(number: int, *, release: int = 42, source: str = "ota", decision: bool = True, **more: Any) -> Any:
    about = {"id": number, "t": 1000, "model": "upsell", "release": release, "source": source}
    return {"type": "prediction", "score": 0.5, "decision": decision, **about, **more}


def late(number: int, outcome: str) -> Any:
    return {"type": "outcome", "id": number, "t": 2000, "model": "upsell", "outcome": outcome}


def have(use: int | str) -> Any:
    return {"upsell": {"catalogue": 3, "use": use}}


@pytest.fixture
async def told(log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any) -> Any:
    arm = {"upsell": Told(use=42, arm="challenger", rollout=1)}
    first = [predicted(1), predicted(2, decision=False), predicted(3, outcome="purchased")]
    second = [late(1, "purchased"), predicted(4, release=41, source="bundled"), late(4, "dismissed")]
    third = [predicted(1), {"type": "model", "t": 1, "model": "upsell", "release": 42, "state": "activated"}]
    ledger = {"produced": 9, "dropped": {"queue_full": 2}}
    await log.publish(
        [
            # The second flush arrives first.
            make_batch(events=second, device=ONE, seq=2, have=have(42), ledger=ledger, offer=arm),
            make_batch(events=first, device=ONE, seq=1, have=have(41), ledger={"produced": 3}, offer=arm),
            make_batch(
                events=[*third, "x"], device=TWO, seq=1, have=have("bundled"), ledger={"produced": 3}, refused=(2,)
            ),
            make_batch(events=[predicted(1)], device=ONE, app="other", have=have("none"), ledger={"produced": 1}),
            dead_letter_record(
                DeadLetter(
                    app="shop", received_at=1_795_334_401_000, device=TWO, batch=ONE, index=2,
                    reason="not_an_event", encoding="json", body='"x"',
                )
            ),
        ]
    )  # fmt: skip
    await drain(source, warehouse_client)
    return warehouse_client


async def test_the_summary_of_an_app_adds_up(told: Any) -> None:
    found = await summary(told, "shop")
    assert found.requests == 3
    assert found.events == {"prediction": 5, "outcome": 2, "model": 1}
    assert found.refused == {"not_an_event": 1}
    assert found.devices == [Running("shop", "upsell", "42", 1), Running("shop", "upsell", "bundled", 1)]
    assert found.conversions == [
        Conversion("shop", "upsell", 41, "bundled", "challenger", 1, 1, 0),
        Conversion("shop", "upsell", 42, "ota", "", 1, 1, 0),
        Conversion("shop", "upsell", 42, "ota", "challenger", 3, 2, 2),
    ]
    assert found.conversions[2].rate == 1.0
    assert found.loss == Loss(devices=2, produced=12, dropped={"queue_full": 2}, stored=8, refused=1, waiting=1)


async def test_the_summary_of_all_apps_holds_each(told: Any) -> None:
    found = await summary(told)
    assert found.requests == 4
    assert {row.app for row in found.conversions} == {"other", "shop"}
    assert found.loss.devices == 3


async def test_counts_tell_what_is_stored_and_what_stands_twice(told: Any) -> None:
    assert await stored_counts(told, "shop") == Counts(3, 8, 5, 2, 1, 1, 0)
    assert (await stored_counts(told)).events == 9
    await told.command("INSERT INTO events SELECT * FROM events LIMIT 2", settings={"insert_deduplication_token": "x"})
    assert (await stored_counts(told)).doubled == 2


async def test_reports_of_an_empty_warehouse_are_zeros(warehouse_client: Any) -> None:
    await migrations.apply(warehouse_client, 90)
    assert await stored_counts(warehouse_client) == Counts(0, 0, 0, 0, 0, 0, 0)
    found = await summary(warehouse_client, "none")
    assert (found.requests, found.events, found.conversions, found.loss.produced) == (0, {}, [], 0)


async def test_the_reader_may_run_the_reports(told: Any, clickhouse: Any) -> None:
    reader = await connect(clickhouse.url, READER, password_of(clickhouse.directory, READER), told.database)
    assert (await summary(reader, "shop")).requests == 3
    await reader.close()
