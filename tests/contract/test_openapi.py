"""The described face: the files in the tree, the standards they claim, the vectors they must judge."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import orjson
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # it ships no types
from schemathesis.specs.openapi.definitions import OPENAPI_31

import schemas
from gateway.openapi import batch_schema, openapi
from schemas.wire import Batch

SCHEMAS: Final = Path(schemas.__file__).parent
VECTORS: Final = orjson.loads((SCHEMAS / "vectors" / "batches.json").read_bytes())
BATCH: Final = Draft202012Validator(json.loads(batch_schema()))
# What a schema of one event cannot say: how many signals the batch around it names, and the range of a double.
BEYOND_A_SCHEMA: Final = {"signals_mismatch"}


@pytest.mark.parametrize(("file", "made"), [("openapi.json", openapi), ("batch.schema.json", batch_schema)])
def test_the_file_is_what_the_types_say(file: str, made: Any) -> None:
    assert (SCHEMAS / file).read_bytes() == made(), "run: python -m gateway.openapi"


def test_the_command_writes_nothing_new() -> None:
    before = (SCHEMAS / "openapi.json").read_bytes()
    subprocess.run([sys.executable, "-m", "gateway.openapi"], check=True)
    assert (SCHEMAS / "openapi.json").read_bytes() == before


def test_the_schemas_are_valid_in_their_dialect() -> None:
    Draft202012Validator.check_schema(json.loads(batch_schema()))
    for schema in json.loads(openapi())["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_the_document_is_openapi_3_1_and_every_reference_leads_somewhere() -> None:
    document = json.loads(openapi())
    standard = Draft202012Validator(OPENAPI_31)  # the OpenAPI Initiative's own schema, as schemathesis ships it
    standard.validate(document)
    assert not standard.is_valid({**document, "info": {}})
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for reference in references(document):
        node = document
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        if "mapping" in node:
            yield from node["mapping"].values()
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from references(inner)


def test_no_pattern_is_left_in_python_dialect() -> None:
    assert rb"\\A" not in openapi() + batch_schema()
    assert rb"\\Z" not in openapi() + batch_schema()


def test_the_bounds_of_the_types_are_in_the_schema() -> None:
    schema = json.loads(batch_schema())
    assert schema["properties"]["device"]["pattern"].startswith("^[0-9a-f]{8}-")
    assert set(schema["properties"]) == set(Batch.__struct_fields__)
    score = schema["$defs"]["Prediction"]["properties"]["score"]
    assert (score["minimum"], score["maximum"]) == (0.0, 1.0)
    assert schema["$defs"]["Prediction"]["properties"]["signals"]["maxItems"] == 256
    assert schema["properties"]["seq"]["maximum"] == 2**53 - 1


@pytest.mark.parametrize(
    "vector", [vector for vector in VECTORS["events"] if "event" in vector], ids=lambda vector: vector["name"]
)
def test_the_schema_judges_an_event_as_the_gateway_does(vector: dict[str, Any]) -> None:
    batch = {**VECTORS["envelope"], "events": [vector["event"]]}
    assert BATCH.is_valid(batch) == (vector["reason"] in {None, *BEYOND_A_SCHEMA})


@pytest.mark.parametrize("vector", VECTORS["batches"], ids=lambda vector: vector["name"])
def test_the_schema_takes_a_batch_that_the_gateway_takes_whole(vector: dict[str, Any]) -> None:
    faults = {refusal["reason"] for refusal in vector["refused"]} - BEYOND_A_SCHEMA
    assert BATCH.is_valid(vector["batch"]) == (not faults)
