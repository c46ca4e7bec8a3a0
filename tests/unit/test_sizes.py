"""The house's sizes: a file that grows past them is two rooms, a function past them two steps."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
ROOMS: Final = ("gateway", "consumers", "schemas", "deploy", "tests")
FILE_LINES: Final = 400
FUNCTION_LINES: Final = 50


def too_large(source: str) -> Iterator[str]:
    """Yield a sentence for the source and for each of its functions that has too many lines."""
    lines = source.count("\n")
    if lines > FILE_LINES:
        yield f"it has {lines} lines, of {FILE_LINES}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield f"{node.name} has {lines} lines, of {FUNCTION_LINES}"


def test_no_file_and_no_function_is_too_large() -> None:
    files = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))
    assert len(files) > 100
    assert [f"{file.relative_to(ROOT)}: {what}" for file in files for what in too_large(file.read_text())] == []


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\n" * 400, []),
        ("x = 1\n" * 401, ["it has 401 lines, of 400"]),
        ("def f():\n" + "    x = 1\n" * 49, []),
        ("async def f():\n" + "    x = 1\n" * 50, ["f has 51 lines, of 50"]),
    ],
)
def test_what_is_too_large_is_named(source: str, said: list[str]) -> None:
    assert list(too_large(source)) == said
