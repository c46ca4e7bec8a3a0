"""Catalogues, rollouts and apps: the numbered documents of the object store, and how a catalogue is signed.

* Every document is append-only: number n + 1 is written only if it does not exist yet, so the history is the audit log.
* A signature covers `b"catalogue/v1\\n" + document`, the document's bytes as they are, never re-serialised; of a key
  list, `b"keys/v1\\n" + document`.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta, Struct

from schemas.wire import Count, Count32, Milliseconds, Probability, Signature, Use

CATALOGUE_CONTEXT: Final = b"catalogue/v1\n"
KEYS_CONTEXT: Final = b"keys/v1\n"
MAX_KEYS_BYTES: Final = 8 * 1024
# A device keeps catalogues in memory and on slow flash; 64 KiB holds hundreds of releases.
MAX_CATALOGUE_BYTES: Final = 64 * 1024
MAX_ARTIFACT_BYTES: Final = 16 * 1024 * 1024

Slug = Annotated[
    str,
    Meta(
        pattern=r"\A[a-z0-9][a-z0-9_-]{0,63}\Z", description="lower-case letters, digits, '-' and '_': a path segment"
    ),
]
Sha256 = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
ArtifactPath = Annotated[str, Meta(pattern=r"\Aartifacts/[0-9a-f]{64}\Z")]


class Parameters(Struct, frozen=True, omit_defaults=True):
    """What a release decides with: the score from which it says yes, and the chance of a random decision."""

    threshold: Probability = 0.5
    explore: Probability = 0.0


class Probe(Struct, frozen=True):
    """A golden vector: inputs and the outputs that the publisher computed, compared within 1e-5 on the device."""

    input: list[float]
    output: dict[str, float]


class Download(Struct, frozen=True, omit_defaults=True):
    """One way to get an artifact. The path ends in the SHA-256 of the bytes it serves."""

    encoding: Literal["identity", "xz", "zstd-patch"]
    path: ArtifactPath
    size: Annotated[int, Meta(ge=0, le=MAX_ARTIFACT_BYTES)]
    base: Sha256 | None = msgspec.field(name="from", default=None)


class Release(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A numbered artifact of a model.

    * `sha256` and `size` are those of the result of any download.
    * `os`, where it is not empty, is what the artifact asks of one system, written as a rollout's target ("iOS >=13"):
      a device of that name (iPadOS counts as iOS) that does not meet it, or says no version, neither is offered the
      release nor runs it. Devices of other systems are not restricted. For Core ML the publisher derives it.
    * `urgent` releases are downloaded however expensive the network is, because running on without them costs more.
    """

    release: Annotated[int, Meta(ge=1, le=2**32 - 1)]
    format: Literal["mlmodel", "onnx", "opaque"]
    sha256: Sha256
    size: Annotated[int, Meta(ge=0, le=MAX_ARTIFACT_BYTES)]
    sdk: str = ""
    os: str = ""
    urgent: bool = False
    inputs: list[str] = []
    parameters: Parameters = Parameters()
    probe: list[Probe] = []
    downloads: list[Download]


class Catalogue(Struct, frozen=True, kw_only=True, tag_field="type", tag="catalogue/v1"):
    """Which releases of one model of one app may run; `floor` is sticky: nothing below it ever runs again."""

    app: Slug
    model: Slug
    number: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    issued_at: Milliseconds
    expires_at: Milliseconds
    floor: Count32
    releases: list[Release]


class SignedCatalogue(Struct, frozen=True):
    """A catalogue as it is stored: the exact bytes (base64 in JSON) and their signatures."""

    document: bytes
    signatures: list[Signature]


class KeyList(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="keys/v1"):
    """The release keys that may sign an app's catalogues, as the holders of the root keys say.

    * A device accepts a list only if as many of its root keys signed it as the app asks for, as the list itself
      asks for and as the list before did: one stolen root key can lower no threshold.
    * `version` only rises. What a key signed that is no longer listed is void, with its catalogue's number and floor.
    * `floors` outlive every key: by model, the release below which nothing ever runs again, beside the catalogue's own
      floor, whichever is higher.
    * When the list has expired its keys install nothing new; what runs goes on.
    """

    app: Slug
    version: Annotated[int, Meta(ge=1, le=2**53 - 1)]
    issued_at: Milliseconds
    expires_at: Milliseconds
    threshold: Annotated[int, Meta(ge=1, le=16)]
    keys: Annotated[list[Annotated[bytes, Meta(min_length=32, max_length=32)]], Meta(max_length=64)]
    floors: dict[Slug, Count32] = {}


class Arm(Struct, frozen=True):
    """One branch of a rollout and its share of the exposed devices."""

    name: str
    use: Use
    weight: Probability


class Target(Struct, frozen=True, omit_defaults=True):
    """Which devices a rollout speaks to; what is empty does not restrict."""

    sdk: str = ""
    app_version: str = ""
    os: str = ""
    locale: list[str] = []
    hardware: list[str] = []


class Reached(Struct, frozen=True):
    """How far the held-out baseline had got among the devices of a target."""

    target: Target
    exposure: Probability


class Held(Struct, frozen=True, omit_defaults=True):
    """The held-out baseline, which outlasts the rollout: the arm of that name, filled by a salt of the model's own.

    * Held out are the devices whose second hash by this salt is below the arm's weight, once their first is below
      `exposure`. They run the arm's `use` in every state of a rollout, rolled back too; they are in no other arm.
    * The next rollout takes salt and exposure over, and the exposure never falls: whoever is held out stays so.
    * A rollout with another target begins at its own exposure; `earlier` says how far those before it had got, and whom
      of these the target leaves out runs the arm's `use` all the same, in no arm.
    """

    arm: str
    salt: str
    exposure: Probability
    earlier: list[Reached] = []


class Rollout(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Who runs what, decided online: section 4 of the contract."""

    rollout: Count
    revision: Count
    app: Slug
    model: Slug
    state: Literal["running", "paused", "rolled_back", "complete"]
    salt: str
    arms: list[Arm]
    exposure: Probability
    stages: list[Probability] = []
    otherwise: Use
    target: Target = Target()
    held: Held | None = None
    author: str = ""
    reason: str = ""
    at: Milliseconds = 0
    approved_by: str = ""


class Proposal(Struct, frozen=True):
    """A change that waits for a second operator: `rollout` becomes document `follows` + 1 if nobody writes before."""

    number: Annotated[int, Meta(ge=1)]
    follows: Count
    rollout: Rollout


class AppKey(Struct, frozen=True, omit_defaults=True):
    """An app key's SHA-256 (the key itself is random and shown once) and its life."""

    sha256: Sha256
    created_at: Milliseconds
    revoked_at: Milliseconds | None = None


class TwoPersonRule(Struct, frozen=True, omit_defaults=True):
    """A rollout's changes wait for a second operator, and so does the first release: a rollout has to stand before it.

    `leaving`: its author asks for its end, a second one ends it.
    """

    author: str
    reason: str
    at: Milliseconds
    leaving: bool = False


class App(Struct, frozen=True, omit_defaults=True):
    """An app and its keys, as of `number`."""

    app: Slug
    number: Annotated[int, Meta(ge=1)]
    keys: list[AppKey]
    two_person: TwoPersonRule | None = None
