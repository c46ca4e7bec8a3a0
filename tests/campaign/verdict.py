"""Compare what the devices hold as acknowledged with what the warehouse holds, event by event."""

import gzip
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from clickhouse_connect.driver.asyncclient import AsyncClient
from msgspec import Struct

from tests.campaign.journal import Sent

Place = tuple[str, int]  # batch, index

Content = tuple[str, int, float, float]  # device, prediction id, score, battery level


class Stored(Struct, frozen=True):
    """What the warehouse holds: per event what it says and how often, per batch and dead letter how often."""

    events: dict[Place, Content]
    event_rows: Counter[Place]
    batch_rows: Counter[str]
    letter_rows: Counter[Place]


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
    resends: int
    answered_otherwise: int
    longest_wait_seconds: float

    @property
    def good(self) -> bool:
        wrong = self.unanswered + self.lost + self.doubled + self.strange + self.answered_otherwise
        return (
            wrong + self.letters_lost + self.letters_doubled == 0 and min(self.events, self.refused, self.resends) > 0
        )

    def line(self) -> str:
        """Say it in one line."""
        return (
            f"{'PASSED' if self.good else 'FAILED'}: {self.events} events acknowledged, lost {self.lost}, "
            f"doubled {self.doubled}, never sent {self.strange}, dead letters lost {self.letters_lost} and doubled "
            f"{self.letters_doubled}, of {self.resends} resends {self.answered_otherwise} answered otherwise, "
            f"unanswered batches {self.unanswered}"
        )


async def stored(client: AsyncClient) -> Stored:
    """Read everything back."""
    question = "SELECT toString(batch), `index`, toString(device), id, score, signals['battery_level'] FROM events"
    events = (await client.query(question)).result_rows
    batches = (await client.query("SELECT toString(batch) FROM batches")).result_rows
    letters = (await client.query("SELECT batch, `index` FROM dead_letters WHERE batch != ''")).result_rows
    return Stored(
        events={(batch, index): (device, *content) for batch, index, device, *content in events},
        event_rows=Counter((batch, index) for batch, index, *_ in events),
        batch_rows=Counter(batch for (batch,) in batches),
        letter_rows=Counter((batch, index) for batch, index in letters),
    )


def judge(sent: Sequence[Sent], resends: tuple[int, int], found: Stored) -> Verdict:
    """Return the verdict on what was sent and acknowledged; `resends`: answered in all, and otherwise than before."""
    answered = [each for each in sent if each.refused is not None]
    accepted: dict[Place, Content] = {}
    refused: set[Place] = set()
    for each in answered:
        for index, content in enumerate(contents(each)):
            if index in (each.refused or ()):
                refused.add((each.batch, index))
            else:
                accepted[(each.batch, index)] = content
    return Verdict(
        batches=len(answered),
        events=len(accepted),
        refused=len(refused),
        unanswered=len(sent) - len(answered),
        lost=sum(found.events.get(place) != content for place, content in accepted.items())
        + sum(each.batch not in found.batch_rows for each in answered),
        doubled=_again(found.event_rows) + _again(found.batch_rows),
        strange=len(found.events.keys() - accepted.keys()),
        letters_lost=len(refused - found.letter_rows.keys()),
        letters_doubled=_again(found.letter_rows),
        resends=resends[0],
        answered_otherwise=resends[1],
        longest_wait_seconds=max((each.waited_seconds for each in answered), default=0.0),
    )


def contents(sent: Sent) -> list[Content]:
    """Return what each event of the batch says."""
    events = msgspec.json.decode(gzip.decompress(sent.body))["events"]
    return [(sent.device, event["id"], event["score"], event["signals"][0]) for event in events]


def _again(rows: Counter[Any]) -> int:
    return sum(count - 1 for count in rows.values())
