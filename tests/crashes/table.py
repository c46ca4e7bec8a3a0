"""What the campaign prints: each update and way with its points, checks and failures, and the verdict."""

from collections.abc import Sequence
from typing import NamedTuple, Self

from tests.crashes.points import Point
from tests.crashes.verdict import Check, Story, judge


class Tried(NamedTuple):
    """What came of one point."""

    point: Point
    reached: bool
    checks: int
    wrong: list[Check]
    starts: int
    forgetful: int

    @classmethod
    def of(cls, story: Story) -> Self:
        """Judge a story."""
        checks = judge(story)
        wrong = [check for check in checks if check.wrong]
        return cls(story.point, story.reached, len(checks), wrong, len(story.fresh), story.forgetful)


def table(tried: Sequence[Tried], planned: int, seconds: int) -> list[str]:
    """Return the lines; the last one is the verdict."""
    lines = [f"{'update':33}{'way':42}{'points':>8}{'reached':>9}{'checks':>8}{'failed':>8}{'starts':>8}"]
    for update, ways in dict.fromkeys((each.point.update.name, _ways(each.point)) for each in _sorted(tried)):
        group = [each for each in tried if (each.point.update.name, _ways(each.point)) == (update, ways)]
        reached, checks = sum(each.reached for each in group), sum(each.checks for each in group)
        failed, starts = sum(len(each.wrong) for each in group), max(each.starts for each in group)
        lines.append(f"{update:33}{ways:42}{len(group):8}{reached:9}{checks:8}{failed:8}{starts:8}")
    forgetful = sum(each.forgetful for each in tried)
    return [
        *lines,
        "",
        "starts: how many fresh ones the slowest point took to the new release; the crashing release gets 4 in a row",
        f"{forgetful} spoiled launches had no disk to open their file on to the end: they answered, and left no trace",
        f"{len(tried)} of the {planned} points planned were tried, in {seconds} s",
        verdict(tried),
    ]


def verdict(tried: Sequence[Tried]) -> str:
    """Return the verdict in one line; nothing tried proves nothing."""
    checks, failed = sum(each.checks for each in tried), sum(len(each.wrong) for each in tried)
    reached = sum(each.reached for each in tried)
    word = "PASSED" if reached and not failed else "FAILED"
    return f"{word}: {checks} checks at {len(tried)} points, {failed} failed"


def _ways(point: Point) -> str:
    return ", then ".join(fault.mode.name for fault in point.faults)


def _sorted(tried: Sequence[Tried]) -> list[Tried]:
    return sorted(tried, key=lambda each: (len(each.point.faults), each.point.update.name, _ways(each.point)))
