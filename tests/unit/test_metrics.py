"""What is counted, and how long a stall is remembered."""

import asyncio
from contextlib import suppress

from gateway.metrics import STALL_WINDOW_SECONDS, Metrics, Stalls
from gateway.problems import spread
from schemas.wire import Refusal


def test_each_event_is_counted_under_one_outcome() -> None:
    metrics = Metrics()
    metrics.settle(10, [Refusal(1, "id_missing"), Refusal(3, "id_missing"), Refusal(4, "not_an_object")])
    text = metrics.exposition().decode()
    assert 'backhaul_events_total{outcome="accepted",reason=""} 7.0' in text
    assert 'backhaul_events_total{outcome="refused",reason="id_missing"} 2.0' in text
    assert 'backhaul_events_total{outcome="refused",reason="not_an_object"} 1.0' in text


def test_two_gateways_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()
    first.settle(1, [])
    assert 'outcome="accepted",reason=""} 0.0' in second.exposition().decode()


def test_what_others_know_is_asked_for_when_it_is_looked_at() -> None:
    metrics = Metrics()
    values = {"log_bytes": 1.0}
    metrics.watch("age_seconds", "an age", lambda: values["log_bytes"] * 2)
    metrics.watch_all("sink", lambda: values)
    values["log_bytes"] = 5.0
    values["log_records"] = 7.0
    lines = metrics.exposition().decode().splitlines()
    assert {"backhaul_age_seconds 10.0", "backhaul_sink_log_bytes 5.0", "backhaul_sink_log_records 7.0"} <= set(lines)


def test_the_longest_stall_is_remembered_for_one_to_two_windows() -> None:
    stalls = Stalls()
    stalls.record(0.5, at_seconds=1.0)
    stalls.record(0.1, at_seconds=2.0)
    assert stalls.longest_seconds() == 0.5
    stalls.record(0.2, at_seconds=1.0 + STALL_WINDOW_SECONDS)
    assert stalls.longest_seconds() == 0.5
    stalls.record(0.0, at_seconds=1.0 + 2 * STALL_WINDOW_SECONDS)
    assert stalls.longest_seconds() == 0.2
    stalls.record(0.0, at_seconds=1.0 + 9 * STALL_WINDOW_SECONDS)
    assert stalls.longest_seconds() == 0.0


async def test_a_loop_that_is_not_free_is_seen() -> None:
    stalls = Stalls()
    watching = asyncio.create_task(stalls.observe())
    loop = asyncio.get_running_loop()
    while stalls.longest_seconds() < 0.2:
        await asyncio.sleep(0)
        busy_until = loop.time() + 0.35
        while loop.time() < busy_until:
            pass
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching


def test_waits_are_spread_between_once_and_twice() -> None:
    assert [spread(5.0, roll) for roll in (0.0, 0.5, 0.999)] == [5, 8, 10]
    assert spread(0.1, 0.0) == 1
