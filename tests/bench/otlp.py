"""The same events as OpenTelemetry's logs, in OTLP/JSON: what a client of its Collector would send in their place.

* What a batch says once stands in the resource, an event is a log record, each of its fields an attribute.
"""

import gzip
import json
from collections.abc import Iterator
from typing import Any, Final

from tests.bench.bodies import GZIP_LEVEL

_OUTSIDE: Final = ("events", "have", "ledger", "signals")


def otlp(body: bytes) -> bytes:
    """Return a batch's body in the other protocol, compressed alike."""
    batch = json.loads(gzip.decompress(body))
    names = batch["signals"]
    resource = {key: value for key, value in batch.items() if key not in _OUTSIDE}
    logs = {
        "resource": {"attributes": list(_attributes(resource))},
        "scopeLogs": [{"logRecords": [_record(event, names) for event in batch["events"]]}],
    }
    return gzip.compress(json.dumps({"resourceLogs": [logs]}, separators=(",", ":")).encode(), GZIP_LEVEL, mtime=0)


def _record(event: dict[str, Any], names: dict[str, list[str]]) -> dict[str, Any]:
    values = event.pop("signals", [])
    signals = dict(zip(names.get(event["model"], []), values, strict=False))
    at = str(event.pop("t") * 1_000_000)
    return {"timeUnixNano": at, "eventName": event.pop("type"), "attributes": list(_attributes(event | signals))}


def _attributes(values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for key, value in values.items():
        if value is not None:
            yield {"key": key, "value": _value(value)}


def _value(value: bool | float | str) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
    return {"stringValue": value}
