"""Documents that say a key twice: whose value is stored is not promised, that it is within the wire's bounds is.

The gateway's reader checks each value by itself and takes the last, ClickHouse's takes the first that fits the column.
Each event that the gateway accepts is one row.
"""

import random
from typing import Any

import pytest

from schemas.reading import read_batch
from schemas.records import Malformed

HEAD = b'{"device":"DEVICE","batch":"BATCH","seq":7,"sent_at":1795334400123,"sdk":"2.3.0","signals":{"m":["a","b"]}'
OUTCOME = b'{"type":"outcome","id":8,"t":1795334400123,"model":"m","outcome":"x"}'
VALUES = {
    "id": [b"8", b"18446744073709551615", b"-1", b'"8"', b"1e30", b"null"],
    "t": [b"1795334400123", b"0", b"-5", b"10413791999999", b"10413792000000", b'"x"', b"[]"],
    "model": [b'"m"', b'""', b'"' + b"x" * 65 + b'"', b"7", b"null"],
    "release": [b"3", b"4294967296", b"-1", b'"ota"'],
    "source": [b'"ota"', b'"bundled"', b'"elsewhere"', b'""', b"1"],
    "score": [b"0.5", b"1", b"7", b"-0.1", b"1e999", b'"x"', b"null"],
    "decision": [b"true", b"false", b'"true"', b"2"],
    "propensity": [b"0.95", b"0", b"2", b"-1", b'"x"'],
    "latency_us": [b"312", b"-1", b"1e10"],
    "signals": [b"[0.5,null]", b"[]", b"[1,2,3]", b'["x","y"]', b"{}", b"null"],
    "outcome": [b'"purchased"', b"null", b"5"],
    "value": [b"1.5", b"null", b"1e999", b'"x"'],
}
BOUNDS = """
    type = 'prediction' AND score BETWEEN 0 AND 1 AND propensity BETWEEN 0 AND 1 AND model != ''
    AND lengthUTF8(model) <= 64 AND source IN ('ota', 'bundled', 'previous', 'none')
    AND t BETWEEN fromUnixTimestamp64Milli(0, 'UTC') AND fromUnixTimestamp64Milli(10413791999999, 'UTC')
    AND mapKeys(signals) IN ([], ['a', 'b']) AND isFinite(ifNull(value, 0))
"""


def twisted(dice: random.Random) -> bytes:
    """Return a prediction that is good by its last values, and says anything before them."""
    good = {name: values[0] for name, values in VALUES.items()}
    pairs = [(name, dice.choice(VALUES[name])) for name in dice.choices(list(VALUES), k=dice.randrange(1, 5))]
    said = [("type", b'"prediction"'), *pairs, *good.items()]
    return b"{" + b",".join(b'"' + name.encode() + b'":' + value for name, value in said) + b"}"


def accepted(make_batch: Any, stored: Any, dice: random.Random, count: int) -> list[bytes]:
    """Return so many events that the gateway's reader takes."""
    found: list[bytes] = []
    while len(found) < count:
        event = twisted(dice)
        try:
            read_batch(stored(make_batch(document=HEAD + b',"events":[' + event + b"]}", expected=1), 0))
        except Malformed:
            continue
        found.append(event)
    return found


@pytest.mark.parametrize("seed", range(5))
async def test_every_event_with_repeated_keys_is_one_row_within_the_bounds(
    log: Any,
    source: Any,
    warehouse_client: Any,
    make_batch: Any,
    stored: Any,
    drain: Any,
    each_once: Any,
    ask: Any,
    seed: int,
) -> None:
    dice = random.Random(seed)  # noqa: S311 - test data
    for _ in range(3):
        events = [b",".join(accepted(make_batch, stored, dice, 5)) for _ in range(4)]
        await log.publish([make_batch(document=HEAD + b',"events":[' + each + b"]}", expected=5) for each in events])
        await drain(source, warehouse_client)
    assert await each_once(warehouse_client) == (12, 60)
    assert await ask(warehouse_client, "SELECT count() FROM dead_letters") == [(0,)]
    outside = f"SELECT * FROM events WHERE NOT ({BOUNDS})"  # noqa: S608 - a constant
    assert await ask(warehouse_client, outside) == []


async def test_of_two_lists_of_as_many_events_one_is_stored_whole(
    log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any, ask: Any
) -> None:
    other = OUTCOME.replace(b'"id":8', b'"id":9')
    await log.publish(
        [make_batch(document=HEAD + b',"events":[' + other + b'],"events":[' + OUTCOME + b"]}", expected=1)]
    )
    await drain(source, warehouse_client)
    assert await ask(warehouse_client, "SELECT `index`, type, id FROM events") == [(0, "outcome", 9)]
    assert await ask(warehouse_client, "SELECT accepted FROM batches") == [(1,)]
