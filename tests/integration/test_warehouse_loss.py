"""The ledgers beside the rows: what adds up, and who is named where it does not."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from consumers import migrations
from consumers.loss import LossReport, loss
from consumers.reports import summary
from schemas.records import REPLAYED_BY, BatchHeaders, batch_headers, batch_record

ONE, TWO, THREE, FOUR, FIVE, SIX = (f"6f1c0000-0000-4000-8000-00000000000{n}" for n in range(1, 7))
NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
YESTERDAY = NOON - timedelta(days=1)

Send = Callable[..., Any]


@pytest.fixture
def sent(make_batch: Any) -> Send:
    """Return a maker of batches: a device's n-th, with so many events, after so many were produced and dropped."""

    def make(
        device: str, seq: int, events: int, produced: int, *, at: datetime = NOON, refused: int = 0, **more: Any
    ) -> Any:
        at_ms = int(at.timestamp() * 1000)
        dropped = more.pop("dropped", {})
        return make_batch(
            device=device,
            seq=seq,
            events=[*({"type": "outcome", "id": i, "t": 1, "model": "m", "outcome": "x"} for i in range(events))],
            ledger={"produced": produced, "dropped": dropped},
            refused=tuple(range(refused)),
            received_at=at_ms,
            sent_at=at_ms,
            **more,
        )

    return make


@pytest.fixture
def told(log: Any, source: Any, warehouse_client: Any, drain: Any) -> Callable[..., Any]:
    """Return a function that stores batches and asks for the report."""

    async def tell(*batches: Any, **options: Any) -> LossReport:
        await log.publish(list(batches))
        await drain(source, warehouse_client)
        return await loss(warehouse_client, **options)

    return tell


async def test_every_day_and_sdk_adds_up(sent: Send, told: Any) -> None:
    found = await told(
        sent(ONE, 1, 5, 8, at=YESTERDAY),  # three are left
        sent(
            ONE, 3, 2, 14, refused=1, dropped={"queue_full": 4, "malformed": 1}, sdk="2.4.0"
        ),  # number 2 was malformed
        sent(ONE, 4, 2, 14, dropped={"queue_full": 4, "malformed": 1}, sdk="2.4.0"),
        sent(TWO, 1, 3, 3),
    )
    rows = [
        (day.sdk, day.day, day.devices, day.batches, day.produced, day.stored, day.refused, day.dropped, day.waiting)
        for day in found.days
    ]
    assert rows == [
        ("2.3.0", YESTERDAY.date(), 1, 1, 8, 5, 0, {}, 3),
        ("2.3.0", NOON.date(), 1, 1, 3, 3, 0, {}, 0),
        ("2.4.0", NOON.date(), 1, 2, 6, 3, 1, {"queue_full": 4, "malformed": 1}, -3),
    ]
    for day in found.days:
        assert day.produced == day.stored + day.refused + sum(day.dropped.values()) + day.waiting
    assert (found.devices, found.waiting, found.missing, found.surplus, found.wrong) == (2, 0, 0, 0, [])


async def test_what_waits_on_a_device_is_no_loss(sent: Send, told: Any) -> None:
    found = await told(sent(ONE, 1, 5, 8), sent(ONE, 2, 5, 20))
    assert (found.waiting, found.missing, found.wrong) == (10, 0, [])


async def test_a_batch_that_was_acknowledged_and_is_not_here_is_named(sent: Send, told: Any) -> None:
    found = await told(
        sent(ONE, 1, 5, 5), sent(ONE, 3, 2, 14), sent(ONE, 4, 1, 15), sent(TWO, 1, 5, 5), sent(TWO, 2, 1, 6)
    )
    assert (found.missing, found.waiting) == (7, 0)
    (wrong,) = found.wrong
    assert (wrong.device, wrong.missing, wrong.gaps, wrong.newest_seq) == (ONE, 7, [(2, 2)], 4)
    assert (wrong.produced, wrong.stored, wrong.refused, wrong.dropped, wrong.waiting) == (15, 8, 0, 0, 7)


async def test_a_check_that_never_came_is_no_lost_event_once_the_queue_was_empty(sent: Send, told: Any) -> None:
    # Number 2 was an update check, whose answer does not wait for the log. Then sixty events came in two batches.
    found = await told(sent(ONE, 1, 5, 5), sent(ONE, 3, 50, 65), sent(ONE, 4, 10, 65), sent(TWO, 2, 0, 0))
    assert (found.devices, found.waiting, found.missing, found.surplus, found.wrong) == (2, 0, 0, 0, [])


async def test_what_waits_beside_a_loss_is_told_apart_once_the_queue_was_short(sent: Send, told: Any) -> None:
    found = await told(sent(ONE, 2, 5, 15), sent(ONE, 3, 5, 15), sent(ONE, 4, 5, 30))
    # The first batch is missing; five are, since so many were left over when the least was.
    assert (found.missing, found.waiting) == (5, 10)
    assert found.wrong[0].gaps == [(1, 1)]


async def test_rows_that_no_ledger_knows_are_a_surplus(sent: Send, told: Any) -> None:
    found = await told(sent(ONE, 1, 5, 5), sent(ONE, 2, 5, 8))
    assert (found.surplus, [wrong.device for wrong in found.wrong]) == (2, [ONE])


async def test_a_restored_backup_is_named(sent: Send, told: Any) -> None:
    found = await told(sent(ONE, 1, 5, 5), sent(ONE, 2, 5, 10), sent(ONE, 2, 3, 8), sent(TWO, 1, 1, 1))
    assert [(wrong.device, wrong.steps_back) for wrong in found.wrong] == [(ONE, 1)]


async def test_a_device_whose_first_batches_expired_is_judged_from_the_first_that_is_here(
    sent: Send, told: Any, warehouse_client: Any
) -> None:
    await told(sent(ONE, 57, 5, 400), sent(ONE, 58, 7, 402), sent(ONE, 60, 1, 410))
    assert (await loss(warehouse_client)).missing > 300  # this warehouse has everything that ever came
    await warehouse_client.command("INSERT INTO migrations (version, name, applied_at) VALUES (0, 'x', '2020-01-01')")
    found = await loss(warehouse_client)
    assert (found.missing, found.waiting, found.surplus) == (7, 0, 0)
    assert [day.produced for day in found.days] == [15]
    ledger = (await summary(warehouse_client)).loss
    assert (ledger.produced, ledger.stored, ledger.waiting, ledger.missing) == (410, 13, 0, 7)
    assert found.wrong[0].gaps == [(59, 59)]


async def test_what_came_back_from_the_dead_letters_is_counted_once(
    sent: Send, told: Any, warehouse_client: Any, make_batch: Any
) -> None:
    batch = sent(ONE, 1, 5, 5, refused=1)
    again = sent(ONE, 1, 1, 5)
    about = batch_headers(again_stored(again))
    replayed = BatchHeaders(
        **{name: getattr(about, name) for name in about.__struct_fields__} | {"gateway": REPLAYED_BY}
    )
    found = await told(batch, batch_record(ONE, again.value, replayed))
    (day,) = found.days
    assert (day.produced, day.stored, day.refused, day.waiting, day.replayed) == (5, 4, 1, 0, 1)
    assert found.wrong == []
    ledger = (await summary(warehouse_client)).loss
    assert (ledger.devices, ledger.produced, ledger.stored, ledger.refused) == (1, 5, 4, 1)


def again_stored(record: Any) -> Any:
    from schemas.records import StoredRecord

    return StoredRecord(record.topic, 0, 0, record.key, record.value, record.headers)


async def test_one_app_and_a_window_of_days(sent: Send, told: Any) -> None:
    days = (datetime.now(UTC).date() - NOON.date()).days + 1  # one more once midnight has passed since the import
    found = await told(
        sent(ONE, 1, 5, 5, app="other"), sent(TWO, 1, 5, 5, at=YESTERDAY), sent(TWO, 2, 1, 6), app="shop", days=days
    )
    assert [(day.app, day.day) for day in found.days] == [("shop", NOON.date())]
    assert found.devices == 1


async def test_devices_that_send_no_ledger_are_counted_apart_and_accuse_nobody(
    sent: Send, told: Any, warehouse_client: Any, make_batch: Any
) -> None:
    bare = {"events": 4, "received_at": int(NOON.timestamp() * 1000)}
    found = await told(
        make_batch(device=TWO, seq=1, **bare),
        make_batch(device=TWO, seq=3, **bare),
        sent(ONE, 1, 5, 8),
        sent(THREE, 1, 0, 0),  # asked for news, and has produced nothing
    )
    assert (found.devices, found.waiting, found.missing, found.surplus, found.wrong) == (2, 3, 0, 0, [])
    assert (found.without_ledger, found.unaccounted) == (1, 8)
    assert [(day.devices, day.produced, day.stored, day.waiting) for day in found.days] == [(2, 8, 5, 3)]
    ledger = (await summary(warehouse_client)).loss
    assert (ledger.devices, ledger.produced, ledger.stored, ledger.waiting, ledger.without_ledger) == (3, 8, 5, 3, 1)


async def test_one_device_with_too_much_hides_nothing_that_waits_on_another(
    sent: Send, told: Any, warehouse_client: Any
) -> None:
    await told(sent(ONE, 1, 5, 2), sent(TWO, 1, 5, 8))
    assert (await summary(warehouse_client)).loss.waiting == 3


async def test_an_empty_warehouse_has_lost_nothing(warehouse_client: Any) -> None:
    await migrations.apply(warehouse_client, 90)
    assert await loss(warehouse_client) == LossReport([], 0, 0, 0, 0, [])
