"""How far a consumer of the embedded log has read: one small JSON file each, `positions/<consumer>.json`.

* Each consumer writes its own file and nothing else, so a stopped consumer can never hold up the log's writer.
* Deleting the file of a consumer that is gone for good lets the log trim what it was kept for.
"""

from typing import Annotated, Final

from msgspec import Meta, Struct

DIRECTORY: Final = "positions"
SUFFIX: Final = ".json"

ConsumerName = Annotated[str, Meta(pattern=r"\A[a-z0-9][a-z0-9_-]{0,63}\Z")]


class Positions(Struct, frozen=True):
    """The next offset to read of each topic that the consumer reads, on the log of that identity."""

    identity: str
    positions: dict[str, Annotated[int, Meta(ge=0)]]
