"""Laws of versions and specifiers; single answers stand in the golden vectors."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.versions import parse_version, satisfies

NUMBERS = st.lists(st.integers(0, 999_999_999), min_size=1, max_size=4)


def text(numbers: list[int]) -> str:
    return ".".join(map(str, numbers))


@given(NUMBERS)
def test_missing_numbers_are_zero(numbers: list[int]) -> None:
    assert parse_version(text(numbers)) == (*numbers, 0, 0, 0)[:4]


@given(NUMBERS, NUMBERS)
def test_exactly_one_of_less_equal_and_greater_holds(one: list[int], other: list[int]) -> None:
    version, bound = text(one), text(other)
    assert [satisfies(version, f"{symbol}{bound}") for symbol in ("<", "==", ">")].count(True) == 1
    assert satisfies(version, f">={bound}") is not satisfies(version, f"<{bound}")
    assert satisfies(version, f"<={bound}") is not satisfies(version, f">{bound}")
    assert satisfies(version, f"!={bound}") is not satisfies(version, f"=={bound}")


@given(NUMBERS, NUMBERS, NUMBERS)
def test_a_list_of_comparisons_holds_when_each_does(version: list[int], low: list[int], high: list[int]) -> None:
    both = satisfies(text(version), f">={text(low)},<{text(high)}")
    assert both is (satisfies(text(version), f">={text(low)}") and satisfies(text(version), f"<{text(high)}"))


@given(st.text(max_size=64))
def test_whatever_a_device_calls_its_version_never_raises(version: str) -> None:
    assert satisfies(version, "") is True
    assert satisfies(version, ">=0") in (True, False)


def test_an_unreadable_specifier_is_the_publishers_mistake() -> None:
    with pytest.raises(ValueError, match="not a comparison"):
        satisfies("2.3", "newest")
