"""What is quoted of the bench is what it printed: in the README, beside the results and in the capacity page.

The sums of the capacity page are checked.
"""

import msgspec
import pytest

from gateway.config import Config
from tests.bench.capacity import Assumed, Fleet, Measured, measured, need
from tests.bench.documents import ASSUMED, documents

GIVEN = msgspec.json.decode(ASSUMED.read_bytes(), type=Assumed)
FOUND = Measured(
    batch_us={0: 50.0, 10: 70.0, 50: 110.0},
    consumer_us=2.0,
    clickhouse_us=6.0,
    sent_bytes_per_event=40.0,
    stored_bytes_per_event=30.0,
    reply_bytes=150.0,
)


def test_every_document_that_quotes_the_bench_is_made_from_the_newest_result() -> None:
    for path, text in documents().items():
        assert path.read_text("utf-8") == text, "run `python -m tests.bench.documents`"


def test_a_launch_sends_one_batch_and_its_time_is_read_between_the_sizes_measured() -> None:
    fleet = Fleet("a", devices=864_000, launches_per_day=2, events_per_day=60)
    its = need(fleet, FOUND, GIVEN)
    assert its.events_per_day == 51_840_000
    assert its.batches_per_second == pytest.approx(20 * GIVEN.peak_to_mean)
    assert its.gateway_busy_cores == pytest.approx(20 * GIVEN.peak_to_mean * 90e-6)  # 30 events: half way from 10 to 50
    assert its.warehouse_busy_cores == pytest.approx(600 * GIVEN.peak_to_mean * 8e-6)
    assert its.kafka_gb == pytest.approx(51_840_000 * 40 * GIVEN.kafka_days * GIVEN.kafka_copies / 1e9)
    assert its.warehouse_gb == pytest.approx(51_840_000 * 30 * GIVEN.warehouse_days / 1e9)


def test_more_events_than_a_batch_holds_are_more_batches_and_sizes_beyond_the_last_go_on_the_same_line() -> None:
    given = msgspec.structs.replace(GIVEN, batch_events=100)
    its = need(Fleet("a", devices=86_400, launches_per_day=1, events_per_day=500), FOUND, given)
    assert its.batches_per_second == pytest.approx(5 * given.peak_to_mean)
    assert its.gateway_busy_cores == pytest.approx(5 * given.peak_to_mean * 160e-6)


def test_a_small_fleet_still_has_what_survives_the_loss_of_one_and_a_large_one_grows_by_what_is_short() -> None:
    small = need(Fleet("a", devices=1, launches_per_day=1, events_per_day=1), FOUND, GIVEN)
    assert (small.gateways, small.shards, small.nodes) == (GIVEN.gateways_least, 1, GIVEN.clickhouse_copies)
    assert small.partitions == GIVEN.partitions_step
    large = need(Fleet("a", devices=10**9, launches_per_day=1, events_per_day=40), FOUND, GIVEN)
    assert large.gateways * GIVEN.gateway_cores * GIVEN.core_share > large.gateway_busy_cores
    disk_gb = large.shards * GIVEN.clickhouse_disk_gb * GIVEN.disk_share
    assert disk_gb >= large.warehouse_gb > disk_gb - GIVEN.clickhouse_disk_gb
    assert large.partitions % GIVEN.partitions_step == 0
    assert large.partitions * GIVEN.core_share >= large.warehouse_busy_cores
    assert large.usd > small.usd
    assert large.usd_per_million_events < small.usd_per_million_events


def test_what_is_assumed_agrees_with_the_defaults_of_the_configuration() -> None:
    config = Config()
    assert config.flush_events == GIVEN.batch_events
    assert config.retention_days == GIVEN.warehouse_days
    assert config.kafka_partitions == GIVEN.partitions_step
    assert config.kafka_replication == GIVEN.kafka_copies
    assert config.kafka_batches_retention_hours == GIVEN.kafka_days * 24
    assert [fleet.devices for fleet in GIVEN.fleets] == [100_000, 1_000_000, 5_000_000, 25_000_000]
    assert GIVEN.fleets[1].devices * GIVEN.fleets[1].events_per_day == 40_000_000


def test_a_result_without_what_a_capacity_needs_is_refused() -> None:
    programs = {"backhaul": {"cpu_us": 100.0}}
    result = {"events": 50, "signals": 12, "other_sizes": {}, "filled": None, "programs": programs}
    with pytest.raises(TypeError):
        measured(result)
