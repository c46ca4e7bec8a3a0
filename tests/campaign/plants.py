"""Break our own code on purpose, in a copy of it: a campaign that does not notice is worth nothing."""

import shutil
from pathlib import Path
from typing import Final

from msgspec import Struct

_ROOMS: Final = ("gateway", "consumers", "schemas")


class Plant(Struct, frozen=True):
    """A text of the code and what stands there instead."""

    file: str
    text: str
    instead: str


PLANTS: Final[dict[str, tuple[Plant, ...]]] = {
    "acknowledge_early": (
        Plant(
            "gateway/ingest.py",
            "await self._publish(taken.records)",
            "__import__('asyncio').get_running_loop().call_later("
            "2.0, lambda: __import__('asyncio').ensure_future(self._publish(taken.records)))",
        ),
    ),
    # A replay then repeats what it should complete: with a lost answer of ClickHouse, in the kafka layout.
    "forget_ranges": (
        Plant(
            "consumers/warehouse/batches.py",
            "own = {item.key for item in fresh if item.origin in stored.get(item.key, ())}",
            "own: set[BatchKey] = set()",
        ),
        Plant("consumers/warehouse/batches.py", "if fresh and (again or own) else set()", "if False else set()"),
        Plant(
            "consumers/warehouse/tables.py",
            '"insert_deduplication_token": token,',
            '"insert_deduplication_token": str(__import__("uuid").uuid4()),',
        ),
    ),
    # What brokers lose of the unpackers' positions then doubles events, in the kafka layout.
    "forget_origins": (Plant("consumers/unpack.py", "if found <= kept:", "if True:"),),
    "forget_resends": (
        Plant("consumers/warehouse/batches.py", "origins = stored.get(document.key)", "origins = None"),
    ),
}


def plant(name: str, root: Path, into: Path) -> Path:
    """Copy the code and break the copy. Raises ValueError where the text to break is not there any more."""
    for room in _ROOMS:
        shutil.copytree(root / room, into / room, ignore=shutil.ignore_patterns("__pycache__"))
    for each in PLANTS[name]:
        path = into / each.file
        source = path.read_text(encoding="utf-8")
        if source.count(each.text) != 1:
            raise ValueError(f"{each.file} has {source.count(each.text)} times: {each.text}")
        path.write_text(source.replace(each.text, each.instead), encoding="utf-8")
    return into
