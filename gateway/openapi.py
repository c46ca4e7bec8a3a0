"""Describe the HTTP face in OpenAPI 3.1, from the types that judge it, so that the two cannot drift apart.

* `python -m gateway.openapi` writes `schemas/openapi.json` and `schemas/batch.schema.json`; a test compares them.
* Schemas come from the wire types with their bounds; only paths, headers and statuses are written down here.
* Pure but for the command: everything is a function of the types.
"""

from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

import schemas
from gateway import problems
from gateway.problems import RequestFailed
from schemas.encoding import ENCODINGS
from schemas.reasons import EVENT_REASONS
from schemas.wire import Batch, Problem, Reply

Json = dict[str, Any]

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_BATCH_FAILURES: Final[tuple[type[RequestFailed], ...]] = (
    problems.MalformedBody,
    problems.UnknownKey,
    problems.KeyRevoked,
    problems.BatchTooLarge,
    problems.UnsupportedMedia,
    problems.SlowDown,
    problems.ServiceUnavailable,
)
_ARTIFACT_FAILURES: Final[tuple[type[RequestFailed], ...]] = (
    problems.NothingThere,
    problems.RangeNotSatisfiable,
    problems.ServiceUnavailable,
)


def openapi() -> bytes:
    """Return the OpenAPI document."""
    document = {
        "openapi": "3.1.1",
        "info": {
            "title": "Backhaul gateway",
            "version": "1",
            "description": "Telemetry out, model news back, one round trip.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "jsonSchemaDialect": DIALECT,
        "servers": [{"url": "/"}],
        "security": [],
        "paths": {
            "/v1/batches": {"post": _post_batch()},
            "/artifacts/{sha256}": {"get": _get_artifact()},
            "/healthz": {"get": _get("healthz", "Say that the process answers.", {"200": _json_answer("alive")})},
            "/readyz": {"get": _get_ready()},
            "/metrics": {"get": _get("metrics", "Show the gateway's counts.", {"200": _text_answer()})},
            "/openapi.json": {"get": _get("openapi", "Return this document.", {"200": _json_answer("this document")})},
        },
        "components": {
            "schemas": _components("#/components/schemas/{name}", Batch, Reply, Problem),
            "securitySchemes": {"app_key": {"type": "http", "scheme": "bearer", "description": "The app key."}},
        },
    }
    return _rendered(document)


def batch_schema() -> bytes:
    """Return the JSON Schema of a batch, on its own."""
    parts = _components("#/$defs/{name}", Batch)
    batch = parts.pop("Batch")
    return _rendered({"$schema": DIALECT, **batch, "$defs": parts})


def _components(ref_template: str, *types: type) -> dict[str, Json]:
    _, parts = msgspec.json.schema_components(types, ref_template=ref_template)
    if "Refusal" in parts:
        # Examples, not an enumeration: an SDK must live through a code that it does not know yet.
        parts["Refusal"]["properties"]["reason"]["examples"] = sorted(EVENT_REASONS)
    _translate_patterns(parts)
    return parts


def _translate_patterns(node: object) -> None:
    r"""Rewrite Python's anchors in place: `\A` and `\Z` mean nothing to ECMA-262, which JSON Schema speaks."""
    if isinstance(node, list):
        for item in node:
            _translate_patterns(item)
    elif isinstance(node, dict):
        pattern = node.get("pattern")
        if isinstance(pattern, str):
            node["pattern"] = pattern.replace(r"\A", "^").replace(r"\Z", "$")
        for value in node.values():
            _translate_patterns(value)


def _post_batch() -> Json:
    encodings = {"type": "string", "enum": list(ENCODINGS), "default": "identity"}
    return {
        "operationId": "send_batch",
        "summary": "Store a batch of events and learn what the device should run.",
        "description": "200 means that every accepted event, and every refused one as a dead letter, is on disk. "
        "A batch without events is the update check. Sending a batch again is answered alike and stored once.",
        "security": [{"app_key": []}],
        "parameters": [
            {
                "name": "Content-Encoding",
                "in": "header",
                "description": "How the body is compressed. Its size is capped while it is inflated.",
                "schema": encodings,
            }
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("Batch")}}},
        "responses": {
            "200": _answer("Every event is durable.", "application/json", _ref("Reply")),
            **_failures(_BATCH_FAILURES),
        },
    }


def _get_artifact() -> Json:
    whole: Json = {"application/octet-stream": {}}
    name = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
    return {
        "operationId": "get_artifact",
        "summary": "Return the bytes that have this SHA-256, or one range of them.",
        "security": [],
        "parameters": [
            {"name": "sha256", "in": "path", "required": True, "schema": name},
            {"name": "Range", "in": "header", "schema": {"type": "string", "examples": ["bytes=0-1023"]}},
            {"name": "If-Range", "in": "header", "schema": {"type": "string"}},
            {"name": "If-None-Match", "in": "header", "schema": {"type": "string"}},
        ],
        "responses": {
            "200": {"description": "All of it.", "content": whole},
            "206": {"description": "The range.", "content": whole},
            "304": {"description": "The caller has it."},
            **_failures(_ARTIFACT_FAILURES),
        },
    }


def _get_ready() -> Json:
    answers = {"200": _json_answer("ready"), "503": _json_answer("not ready, and why")}
    return _get("readyz", "Say whether batches can be taken now, and why not.", answers)


def _get(operation: str, summary: str, responses: Json) -> Json:
    return {"operationId": operation, "summary": summary, "security": [], "responses": responses}


def _failures(failures: tuple[type[RequestFailed], ...]) -> Json:
    found = {}
    for failure in failures:
        answer = _answer(f"`{failure.code}`", problems.MEDIA_TYPE, _ref("Problem"))
        if issubclass(failure, problems.TryLater):
            seconds = {"type": "integer", "minimum": 1}
            answer["headers"] = {"Retry-After": {"description": "Seconds, jitter included.", "schema": seconds}}
        found[str(failure.status.value)] = answer
    return found


def _answer(description: str, media_type: str, schema: Json) -> Json:
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _json_answer(description: str) -> Json:
    return _answer(description, "application/json", {"type": "object"})


def _text_answer() -> Json:
    return {"description": "Prometheus text format.", "content": {"text/plain": {}}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _rendered(document: Json) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _write() -> None:
    folder = Path(schemas.__file__).parent
    (folder / "openapi.json").write_bytes(openapi())
    (folder / "batch.schema.json").write_bytes(batch_schema())


if __name__ == "__main__":
    _write()
