"""What must hold after a point, whatever was done: pure, from what was said, received and left on the device."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from gateway.client.conformance.publisher import MODEL, SCORES
from schemas.wire import Batch, Prediction
from tests.crashes.operations import ENDED
from tests.crashes.phone import Life
from tests.crashes.points import Point

_BATTERY: Final = 0.5
_TOLERANCE: Final = 1e-6
_BUNDLED: Final = 1
_SIGKILL: Final = -9  # how a release of the kit that crashes ends its process
_MOST_CRASHES: Final = 2
_MOST_ARTIFACTS: Final = 2


class Story(NamedTuple):
    """What happened: the launches before, those that were spoiled, the fresh ones, and what was left."""

    point: Point
    before: list[Life]
    faulted: list[Life]
    fresh: list[Life]
    stored: list[Batch]
    breaches: list[str]
    files: list[str]

    @property
    def lives(self) -> list[Life]:
        return [*self.before, *self.faulted, *self.beside, *self.fresh]

    @property
    def beside(self) -> list[Life]:
        """The lives of a second process."""
        return [life.beside for life in self.faulted if life.beside is not None]

    @property
    def last(self) -> dict[str, Any]:
        """The last report of the device."""
        return next((each for life in reversed(self.fresh) for each in life.said if each["did"] == "state"), {})

    @property
    def reached(self) -> bool:
        """Whether the faults came up at all."""
        pairs = zip(self.faulted, self.point.faults, strict=True)
        return all(not fault.mode.ends or life.code == ENDED for life, fault in pairs)

    @property
    def forgetful(self) -> int:
        """How many spoiled launches could not open their file from beginning to end, or to their death."""
        return sum(_device(life) not in ("", self.last.get("device")) for life in self.faulted)


class Check(NamedTuple):
    """A rule and, where it does not hold, what was seen."""

    rule: str
    wrong: str = ""


def judge(story: Story) -> list[Check]:
    """Hold a story against every rule."""
    return [Check(rule, "; ".join(wrong(story))) for rule, wrong in RULES.items()]


def _answers(life: Life) -> list[dict[str, Any]]:
    return [said for said in life.said if said["did"] == "predict"]


def _device(life: Life) -> str:
    """Return under which identity a launch recorded; of a full disk that was never opened, one that is gone with it."""
    return str(next((said["device"] for said in reversed(life.said) if "device" in said), ""))


def _recorded(story: Story, lives: list[Life] | None = None) -> list[int]:
    """Return the numbers of all predictions of which the app was told that they are on disk."""
    kept = [life for life in lives or story.lives if _device(life) == story.last.get("device")]
    return [said["prediction"] for life in kept for said in _answers(life) if said["prediction"] > 0]


def _in_memory(story: Story) -> int:
    """Count the predictions that were in memory when a disk took things again, before the launch was over."""
    pairs = zip(story.faulted, story.point.faults, strict=True)
    return sum(said["prediction"] < 0 for life, fault in pairs if fault.mode.freed for said in _answers(life))


def _received(story: Story) -> list[int]:
    return [event.id for batch in story.stored for event in batch.events if isinstance(event, Prediction)]


def _ends_only_as_told(story: Story) -> Iterator[str]:
    """No exception reaches the app, and no launch ends but by the fault or by a release that crashes."""
    for life, fault in zip(story.faulted, story.point.faults, strict=True):
        allowed = {0} | ({ENDED} if fault.mode.ends else set()) | ({_SIGKILL} if story.point.update.crashes else set())
        if life.code not in allowed:
            yield f"a spoiled launch ended with {life.code}: {life.said[-1:]}"
    for life in story.fresh + story.beside:
        if life.code not in ({0, _SIGKILL} if story.point.update.crashes else {0}):
            yield f"a fresh start ended with {life.code}: {life.said[-1:]}"


def _has_a_model(story: Story) -> Iterator[str]:
    """A fresh start answers at once, by what ran before or by the new release: work on files is no release's crash."""
    allowed = {story.point.update.before or _BUNDLED, story.point.update.offered}
    first = next((_answers(life)[0] for life in story.fresh if _answers(life)), None)
    if first is None or first["release"] not in allowed:
        yield f"the first answer was {first}"


def _runs_what_is_vouched_for(story: Story) -> Iterator[str]:
    """Every answer is by the bundle or by a listed release, and by the very one that it names."""
    vouched = {_BUNDLED, story.point.update.before or _BUNDLED, story.point.update.offered}
    for life in story.lives:
        for said in _answers(life):
            expected = SCORES.get(said["release"], 0.0) + _BATTERY / 100
            if said["release"] not in vouched or abs(said["score"] - expected) > _TOLERANCE:
                yield f"release {said['release']} answered {said['score']}"


def _keeps_what_it_said(story: Story) -> Iterator[str]:
    """A release that has answered on the record answers after one fault, too."""
    if len(story.faulted) != 1 or story.point.update.crashes:
        return
    spoiled = _answers(story.faulted[0])
    switched = bool(spoiled) and spoiled[-1]["release"] == story.point.update.offered and spoiled[-1]["prediction"]
    first = next((said for life in story.fresh[:1] for said in _answers(life)), {})
    if switched and first.get("release") != story.point.update.offered:
        yield f"{story.point.update.offered} had answered, then release {first.get('release')}"


def _keeps_its_identity(story: Story) -> Iterator[str]:
    """The device is the same throughout, and no number is given twice."""
    devices = {batch.device for batch in story.stored} | {
        _device(life) for life in story.before + story.beside + story.fresh
    }
    if len(devices - {""}) > 1:
        yield f"it was {len(devices - {''})} devices"
    yield from (f"number {n} was given {times} times" for n, times in Counter(_recorded(story)).items() if times > 1)


def _loses_nothing(story: Story) -> Iterator[str]:
    """What was recorded arrives, or still waits at the end."""
    missing = set(_recorded(story)) - set(_received(story))
    if len(missing) > story.last.get("queued", 0):
        yield f"predictions {sorted(missing)} are missing, {story.last.get('queued')} events wait"
    older = missing & set(_recorded(story, story.before + story.faulted + story.beside))
    if older and not story.point.update.crashes:
        yield f"predictions {sorted(older)} of before the fresh starts never arrived"


def _takes_up_what_was_in_memory(story: Story) -> Iterator[str]:
    """A launch that could not open its file moves into it when it can: what it recorded arrives, or is counted."""
    known = len(set(_received(story)) | set(_recorded(story)))
    told = len(_recorded(story)) + _in_memory(story)
    if told > known + sum(story.last.get("ledger", {}).get("dropped", {}).values()):
        yield f"{told} predictions were recorded, {_in_memory(story)} of them in memory, {known} are known"


def _receives_nothing_twice(story: Story) -> Iterator[str]:
    """Each prediction arrives in one batch only, and the batches' numbers have no gap."""
    yield from (f"prediction {n} arrived {times} times" for n, times in Counter(_received(story)).items() if times > 1)
    seqs = sorted(batch.seq for batch in story.stored)
    if seqs != list(range(1, len(seqs) + 1)):
        yield f"batches are numbered {seqs}"


def _adds_up(story: Story) -> Iterator[str]:
    """Produced is received, queued or dropped."""
    ledger = story.last.get("ledger", {"produced": -1})
    dropped = sum(ledger.get("dropped", {}).values())
    received = sum(len(batch.events) for batch in story.stored)
    if ledger["produced"] != received + story.last.get("queued", 0) + dropped:
        yield f"{ledger} with {received} received and {story.last.get('queued')} queued"


def _counts_what_it_drops(story: Story) -> Iterator[str]:
    """Ends cost no event; what a disk refused while the app ran on is counted, once the disk takes it again."""
    dropped = sum(story.last.get("ledger", {}).get("dropped", {}).values())
    locked = story.point.update.beside  # a busy machine may let one process wait too long for the other's commit
    if dropped and all(fault.mode.ends for fault in story.point.faults) and not locked:
        yield f"{dropped} events were dropped though no disk refused anything"
    unrecorded = 0
    for life, fault in zip(story.faulted, story.point.faults, strict=True):
        if fault.mode.freed and _device(life) == story.last.get("device"):
            unrecorded += sum(not said["prediction"] for said in _answers(life))
    if unrecorded > dropped:
        yield f"{unrecorded} predictions could not be recorded, {dropped} are counted"


def _gets_there(story: Story) -> Iterator[str]:
    """The new release runs after so many fresh starts; one that crashes never does, and its predecessor answers."""
    update, runs = story.point.update, story.last.get("models", {}).get(MODEL, {}).get("release")
    if not update.crashes and runs != update.offered:
        yield f"after {len(story.fresh)} fresh starts release {runs} runs"
    if update.crashes and (story.fresh[-1].code or runs not in (update.before, _BUNDLED)):
        yield f"at last release {runs} runs, and the start ended with {story.fresh[-1].code}"


def _crashes_twice_at_most(story: Story) -> Iterator[str]:
    crashes = sum(life.code == _SIGKILL for life in story.lives)
    if crashes > (_MOST_CRASHES if story.point.update.crashes else 0):
        yield f"{crashes} starts crashed"


def _leaves_nothing_behind(story: Story) -> Iterator[str]:
    """Two artifacts at most, nothing unfinished and nothing set aside as damaged."""
    models = [name for name in story.files if name.startswith("models/")]
    unfinished = [name for name in story.files if name.endswith(".new") or name.startswith("parts/")]
    damaged = [name for name in story.files if "damaged" in name]
    if len(models) > _MOST_ARTIFACTS or (unfinished and not story.point.update.crashes) or damaged:
        yield f"left: {models + unfinished + damaged}"


def _keeps_the_contract(story: Story) -> Iterator[str]:
    yield from story.breaches


RULES: Final = {
    "no launch ends but by the fault": _ends_only_as_told,
    "a fresh start has a model": _has_a_model,
    "what answers is vouched for": _runs_what_is_vouched_for,
    "an acknowledged switch stays": _keeps_what_it_said,
    "one identity, no number twice": _keeps_its_identity,
    "no recorded event is lost": _loses_nothing,
    "what was in memory is taken up": _takes_up_what_was_in_memory,
    "no event arrives twice": _receives_nothing_twice,
    "the ledger adds up": _adds_up,
    "what is dropped is counted": _counts_what_it_drops,
    "the new release is reached": _gets_there,
    "two crashing starts at most": _crashes_twice_at_most,
    "nothing is left behind": _leaves_nothing_behind,
    "the gateway can take it all": _keeps_the_contract,
}
