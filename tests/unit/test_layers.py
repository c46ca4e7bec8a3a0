"""The ways between the rooms: `gateway -> schemas <- consumers`, and pure modules stay pure."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[2]
ROOMS: Final = ("gateway", "consumers", "schemas")
# The rooms that know both sides: they start the processes and show what came of it.
BOTH_SIDES: Final = ("gateway/cli/", "gateway/supervisor/", "gateway/demo/", "gateway/rehearsal/", "gateway/doctor.py")
PURE: Final = (
    "gateway/decode.py",
    "gateway/flush.py",
    "gateway/problems.py",
    "gateway/releases/decide.py",
    "gateway/releases/rules.py",
    "gateway/releases/transitions.py",
    "gateway/client/decision.py",
    "gateway/client/policy.py",
    "gateway/client/state.py",
    "gateway/client/verify.py",
    "gateway/demo/verdict.py",
    "schemas/",
)
IMPURE: Final = {
    "aiohttp",
    "aiokafka",
    "asyncio",
    "clickhouse_connect",
    "multiprocessing",
    "obstore",
    "os",
    "random",
    "secrets",
    "socket",
    "sqlite3",
    "subprocess",
    "threading",
    "time",
    "uuid",
}


def imported(source: str) -> Iterator[str]:
    """Yield every module that the source imports, wherever in the file it stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def breaches(path: str, source: str) -> list[str]:
    """Return a sentence for each import that the layout forbids in the file at `path`."""
    room = path.partition("/")[0]
    forbidden = {"gateway": {"consumers"}, "consumers": {"gateway"}, "schemas": {"gateway", "consumers"}}[room]
    if path.startswith(BOTH_SIDES):
        forbidden = set()
    if path.startswith(PURE):
        forbidden = forbidden | IMPURE
    return [f"{path} imports {name}" for name in imported(source) if name.partition(".")[0] in forbidden]


@cache
def files() -> list[Path]:
    return sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))


def test_no_file_breaks_the_layout() -> None:
    found = [breach for file in files() for breach in breaches(str(file.relative_to(ROOT)), file.read_text())]
    assert found == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("gateway/ingest.py", "from consumers.source import Source"),
        ("consumers/warehouse.py", "import gateway.app"),
        ("schemas/wire.py", "def f():\n    from gateway import app"),
        ("gateway/releases/decide.py", "import time"),
        ("schemas/encoding.py", "import asyncio"),
    ],
)
def test_a_planted_breach_is_found(path: str, source: str) -> None:
    assert breaches(path, source)


def test_every_pure_module_exists() -> None:
    assert [path for path in PURE if not (ROOT / path).exists()] == []


def test_every_file_says_first_why_it_exists() -> None:
    silent = [str(file.relative_to(ROOT)) for file in files() if not ast.get_docstring(ast.parse(file.read_text()))]
    assert silent == []
