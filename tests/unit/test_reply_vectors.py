"""The golden vectors of replies and refusals, held against the types and the closed list of reasons."""

from pathlib import Path
from typing import Any, Final

import msgspec
import orjson
import pytest

from schemas import reasons
from schemas.wire import Reply

VECTORS: Final = Path(reasons.__file__).parent / "vectors"
REFUSAL_VECTORS: Final = orjson.loads((VECTORS / "refusals.json").read_bytes())
REPLY_VECTORS: Final = orjson.loads((VECTORS / "replies.json").read_bytes())


def test_the_vectors_show_every_reason_and_what_the_device_does() -> None:
    requests = REFUSAL_VECTORS["requests"]
    assert {vector["dead_letter"] for vector in requests} - {None} == reasons.BODY_REASONS
    does = {400: "drop", 401: "keep", 403: "keep", 413: "split", 415: "drop"}
    assert all(vector["device"] == does[vector["status"]] for vector in requests)


@pytest.mark.parametrize(
    "vector", [v for v in REPLY_VECTORS["replies"] if v["gateway_writes"]], ids=lambda vector: vector["name"]
)
def test_a_reply_is_written_as_its_vector_says(vector: dict[str, Any]) -> None:
    said = {name: value for name, value in vector["means"].items() if value not in ([], {})}
    assert msgspec.json.encode(msgspec.convert(said, Reply)).decode() == vector["text"]


@pytest.mark.parametrize("vector", REPLY_VECTORS["replies"], ids=lambda vector: vector["name"])
def test_a_device_reads_a_reply_as_its_vector_says(vector: dict[str, Any]) -> None:
    said = {name: value for name, value in vector["means"].items() if value not in ([], {})}
    assert msgspec.json.decode(vector["text"], type=Reply) == msgspec.convert(said, Reply)
