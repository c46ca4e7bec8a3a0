"""Compare what the devices hold as acknowledged with what the warehouse holds, event by event."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from clickhouse_connect.driver.asyncclient import AsyncClient
from msgspec import Struct

from tests.campaign.journal import Sent

Place = tuple[str, int]  # batch, index

_BY_HOUR: Final = (
    "SELECT app, model, release, count(), countIf(decision) FROM events GROUP BY app, model, release "
    "ORDER BY app, model, release SETTINGS optimize_use_projections = {use}"
)


class Stored(Struct, frozen=True):
    """What the warehouse holds: per event its id and how often, per batch and dead letter how often."""

    events: dict[Place, int]
    event_rows: Counter[Place]
    batch_rows: Counter[str]
    letter_rows: Counter[Place]
    rollups_agree: bool


class Verdict(Struct, frozen=True):
    """The counts that must be zero, and those that must not."""

    batches: int
    events: int
    refused: int
    unanswered: int
    lost: int
    doubled: int
    strange: int
    letters_lost: int
    letters_doubled: int
    rollups_agree: bool
    longest_wait_seconds: float

    @property
    def good(self) -> bool:
        wrong = self.unanswered + self.lost + self.doubled + self.strange + self.letters_lost + self.letters_doubled
        return wrong == 0 and self.rollups_agree and self.events > 0

    def line(self) -> str:
        """Say it in one line."""
        return (
            f"{'PASSED' if self.good else 'FAILED'}: {self.events} events acknowledged, lost {self.lost}, "
            f"doubled {self.doubled}, never sent {self.strange}, dead letters lost {self.letters_lost} and doubled "
            f"{self.letters_doubled}, rollups {'equal to rows' if self.rollups_agree else 'DIFFER from rows'}, "
            f"unanswered batches {self.unanswered}"
        )


async def stored(client: AsyncClient) -> Stored:
    """Read everything back."""
    events = (await client.query("SELECT toString(batch), `index`, id FROM events")).result_rows
    batches = (await client.query("SELECT toString(batch) FROM batches")).result_rows
    letters = (await client.query("SELECT batch, `index` FROM dead_letters WHERE batch != ''")).result_rows
    rolled = [(await client.query(_BY_HOUR.format(use=use))).result_rows for use in (0, 1)]
    return Stored(
        events={(batch, index): number for batch, index, number in events},
        event_rows=Counter((batch, index) for batch, index, _ in events),
        batch_rows=Counter(batch for (batch,) in batches),
        letter_rows=Counter((batch, index) for batch, index in letters),
        rollups_agree=rolled[0] == rolled[1],
    )


def judge(sent: Sequence[Sent], found: Stored) -> Verdict:
    """Return the verdict on what was sent and acknowledged."""
    answered = [each for each in sent if each.refused is not None]
    accepted: dict[Place, int] = {}
    refused: set[Place] = set()
    for each in answered:
        for index, number in enumerate(each.ids):
            if index in (each.refused or ()):
                refused.add((each.batch, index))
            else:
                accepted[(each.batch, index)] = number
    return Verdict(
        batches=len(answered),
        events=len(accepted),
        refused=len(refused),
        unanswered=len(sent) - len(answered),
        lost=sum(found.events.get(place) != number for place, number in accepted.items())
        + sum(each.batch not in found.batch_rows for each in answered),
        doubled=_again(found.event_rows) + _again(found.batch_rows),
        strange=len(found.events.keys() - accepted.keys()),
        letters_lost=len(refused - found.letter_rows.keys()),
        letters_doubled=_again(found.letter_rows),
        rollups_agree=found.rollups_agree,
        longest_wait_seconds=max((each.waited_seconds for each in answered), default=0.0),
    )


def _again(rows: Counter[Any]) -> int:
    return sum(count - 1 for count in rows.values())
