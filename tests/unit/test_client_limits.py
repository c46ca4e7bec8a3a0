"""The client's bounds: checked when they are made, and obeyed where they say."""

import pytest

from gateway.client import Limits
from gateway.client.limits import FIELDS
from schemas.wire import Flush


def test_every_bound_has_a_default_within_its_own_bounds() -> None:
    assert Limits(**{name: field.default for name, field in FIELDS.items()}) == Limits()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"queue_events": 0}, "queue_events must be a whole number from 1 to 1000000, not 0"),
        ({"queue_events": 1.5}, "queue_events must be a whole number"),
        ({"jitter_seconds": -1.0}, "jitter_seconds must be a number from 0 to 31536000, not -1.0"),
        ({"request_seconds": "30"}, "request_seconds must be a number"),
        ({"patch_window_bytes": 0}, "patch_window_bytes must be a whole number from 1024"),
    ],
)
def test_a_bound_out_of_its_bounds_is_told_when_it_is_made(changes: dict[str, int], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Limits(**changes)


def test_the_first_policy_is_the_contracts_unless_the_app_says_otherwise() -> None:
    assert Limits().first_flush == Flush(events=50, seconds=300, lease_seconds=21_600)
    assert Limits(first_flush_events=5, first_lease_seconds=60).first_flush == Flush(5, 300, 60)
