"""Compare what the devices hold as acknowledged with what the warehouse and the topic `events` hold, event by event.

* The devices' journal is the measure: which events a gateway must refuse, and why, follows from what was sent.
* Pure: what was found is read back elsewhere (`readback`).
"""

import base64
import gzip
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from schemas.reasons import ENVELOPE_INVALID
from tests.campaign.journal import Sent

Place = tuple[str, int]  # batch, index

Content = tuple[str, int, float, float]  # device, prediction id, score, battery level

_OUT_OF_RANGE: Final = "score_out_of_range"


class Letter(Struct, frozen=True):
    """A dead letter of an event, or of a whole body where there is no device."""

    device: str
    reason: str
    body: str


class Ledger(Struct, frozen=True):
    """What `report loss` says at the end."""

    devices: int = 0
    produced: int = 0
    stored: int = 0
    refused: int = 0
    dropped: int = 0
    unexplained: int = 0  # devices that do not add up, and events missing, too many or still awaited


class Unpacked(Struct, frozen=True):
    """What stands on the topic `events`, and how often each batch must by what `consumers.unpack` promises."""

    events: dict[Place, Content]
    rows: Counter[Place]
    promised: Counter[str]


class Stored(Struct, frozen=True):
    """What the warehouse holds, and what of it stands there how often."""

    events: dict[Place, Content]
    event_rows: Counter[Place]
    batches: dict[str, tuple[str, int, int, int]]  # device, seq, accepted, refused
    batch_rows: Counter[str]
    letters: dict[Place, Letter]
    letter_rows: Counter[Place]
    bodies: Counter[tuple[str, str]]  # reason, body
    rollups_wrong: int
    ledger: Ledger
    unpacked: Unpacked | None = None
    left: int = 0  # records that no consumer has taken yet


class Verdict(Struct, frozen=True):
    """The counts that must be zero, and those that must not."""

    batches: int
    events: int
    refused: int
    malformed: int
    resends: int
    stored: int
    unanswered: int
    left: int
    lost: int
    doubled: int
    strange: int
    wrongly_refused: int
    answered_otherwise: int
    letters: int
    letters_lost: int
    letters_doubled: int
    letters_strange: int
    rollups_wrong: int
    ledgers_wrong: int
    unpacked: int
    unpacked_again: int
    unpacked_lost: int
    unpacked_doubled: int
    longest_wait_seconds: float

    @property
    def wrong(self) -> dict[str, int]:
        """Return what is wrong, by its name in the last line."""
        counts = {
            "lost": self.lost,
            "doubled": self.doubled,
            "never sent": self.strange,
            "wrongly refused": self.wrongly_refused,
            "dead letters lost": self.letters_lost,
            "dead letters doubled": self.letters_doubled,
            "dead letters of nothing": self.letters_strange,
            "rollups wrong": self.rollups_wrong,
            "ledgers wrong": self.ledgers_wrong,
            "unpacked lost": self.unpacked_lost,
            "unpacked doubled": self.unpacked_doubled,
            "answered otherwise": self.answered_otherwise,
            "batches unanswered": self.unanswered,
            "records not taken": self.left,
            "kinds of answers never seen": [self.events, self.refused, self.resends].count(0),
        }
        return {name: count for name, count in counts.items() if count}

    @property
    def good(self) -> bool:
        """Say whether nothing is wrong, and everything was tried."""
        return not self.wrong

    def line(self) -> str:
        """Say it in one line."""
        said = ", ".join(f"{name} {count}" for name, count in self.wrong.items()) or "lost 0, doubled 0"
        return f"{'PASSED' if self.good else 'FAILED'}: {self.events} events acknowledged, {said}"


def judge(sent: Sequence[Sent], resends: tuple[int, int], found: Stored) -> Verdict:
    """Return the verdict on what was sent and acknowledged; `resends`: answered in all, and otherwise than before."""
    answered = [each for each in sent if each.refused is not None]
    batches = [each for each in answered if not each.malformed]
    accepted: dict[Place, Content] = {}
    letters: dict[Place, Letter] = {}
    for each in batches:
        for index, (text, content) in enumerate(contents(each)):
            if index in (each.refused or {}):
                letters[(each.batch, index)] = Letter(each.device, (each.refused or {})[index], text)
            else:
                accepted[(each.batch, index)] = content
    bodies = Counter((ENVELOPE_INVALID, _text_of(each.body)) for each in answered if each.malformed)
    stand = _batches_as_sent(batches)
    unpacked_lost, unpacked_doubled = _unpacked(found.unpacked, accepted)
    return Verdict(
        batches=len(batches),
        events=len(accepted),
        refused=len(letters),
        malformed=bodies.total(),
        resends=resends[0],
        stored=found.event_rows.total(),
        unanswered=len(sent) - len(answered),
        left=found.left,
        lost=_differing(accepted, found.events) + _differing(stand, found.batches),
        doubled=_again(found.event_rows) + _again(found.batch_rows),
        strange=len(found.events.keys() - accepted.keys()) + len(found.batches.keys() - stand.keys()),
        wrongly_refused=sum((each.refused or {}) != _to_refuse(each) for each in batches),
        answered_otherwise=resends[1],
        letters=found.letter_rows.total() + found.bodies.total(),
        letters_lost=_differing(letters, found.letters) + (bodies - found.bodies).total(),
        letters_doubled=_again(found.letter_rows) + _again(found.bodies),
        letters_strange=len(found.letters.keys() - letters.keys()) + len(found.bodies.keys() - bodies.keys()),
        rollups_wrong=found.rollups_wrong,
        ledgers_wrong=_ledgers_wrong(found.ledger, batches, len(accepted), len(letters)),
        unpacked=found.unpacked.rows.total() if found.unpacked else 0,
        unpacked_again=(found.unpacked.rows.total() - len(found.unpacked.rows)) if found.unpacked else 0,
        unpacked_lost=unpacked_lost,
        unpacked_doubled=unpacked_doubled,
        longest_wait_seconds=max((each.waited_seconds for each in answered), default=0.0),
    )


def contents(sent: Sent) -> list[tuple[str, Content]]:
    """Return each event of the batch as it was sent, and what it says."""
    raw = msgspec.json.decode(gzip.decompress(sent.body), type=dict[str, Any])["events"]
    return [
        (_text_of(msgspec.json.encode(event)), (sent.device, event["id"], event["score"], event["signals"][0]))
        for event in raw
    ]


def _text_of(body: bytes) -> str:
    """Return what a dead letter has of a body: JSON as it is, and base64 of what was compressed."""
    return body.decode() if body[:1] == b"{" else base64.b64encode(body).decode()


def _to_refuse(sent: Sent) -> dict[int, str]:
    scores = [score for _, (_, _, score, _) in contents(sent)]
    return {index: _OUT_OF_RANGE for index, score in enumerate(scores) if score > 1}


def _batches_as_sent(batches: Sequence[Sent]) -> dict[str, tuple[str, int, int, int]]:
    stand = {}
    for each in batches:
        refused = len(each.refused or {})
        stand[each.batch] = (each.device, each.seq, len(contents(each)) - refused, refused)
    return stand


def _ledgers_wrong(ledger: Ledger, batches: Sequence[Sent], accepted: int, refused: int) -> int:
    """Count what does not add up. The last batch of each device tells what it has made until then."""
    last = {each.device: each for each in sorted(batches, key=lambda each: each.seq)}.values()
    produced = sum(each.produced for each in last)
    dropped = sum(sum(each.dropped.values()) for each in last)
    told = (ledger.devices, ledger.produced, ledger.stored, ledger.refused, ledger.dropped)
    held = (len(last), produced, accepted, refused, dropped)
    return ledger.unexplained + sum(one != other for one, other in zip(told, held, strict=True))


def _unpacked(found: Unpacked | None, accepted: dict[Place, Content]) -> tuple[int, int]:
    """Return how many records of the topic are missing, or say something else, and how many are too many."""
    if found is None:
        return 0, 0
    lost = _differing(accepted, found.events)
    again = len(found.rows.keys() - accepted.keys())
    for place in accepted:
        promised, there = max(1, found.promised[place[0]]), found.rows[place]
        lost += max(0, promised - there) if there else 0
        again += max(0, there - promised)
    return lost, again


def _differing(held: dict[Any, Any], found: dict[Any, Any]) -> int:
    return sum(found.get(place) != said for place, said in held.items())


def _again(rows: Counter[Any]) -> int:
    return sum(count - 1 for count in rows.values())
