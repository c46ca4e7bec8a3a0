"""The types of `POST /v1/batches`: what a device sends and what it is told, version 1 of the contract.

* Decoding with these types is the validation: every bound on the wire stands here and nowhere else.
* Unknown fields are ignored, so that version 1 can grow by optional fields.
* Events carry no reference cycles, so the collector need not track them (`gc=False`).
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

# The warehouse keeps times as DateTime64(3), whose range ends at 2299-12-31T23:59:59.999Z.
LAST_MILLISECOND: Final = 10_413_791_999_999
# The largest integer that every JSON reader keeps exactly (RFC 8259, section 6).
LARGEST_INTEGER: Final = 2**53 - 1
LARGEST_UINT32: Final = 2**32 - 1
MAX_SIGNALS: Final = 256

Name = Annotated[str, Meta(min_length=1, max_length=64)]
Label = Annotated[str, Meta(max_length=64)]
Milliseconds = Annotated[int, Meta(ge=0, le=LAST_MILLISECOND)]
Count = Annotated[int, Meta(ge=0, le=LARGEST_INTEGER)]
Count32 = Annotated[int, Meta(ge=0, le=LARGEST_UINT32)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
Identity = Annotated[
    str,
    Meta(
        pattern=r"\A[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z",
        description="A UUID in lower-case canonical form: hashes and joins take its text as it is.",
    ),
]
Use = Count32 | Literal["bundled", "none"]
Source = Literal["ota", "bundled", "previous", "none"]
ModelState = Literal["offered", "downloaded", "verified", "activated", "failed", "reverted", "quarantined"]


class Prediction(Struct, tag_field="type", tag="prediction", gc=False, frozen=True, omit_defaults=True):
    """One decision of a model on the device, with its outcome where that was known at flush time."""

    id: Count
    t: Milliseconds
    model: Name
    release: Count32
    source: Source
    score: Probability
    decision: bool
    explored: bool = False
    propensity: Probability = 1.0
    latency_us: Count32 = 0
    signals: Annotated[list[float | None], Meta(max_length=MAX_SIGNALS)] = []
    outcome: Label | None = None
    value: float | None = None


class Outcome(Struct, tag_field="type", tag="outcome", gc=False, frozen=True, omit_defaults=True):
    """What the user did about an earlier prediction: `(device, model, id)` names it."""

    id: Count
    t: Milliseconds
    model: Name
    outcome: Label
    value: float = 0.0


class ModelEvent(Struct, tag_field="type", tag="model", gc=False, frozen=True, omit_defaults=True):
    """One step of an update on the device."""

    t: Milliseconds
    model: Name
    release: Count32
    state: ModelState
    detail: Annotated[str, Meta(max_length=256)] = ""
    bytes: Count = 0
    ms: Count32 = 0


Event = Prediction | Outcome | ModelEvent


class Have(Struct, frozen=True, omit_defaults=True):
    """What a device has of one model: the newest catalogue seen and what runs now."""

    catalogue: Count
    use: Use
    previous: Use | None = None


class Ledger(Struct, frozen=True):
    """Counts of events since install, so that loss can be audited."""

    produced: Count
    dropped: Annotated[dict[Name, Count], Meta(max_length=64)] = {}


class Envelope(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A batch but for its events."""

    device: Identity
    batch: Identity
    seq: Count
    sent_at: Milliseconds
    sdk: Name
    app_version: Label = ""
    os: Label = ""
    hardware: Label = ""
    locale: Label = ""
    have: Annotated[dict[Name, Have], Meta(max_length=64)] = {}
    ledger: Ledger = Ledger(produced=0)
    signals: Annotated[dict[Name, Annotated[list[Name], Meta(max_length=MAX_SIGNALS)]], Meta(max_length=64)] = {}
    keys: Annotated[Count, Meta(description="the newest key list accepted; 0: none yet")] = 0


class Batch(Envelope, frozen=True, kw_only=True):
    """A whole batch: validated in one pass."""

    events: list[Event]


class RawBatch(Envelope, frozen=True, kw_only=True):
    """A batch whose events are still text, for the pass that judges them one by one."""

    events: list[msgspec.Raw]


class Refusal(Struct, frozen=True):
    """An event that was not accepted: its place in the batch and the reason's stable code."""

    index: int
    reason: str


class Flush(Struct, frozen=True):
    """When to flush next: at so many events, at such an age, and at a launch after so long without contact."""

    events: Annotated[int, Meta(ge=1)]
    seconds: Annotated[int, Meta(ge=1)]
    lease_seconds: Annotated[int, Meta(ge=1)]


class Signature(Struct, frozen=True):
    """An Ed25519 signature: the key's name and 64 bytes (base64 in JSON)."""

    key: Name
    sig: bytes


class SignedKeys(Struct, frozen=True):
    """A key list as it is stored and travels: the exact signed bytes (base64 in JSON) and the roots' signatures."""

    document: bytes
    signatures: list[Signature]


class CatalogueNews(Struct, frozen=True):
    """A signed catalogue as it travels: the exact signed bytes, base64 in JSON.

    * `base_url` is a URL reference: the downloads' paths are resolved against it, and it against the gateway's URL.
    * `keys` is the app's key list, where it has one: it is judged before the catalogue that its keys may have signed.
    """

    document: bytes
    signatures: list[Signature]
    base_url: str = "/"
    keys: SignedKeys | UnsetType = UNSET


class StaticNews(CatalogueNews, frozen=True):
    """A catalogue as a plain file for devices that have no gateway: `base_url` is resolved against the file's own URL.

    * `use` is what everyone should run, where a rollout says so; absent, it is the newest release that fits.
    * Where a release does not fit, the newest that does and is older stands in for it, but none of `never`: those are
      only being tried.
    """

    use: Use | UnsetType = UNSET
    never: list[int] | UnsetType = UNSET


class Reply(Struct, frozen=True, kw_only=True):
    """The answer to a batch. What has no news is absent."""

    batch: str
    accepted: int
    refused: list[Refusal] | UnsetType = UNSET
    server_time: int
    flush: Flush
    use: dict[str, Use] | UnsetType = UNSET
    catalogues: dict[str, CatalogueNews] | UnsetType = UNSET
    inline: dict[str, bytes] | UnsetType = UNSET


class Problem(Struct, frozen=True, kw_only=True):
    """A failed request, as `application/problem+json` (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str
