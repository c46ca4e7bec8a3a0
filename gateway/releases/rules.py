"""What the gateway knows of one model, made ready once per refresh so that a decision only looks things up.

* Everything a request could trip over (a specifier, an arm's weight, a target) is read here: a document that does not
  hold is refused by the snapshot, and never met by a request.
* Pure: bytes in, rules out. Signatures are the publisher's and the device's business: the gateway has no keys.
"""

import math
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import UNSET, Struct
from msgspec.structs import replace

from gateway.releases.errors import BadDocument
from schemas.releases import Catalogue, Download, KeyList, Proposal, Release, Rollout, SignedCatalogue
from schemas.versions import os_target, parse_specifier
from schemas.wire import CatalogueNews, SignedKeys

_catalogue = msgspec.json.Decoder(Catalogue)
_signed = msgspec.json.Decoder(SignedCatalogue)
_rollout = msgspec.json.Decoder(Rollout)
_signed_keys = msgspec.json.Decoder(SignedKeys)
_keys = msgspec.json.Decoder(KeyList)
_proposal = msgspec.json.Decoder(Proposal)
# Weights are typed by people: 0.33 + 0.33 + 0.34 must pass, a forgotten arm must not.
WEIGHT_SLACK: Final = 1e-6

# Of a catalogue or a key list. A model's news, both in base64, are then less than two MiB.
LARGEST_DOCUMENT_BYTES: Final = 640 * 1024
# More than the names and quotes around a document or a signature.
_AROUND_BYTES: Final = 512


class ModelRules(Struct, frozen=True, kw_only=True):
    """One model of one app: its newest catalogue, ready to send, and its rollout.

    * `releases` holds what may run (listed and not below the floor), newest first.
    * `inline` maps the SHA-256 of the bytes to the bytes, for downloads that are small enough to ride in a reply.
    * `keys` is the version of the key list that travels with the news, 0 where the app has none.
    * `expires_at` is when devices stop to install: the catalogue's end, or the key list's where that is earlier.
    """

    number: int
    news: CatalogueNews
    releases: tuple[Release, ...]
    inline: Mapping[str, bytes]
    rollout: Rollout | None = None
    keys: int = 0
    expires_at: int = 0

    @property
    def news_bytes(self) -> int:
        """No less than what the news take in a reply."""
        keys = self.news.keys
        return _signed_bytes(self.news) + (0 if keys is UNSET else _signed_bytes(keys))


def model_rules(
    signed: SignedCatalogue, catalogue: Catalogue, base_url: str, inline: Mapping[str, bytes]
) -> ModelRules:
    """Make a catalogue ready for decisions."""
    runnable = [release for release in catalogue.releases if release.release >= catalogue.floor]
    return ModelRules(
        number=catalogue.number,
        news=CatalogueNews(signed.document, signed.signatures, base_url),
        releases=tuple(sorted(runnable, key=lambda release: release.release, reverse=True)),
        inline=inline,
        expires_at=catalogue.expires_at,
    )


def with_keys(rules: ModelRules, model: str, signed: SignedKeys, keys: KeyList) -> ModelRules:
    """Add the key list that travels with the news; nothing below its floor is ever offered."""
    floor = keys.floors.get(model, 0)
    return replace(
        rules,
        keys=keys.version,
        expires_at=min(rules.expires_at, keys.expires_at),
        news=replace(rules.news, keys=signed),
        releases=tuple(release for release in rules.releases if release.release >= floor),
    )


def read_catalogue(stored: bytes, app: str, model: str, number: int) -> tuple[SignedCatalogue, Catalogue]:
    """Read a stored catalogue and check that it belongs where it stands. Raises `BadDocument`."""
    try:
        signed = _signed.decode(stored)
        _check_size(signed.document)
        catalogue = _catalogue.decode(signed.document)
        for release in catalogue.releases:
            parse_specifier(release.sdk)
            parse_specifier(os_target(release.os)[1])
    except (ValueError, RecursionError) as error:
        raise BadDocument(f"not a catalogue: {error}") from error
    found = (catalogue.app, catalogue.model, catalogue.number)
    if found != (app, model, number):
        raise BadDocument(f"is catalogue {found[2]} of {found[0]}/{found[1]}, in the wrong place")
    return signed, catalogue


def read_keys(stored: bytes, app: str, number: int) -> tuple[SignedKeys, KeyList]:
    """Read a stored key list and check that it belongs where it stands. Raises `BadDocument`."""
    try:
        signed = _signed_keys.decode(stored)
        _check_size(signed.document)
        keys = _keys.decode(signed.document)
    except (ValueError, RecursionError) as error:
        raise BadDocument(f"not a key list: {error}") from error
    if (keys.app, keys.version) != (app, number):
        raise BadDocument(f"is key list {keys.version} of {keys.app}, in the wrong place")
    return signed, keys


def read_rollout(stored: bytes, app: str, model: str) -> Rollout:
    """Read a stored rollout and check that it can be obeyed as it is. Raises `BadDocument`."""
    try:
        rollout = _rollout.decode(stored)
        earlier = rollout.held.earlier if rollout.held is not None else []
        for target in (rollout.target, *(each.target for each in earlier)):
            for specifier in (target.sdk, target.app_version, os_target(target.os)[1]):
                parse_specifier(specifier)
    except (ValueError, RecursionError) as error:
        raise BadDocument(f"not a rollout: {error}") from error
    if (rollout.app, rollout.model) != (app, model):
        raise BadDocument(f"is a rollout of {rollout.app}/{rollout.model}, in the wrong place")
    total = math.fsum(arm.weight for arm in rollout.arms)
    if abs(total - 1.0) > WEIGHT_SLACK:
        raise BadDocument(f"the weights of its arms add up to {total}, not 1")
    if len({arm.name for arm in rollout.arms} - {""}) != len(rollout.arms):
        raise BadDocument("its arms need names, each another")
    if rollout.held is not None and rollout.held.arm not in {arm.name for arm in rollout.arms if arm.weight < 1.0}:
        raise BadDocument(f"it holds out the arm {rollout.held.arm!r}, which is none of its arms, or all of them")
    return rollout


def worth_riding(release: Release) -> list[Download]:
    """Return the downloads that may ride in a reply: the smallest that needs nothing of the device, and the patches."""
    whole = smallest_download(release)
    return [each for each in release.downloads if each is whole or each.encoding == "zstd-patch"]


def smallest_download(release: Release) -> Download | None:
    """The cheapest way to get a release that needs nothing else on the device."""
    whole = [download for download in release.downloads if download.encoding != "zstd-patch"]
    return min(whole, key=lambda download: download.size, default=None)


def read_proposal(stored: bytes, app: str, model: str, number: int) -> Proposal:
    """Read a stored proposal and check that it could be obeyed. Raises `BadDocument`."""
    try:
        proposal = _proposal.decode(stored)
    except (ValueError, RecursionError) as error:
        raise BadDocument(f"not a proposal: {error}") from error
    if proposal.number != number:
        raise BadDocument(f"is proposal {proposal.number}, in the wrong place")
    read_rollout(msgspec.json.encode(proposal.rollout), app, model)
    return proposal


def _check_size(document: bytes) -> None:
    if len(document) > LARGEST_DOCUMENT_BYTES:
        raise BadDocument(f"has {len(document)} bytes, above {LARGEST_DOCUMENT_BYTES}: no reply could carry it")


def base64_bytes(data: bytes) -> int:
    """Return how long the bytes are in base64."""
    return 4 * (len(data) // 3 + 1)


def _signed_bytes(signed: CatalogueNews | SignedKeys) -> int:
    around = sum(_AROUND_BYTES + base64_bytes(signature.sig) for signature in signed.signatures)
    return _AROUND_BYTES + base64_bytes(signed.document) + around
