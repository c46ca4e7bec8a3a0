"""What the gateway knows of one model, made ready once per refresh so that a decision only looks things up.

* Everything a request could trip over (a specifier, an arm's weight, a target) is read here: a document that does not
  hold is refused by the snapshot, never by a request.
* Pure: bytes in, rules out.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Struct

from schemas.releases import Catalogue, Download, Release, Rollout, SignedCatalogue
from schemas.versions import parse_specifier
from schemas.wire import CatalogueNews

_catalogue = msgspec.json.Decoder(Catalogue)
_signed = msgspec.json.Decoder(SignedCatalogue)
_rollout = msgspec.json.Decoder(Rollout)
# Weights are typed by people: 0.33 + 0.33 + 0.34 must pass, a forgotten arm must not.
_WEIGHT_SLACK: Final = 1e-6


class BadDocument(ValueError):
    """A document of the store that is not what its path promises."""


class ModelRules(Struct, frozen=True, kw_only=True):
    """One model of one app: its newest catalogue, ready to send, and its rollout.

    * `releases` holds what may run (listed and not below the floor), newest first.
    * `inline` maps the SHA-256 of the bytes to the bytes, for downloads that are small enough to ride in a reply.
    """

    number: int
    news: CatalogueNews
    releases: tuple[Release, ...]
    inline: Mapping[str, bytes]
    rollout: Rollout | None = None
