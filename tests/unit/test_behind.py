"""What a lag means to an operator: rest, a warning, or records that are lost or soon will be."""

import time

from consumers.lag import Lag
from gateway.config import Config
from gateway.supervisor.behind import judged
from schemas.topics import BATCHES, DEAD_LETTERS

KAFKA = Config(kafka_bootstrap="127.0.0.1:1", kafka_batches_retention_hours=10, lag_warn_seconds=60)
FILE = Config(lag_warn_seconds=60)


def lag(waits_seconds: float | None = None, *, records: int = 5, gone: int = 0, topic: str = BATCHES) -> Lag:
    since = None if waits_seconds is None else int((time.time() - waits_seconds) * 1000)
    return Lag(topic, 0, 3, 3 + records, records, gone, since, known=True)


def test_records_that_came_a_moment_ago_are_no_news() -> None:
    found = judged(KAFKA, [lag(5), lag(records=0, topic=DEAD_LETTERS)], "")
    assert (found.state, found.text) == ("ok", "5 records wait, the oldest for 5 s")
    assert judged(KAFKA, [lag(records=0)], "").text == "nothing waits"


def test_records_that_wait_for_long_are_a_warning_and_so_is_what_the_consumer_says() -> None:
    assert judged(KAFKA, [lag(5), lag(61)], "").state == "warn"
    found = judged(KAFKA, [lag(5)], "warehouse: no answer")
    assert (found.state, found.text) == ("warn", "5 records wait, the oldest for 5 s; warehouse: no answer")


def test_records_that_kafka_deletes_soon_are_a_failure_and_a_file_deletes_none() -> None:
    found = judged(KAFKA, [lag(6 * 3600)], "")
    assert found.state == "fail"
    assert "Kafka deletes them 10 h after they came" in found.advice
    assert judged(FILE, [lag(6 * 3600)], "").state == "warn"
    assert judged(KAFKA, [lag(6 * 3600, topic=DEAD_LETTERS)], "").state == "warn"


def test_records_that_were_deleted_unread_are_a_failure() -> None:
    found = judged(KAFKA, [lag(5, gone=4), lag(5, gone=3)], "")
    assert found.state == "fail"
    assert found.text.startswith("7 records were deleted before they were read")
