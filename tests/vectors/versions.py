"""Write `schemas/vectors/versions.json`: which texts are versions, and which specifiers they meet.

* `python tests/vectors/versions.py` writes the file again; a test compares it with what this makes.
* Every answer is stated here by hand.
"""

import json
from pathlib import Path
from typing import Any, Final

DIRECTORY: Final = Path(__file__).resolve().parents[2] / "schemas" / "vectors"

Json = dict[str, Any]


def versions() -> Json:
    about = (
        "parse: `version` are the four numbers of `text`, null where it is not a version. satisfies: whether `version` "
        "meets `specifier`; a version that cannot be read meets only the empty one. bad_specifiers: not specifiers."
    )
    parsed: list[tuple[str, list[int] | None]] = [
        ("2", [2, 0, 0, 0]), ("2.3", [2, 3, 0, 0]), ("2.3.4", [2, 3, 4, 0]), ("2.3.4.5", [2, 3, 4, 5]),
        ("2.3.0-beta.1", [2, 3, 0, 0]), ("2.3+build7", [2, 3, 0, 0]), (" 2.3 ", [2, 3, 0, 0]), ("02.03", [2, 3, 0, 0]),
        ("999999999", [999999999, 0, 0, 0]), ("", None), ("v2", None), ("2.", None), (".2", None), ("2..3", None),
        ("2.3.4.5.6", None), ("2.3beta", None), ("-1", None), ("1e3", None), ("1000000000", None), ("٢.٣", None),
    ]  # fmt: skip
    satisfied: list[tuple[str, str, bool]] = [
        ("2.3.0", "", True), ("dev", "", True), ("dev", ">=0", False), ("", ">=0", False), ("2.3.0", ">=2.3", True),
        ("2.2.9", ">=2.3", False), ("2.10.0", ">=2.9", True), ("2.9.9", ">=2.3,<3", True), ("3.0.0", ">=2.3,<3", False),
        ("2.3", "==2.3.0.0", True), ("2.3.1", "==2.3", False), ("2.3.1", "!=2.3", True), ("2.3", ">2.3", False),
        ("2.3.0.1", ">2.3", True), ("2.3", "<=2.3", True), ("2.3.0-beta", ">=2.3", True),
        ("2.3", " >= 2.3 , < 3 ", True),
        ("2.3", ">=2.3,", True), ("2.3", ",", True), ("2.3", ">=2,>=3", False),
    ]  # fmt: skip
    return {
        "about": about,
        "parse": [{"text": given, "version": version} for given, version in parsed],
        "satisfies": [{"version": v, "specifier": s, "holds": holds} for v, s, holds in satisfied],
        "bad_specifiers": ["2.3", "~=2.3", ">=x", ">=", "=>2", ">=2.3 <3", ">=2.3;<3", "=2.3", ">=2.*", "iOS >=17"],
    }


def rendered(vectors: Json) -> str:
    return json.dumps(vectors, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (DIRECTORY / "versions.json").write_text(rendered(versions()), encoding="utf-8")
