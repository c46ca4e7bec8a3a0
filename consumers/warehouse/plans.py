"""Name the ranges of the log that are written as one: a plan, its lane and its tokens."""

from msgspec import Struct

from schemas.records import StoredRecord


class Lane(Struct, frozen=True):
    """One partition of one topic of one log; `log` is the log's identity, so a log made anew is another lane."""

    log: str
    topic: str
    partition: int


class Plan(Struct, frozen=True):
    """A range of a lane, both ends included, that is written as a whole."""

    lane: Lane
    first: int
    last: int

    @property
    def key(self) -> str:
        """Return what all plans that could follow the same range share: the token of the compare-and-set."""
        return f"{self.lane.log}:{self.lane.topic}:{self.lane.partition}:{self.first}"

    @property
    def token(self) -> str:
        """Return the token of every insert of this range."""
        return f"{self.key}-{self.last}"


class Origin(Struct, frozen=True):
    """Where a record stands: what tells a record handed out again from a batch sent again."""

    log: str
    topic: str
    partition: int
    offset: int


def origin_of(lane: Lane, record: StoredRecord) -> Origin:
    """Return the record's place, across logs."""
    return Origin(lane.log, record.topic, record.partition, record.offset)
