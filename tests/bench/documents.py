"""Put the newest result into the documents that quote it: `python -m tests.bench.documents`.

No figure of speed stands in any of them that the bench did not print; a test makes them again and compares.
"""

import sys
from pathlib import Path
from typing import Final

import msgspec

from tests.bench import capacity_page, table
from tests.bench.capacity import Assumed

_ROOT: Final = Path(__file__).resolve().parents[2]
README: Final = _ROOT / "README.md"
AIMS: Final = _ROOT / "tests" / "bench" / "results" / "README.md"
CAPACITY: Final = _ROOT / "deploy" / "CAPACITY.md"
ASSUMED: Final = _ROOT / "deploy" / "capacity.json"
_BEGINS: Final = "<!-- measured: made by python -m tests.bench.documents -->\n"
_ENDS: Final = "<!-- end of measured -->"


def documents() -> dict[Path, str]:
    """Return what each document must be."""
    result = table.newest()
    assumed = msgspec.json.decode(ASSUMED.read_bytes(), type=Assumed)
    return {
        README: _with_table(README.read_text("utf-8"), table.markdown(result)),
        AIMS: table.page(result),
        CAPACITY: capacity_page.page(result, assumed),
    }


def _with_table(text: str, measured: str) -> str:
    before, begins, rest = text.partition(_BEGINS)
    _, ends, after = rest.partition(_ENDS)
    if not begins or not ends:
        raise ValueError(f"README.md has no place for the table: {_BEGINS.strip()} ... {_ENDS}")
    return f"{before}{_BEGINS}{measured}\n{_ENDS}{after}"


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, "utf-8")
        sys.stdout.write(f"written: {path.relative_to(_ROOT)}\n")
