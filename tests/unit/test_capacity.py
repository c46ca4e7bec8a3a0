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
    batch_us={10: 70.0, 50: 110.0},
    kept_bytes={10: 600.0, 50: 2200.0},
    consumer_us=2.0,
    clickhouse_us=6.0,
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
    assert its.gateway_cores == pytest.approx(20 * GIVEN.peak_to_mean * 90e-6)  # 30 events: half way from 10 to 50
    assert its.consumer_cores == pytest.approx(600 * GIVEN.peak_to_mean * 2e-6)
    assert its.clickhouse_cores == pytest.approx(600 * GIVEN.peak_to_mean * 6e-6)
    day_gb = 1_728_000 * 1400 / 1e9
    assert its.kafka_gb == pytest.approx(day_gb * GIVEN.kafka_days * GIVEN.kafka_copies)
    assert its.warehouse_gb == pytest.approx(51_840_000 * 30 * GIVEN.warehouse_days * GIVEN.clickhouse_copies / 1e9)
    spools_gb = its.gateways * GIVEN.spool_gib * 2**30 / 1e9
    assert its.spool_hours == pytest.approx(24 * spools_gb / (day_gb * GIVEN.peak_to_mean))
    out_gb = 1_728_000 * 30 * (150 + GIVEN.connection_bytes_out) / 1e9
    assert its.usd_out == pytest.approx(out_gb * GIVEN.usd_per_gb_out)


def test_more_events_than_a_batch_holds_are_more_batches_and_sizes_beyond_the_last_go_on_the_same_line() -> None:
    given = msgspec.structs.replace(GIVEN, batch_events=100)
    its = need(Fleet("a", devices=86_400, launches_per_day=1, events_per_day=500), FOUND, given)
    assert its.batches_per_second == pytest.approx(5 * given.peak_to_mean)
    assert its.gateway_cores == pytest.approx(5 * given.peak_to_mean * 160e-6)


def test_a_small_fleet_still_has_what_survives_the_loss_of_one_and_a_large_one_grows_by_what_is_short() -> None:
    small = need(Fleet("a", devices=1, launches_per_day=1, events_per_day=1), FOUND, GIVEN)
    assert (small.gateways, small.shards, small.nodes) == (GIVEN.gateways_least, 1, GIVEN.clickhouse_copies)
    assert small.partitions == GIVEN.partitions_step
    large = need(Fleet("a", devices=10**9, launches_per_day=1, events_per_day=40), FOUND, GIVEN)
    assert (large.gateways - 1) * GIVEN.gateway_cores * GIVEN.core_share > large.gateway_cores
    assert (large.consumers - 1) * GIVEN.core_share > large.consumer_cores
    assert GIVEN.clickhouse_cores * GIVEN.core_share >= large.clickhouse_cores
    disks_gb = large.nodes * GIVEN.clickhouse_disk_gb * GIVEN.disk_share
    assert disks_gb >= large.warehouse_gb > disks_gb - GIVEN.clickhouse_copies * GIVEN.clickhouse_disk_gb
    assert large.partitions % GIVEN.partitions_step == 0 == large.partitions % large.shards
    assert large.partitions * GIVEN.core_share >= large.consumer_cores + large.shards * large.clickhouse_cores
    assert large.usd > small.usd
    assert large.usd_per_million_events < small.usd_per_million_events


def test_batches_smaller_than_any_that_was_measured_go_on_the_same_line() -> None:
    its = need(Fleet("a", devices=86_400, launches_per_day=1, events_per_day=5), FOUND, GIVEN)
    assert its.gateway_cores == pytest.approx(GIVEN.peak_to_mean * 65e-6)
    assert its.kafka_gb == pytest.approx(86_400 * 400 * GIVEN.kafka_days * GIVEN.kafka_copies / 1e9)


def test_what_is_assumed_agrees_with_the_defaults_of_the_configuration() -> None:
    config = Config()
    assert config.flush_events == GIVEN.batch_events
    assert config.retention_days == GIVEN.warehouse_days
    assert config.kafka_partitions == GIVEN.partitions_step
    assert config.spool_max_bytes == GIVEN.spool_gib * 2**30
    assert config.kafka_replication == GIVEN.kafka_copies
    assert config.kafka_batches_retention_hours == GIVEN.kafka_days * 24
    assert [fleet.devices for fleet in GIVEN.fleets] == [100_000, 1_000_000, 5_000_000, 25_000_000]
    assert GIVEN.fleets[1].devices * GIVEN.fleets[1].events_per_day == 40_000_000


def test_an_update_check_is_no_point_of_the_lines_and_older_results_have_the_bytes_as_sent() -> None:
    result = {
        "events": 50,
        "signals": 12,
        "other_sizes": {"0": {"backhaul": {"cpu_us": 30.0}}, "10": {"backhaul": {"cpu_us": 70.0}}},
        "programs": {"backhaul": {"cpu_us": 110.0}},
        "bytes_per_event": {"12 signals": 44.0},
        "beside": {"reply_bytes": 150.0},
        "filled": {"consumer_us": 2.0, "clickhouse_us": 6.0, "stored_bytes_per_event": 30.0},
    }
    assert measured(result) == msgspec.structs.replace(FOUND, kept_bytes={50: 2200.0})
    kept = {"0": 300.0, "10": 600.0, "50": 2200.0}
    assert measured(result | {"kept_bytes": kept}) == FOUND
    assert need(GIVEN.fleets[0], measured(result), GIVEN).kafka_gb > 0


def test_a_result_without_what_a_capacity_needs_is_refused() -> None:
    result = {
        "events": 50,
        "signals": 12,
        "other_sizes": {},
        "programs": {"backhaul": {"cpu_us": 100.0}},
        "bytes_per_event": {"12 signals": 40.0},
        "filled": None,
    }
    with pytest.raises(TypeError):
        measured(result)
