"""Why something was refused: the closed list of reason codes of replies and dead letters.

* An event's code is its first bad field and what is wrong with it: `score_out_of_range`, `id_missing`.
* A body's code is in the dead letters only; the device is told `malformed`.
* Codes are stable: SDKs count them and dashboards group by them. New ones may be added, none is ever renamed.
"""

from typing import Final

MISSING: Final = "missing"
WRONG_TYPE: Final = "wrong_type"
OUT_OF_RANGE: Final = "out_of_range"
WRONG_LENGTH: Final = "wrong_length"
UNKNOWN: Final = "unknown"

# What can be wrong with each field of an event; the wire types' own constraints, a test holds them together.
FIELD_FAULTS: Final[dict[str, tuple[str, ...]]] = {
    "type": (MISSING, WRONG_TYPE, UNKNOWN),
    "id": (MISSING, WRONG_TYPE, OUT_OF_RANGE),
    "t": (MISSING, WRONG_TYPE, OUT_OF_RANGE),
    "model": (MISSING, WRONG_TYPE, WRONG_LENGTH),
    "release": (MISSING, WRONG_TYPE, OUT_OF_RANGE),
    "source": (MISSING, WRONG_TYPE, UNKNOWN),
    "score": (MISSING, WRONG_TYPE, OUT_OF_RANGE),
    "decision": (MISSING, WRONG_TYPE),
    "explored": (WRONG_TYPE,),
    "propensity": (WRONG_TYPE, OUT_OF_RANGE),
    "latency_us": (WRONG_TYPE, OUT_OF_RANGE),
    "signals": (WRONG_TYPE, OUT_OF_RANGE, WRONG_LENGTH),
    "outcome": (MISSING, WRONG_TYPE, WRONG_LENGTH),
    "value": (WRONG_TYPE, OUT_OF_RANGE),
    "state": (MISSING, WRONG_TYPE, UNKNOWN),
    "detail": (WRONG_TYPE, WRONG_LENGTH),
    "bytes": (WRONG_TYPE, OUT_OF_RANGE),
    "ms": (WRONG_TYPE, OUT_OF_RANGE),
}

NOT_AN_OBJECT: Final = "not_an_object"
# Another number of signals than the batch names for the prediction's model.
SIGNALS_MISMATCH: Final = "signals_mismatch"
# Refused by the types in a way that has no code of its own yet.
INVALID: Final = "invalid"

EVENT_REASONS: Final = frozenset(
    [f"{field}_{fault}" for field, faults in FIELD_FAULTS.items() for fault in faults]
    + [NOT_AN_OBJECT, SIGNALS_MISMATCH, INVALID]
)

ENCODING_DAMAGED: Final = "encoding_damaged"  # not what Content-Encoding says, cut short, or followed by more
NOT_UTF8: Final = "not_utf8"
NOT_JSON: Final = "not_json"
NESTED_TOO_DEEP: Final = "nested_too_deep"
ENVELOPE_INVALID: Final = "envelope_invalid"  # JSON, but not a batch

BODY_REASONS: Final = frozenset([ENCODING_DAMAGED, NOT_UTF8, NOT_JSON, NESTED_TOO_DEEP, ENVELOPE_INVALID])

# A good batch that waited for Kafka and is larger than its topic takes by now.
TOO_LARGE_FOR_LOG: Final = "too_large_for_log"
