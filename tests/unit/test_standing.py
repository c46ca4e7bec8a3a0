"""What a consumer says about itself: counts that only grow, ages that grow while nothing is heard."""

from consumers.lag import Lag
from consumers.standing import LOG, WAREHOUSE, Standing
from consumers.unpack import UnpackProgress
from consumers.warehouse import Progress
from schemas.topics import BATCHES, DEAD_LETTERS


class Clock:
    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


def lines(standing: Standing) -> set[str]:
    return set(standing.exposition().decode().replace('consumer="warehouse",', "").splitlines())


def test_counts_of_all_partitions_add_up_and_grow_over_lanes_that_begin_again() -> None:
    standing = Standing("warehouse")
    standing.observe(Progress(BATCHES, 0, 10, 0, records=10, events=50, skipped=2))
    standing.observe(Progress(BATCHES, 1, 5, 0, records=5, events=25))
    standing.observe(Progress(BATCHES, 0, 12, 0, records=12, events=60, skipped=2))
    standing.observe(Progress(BATCHES, 0, 12, 0))  # the partition went away and came back
    standing.observe(Progress(BATCHES, 0, 15, 0, records=3, events=15, resends=1))
    standing.observe(Progress(DEAD_LETTERS, 0, 1, 0, records=1))
    found = lines(standing)
    assert 'backhaul_consumer_records_total{topic="batches"} 20.0' in found
    assert 'backhaul_consumer_events_total{topic="batches"} 100.0' in found
    assert 'backhaul_consumer_skipped_total{topic="batches"} 2.0' in found
    assert 'backhaul_consumer_resends_total{topic="batches"} 1.0' in found
    assert 'backhaul_consumer_records_total{topic="dead_letters"} 1.0' in found


def test_trouble_is_told_by_the_part_that_has_it_and_ends_with_it() -> None:
    standing = Standing("warehouse")
    assert standing.trouble() == {}
    standing.wait_for(WAREHOUSE, "no answer")
    standing.observe(Progress(BATCHES, 0, 0, 0, retries=1, trouble="no leader", broken=LOG))
    assert standing.trouble() == {WAREHOUSE: "no answer", LOG: "no leader"}
    assert 'backhaul_consumer_trouble{part="log"} 1.0' in lines(standing)
    standing.wait_for(WAREHOUSE, "")
    standing.observe(Progress(BATCHES, 0, 0, 0, retries=1))
    assert standing.trouble() == {}
    assert 'backhaul_consumer_trouble{part="log"} 0.0' in lines(standing)


def test_ages_grow_while_nothing_more_is_heard() -> None:
    clock = Clock()
    standing = Standing("warehouse", clock)
    standing.observe(Progress(BATCHES, 0, 1, 0, records=1))
    standing.lags = [Lag(BATCHES, 0, 1, 8, records=7, gone=0, oldest_ms=clock.ms - 2000, known=True)]
    clock.ms += 60_000
    found = lines(standing)
    assert 'backhaul_consumer_lag_records{partition="0",topic="batches"} 7.0' in found
    assert 'backhaul_consumer_lag_seconds{partition="0",topic="batches"} 62.0' in found
    assert 'backhaul_consumer_last_write_age_seconds{consumer="warehouse"} 60.0' in found


def test_an_unpacker_is_told_of_in_the_same_words() -> None:
    standing = Standing("unpack")
    standing.observe(UnpackProgress(0, 7, batches=7, events=21, resends=1, retries=2))
    found = standing.exposition().decode().splitlines()
    assert 'backhaul_consumer_records_total{consumer="unpack",topic="batches"} 7.0' in found
    assert 'backhaul_consumer_events_total{consumer="unpack",topic="batches"} 21.0' in found
    assert 'backhaul_consumer_retries_total{consumer="unpack",topic="batches"} 2.0' in found
