"""Decide what a device runs: a pure function of the snapshot and of what the device says of itself.

* Sticky: the bucket hangs on the rollout's salt and the device alone, so raising the exposure moves nobody out, and the
  arm comes from a second hash, so it is independent of how early a device came in.
* A release that the device cannot run (SDK, system, inputs), that is not listed or is below the floor is never
  offered. In its place stands the newest that fits and is *not newer* than the one named: an operator who says 41
  never hands out 42.
* Whatever stands in for `otherwise` is never a release that only an arm names: a rollback leaves nobody on it.
* The held-out baseline is the model's and not the rollout's: it goes by the model's own salt, so that one rollout after
  another holds out the same devices, and no pause, rollback, completion or other target ends it. A rollback puts
  everyone else on `otherwise`, at once.
* Paused, whoever runs its arm's release keeps it, but only the baseline is named as an arm: there is no list of who was
  in, and a newcomer that was given `otherwise` cannot be told from a device of the arm that uses the same. To name the
  other arms alone would compare them with nobody. What ran stays on record by its release.
* A reply stays small enough to be read: of a model whose catalogue has no room nothing is said until the next reply,
  and an artifact that has none is fetched.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from gateway.releases.rules import WEIGHT_SLACK, ModelRules, base64_bytes
from schemas.records import Told
from schemas.releases import Arm, Held, Release, Rollout, Target
from schemas.versions import os_can_run, os_is, satisfies
from schemas.wire import CatalogueNews, Envelope, Have, Use

UNDER_WAY: Final = ("running", "paused")
_SEPARATOR: Final = b"\x1f"
# A double holds 53 bits: of the 64 the upper 53 are kept, so that the fraction is exact in every language and below 1.
_SPARE_BITS: Final = 11
_UNIT: Final = 2.0**-53
_ARTIFACTS: Final = len("artifacts/")
# Devices read replies of up to 4 MiB. The news of any one model fit: see `rules.LARGEST_DOCUMENT_BYTES`.
MOST_NEWS_BYTES: Final = 2 * 1024 * 1024


class Decision(Struct, frozen=True):
    """What one batch is answered. `told` goes on the log's `offer` header; the rest into the reply, where not empty.

    `on_trial`: the device is in a rollout that may be stopped any moment, so it should ask again soon.
    """

    told: dict[str, Told]
    use: dict[str, Use]
    catalogues: dict[str, CatalogueNews]
    inline: dict[str, bytes]
    on_trial: bool = False


def decide(models: Mapping[str, ModelRules], envelope: Envelope) -> Decision:
    """Answer every model that the device names in `have` and that has a catalogue."""
    decision, on_trial, room_bytes = Decision({}, {}, {}, {}), False, MOST_NEWS_BYTES
    for model, have in envelope.have.items():
        rules = models.get(model)
        if rules is None:
            continue
        if have.catalogue < rules.number or envelope.keys < rules.keys:
            if rules.news_bytes > room_bytes and decision.catalogues:
                decision.told[model] = Told(have.use)
                continue
            decision.catalogues[model] = rules.news
            room_bytes -= rules.news_bytes
        if have.catalogue > rules.number:
            # Another gateway was faster: what this one would say is older than what the device knows. Or a stolen key
            # signed a number beyond all: then the newer key list that is sent makes the device forget it.
            decision.told[model] = Told(have.use)
            continue
        told = decision.told[model] = offer_for(rules, model, have, envelope)
        on_trial = on_trial or _is_on_trial(rules.rollout, told)
        if told.use != have.use:
            decision.use[model] = told.use
            if told.use != have.previous:
                riding = _riding(rules, told.use, have, room_bytes)
                decision.inline.update(riding)
                room_bytes -= sum(map(base64_bytes, riding.values()))
    return replace(decision, on_trial=True) if on_trial else decision


def offer_for(rules: ModelRules, model: str, have: Have, envelope: Envelope) -> Told:
    """Say what the device should run of one model, and which arm of which rollout that is."""
    rollout = rules.rollout
    if rollout is None:
        return Told(next(_fitting(rules, model, envelope), "bundled"))
    arm = arm_for(rollout, envelope)
    if arm is not None:
        use = _or_older(arm.use, rules, model, envelope)
        if rollout.state != "paused" or is_held_out(rollout, arm):
            return Told(use, arm.name, rollout.rollout)
        if use == have.use:
            return Told(use, "", rollout.rollout)
    elif (held_out := held_before(rollout, envelope)) is not None:
        return Told(_or_older(held_out.use, rules, model, envelope), "", rollout.rollout)
    return Told(_or_older(rollout.otherwise, rules, model, envelope, untried=rollout), "", rollout.rollout)


def arm_for(rollout: Rollout, envelope: Envelope) -> Arm | None:
    """Return the arm of a device that the rollout has reached; None for all others."""
    if not targets(rollout.target, envelope):
        return None
    device, held, arms = envelope.device, rollout.held, rollout.arms
    if held is not None:
        arm = next(each for each in arms if each.name == held.arm)
        if place_of(held.salt, device) < arm.weight:
            return arm if bucket(held.salt, device) < held.exposure or was_reached(held, envelope) else None
        arms = [each for each in arms if each.name != held.arm]
    if rollout.state not in UNDER_WAY or bucket(rollout.salt, device) >= rollout.exposure:
        return None
    return arm_of(rollout.salt, device, arms)


def held_before(rollout: Rollout, envelope: Envelope) -> Arm | None:
    """Return the held-out arm of a device that a rollout before this one held out: it stays so, whatever the target."""
    held = rollout.held
    if held is None or not held.earlier:
        return None
    arm = next(each for each in rollout.arms if each.name == held.arm)
    return arm if place_of(held.salt, envelope.device) < arm.weight and was_reached(held, envelope) else None


def was_reached(held: Held, envelope: Envelope) -> bool:
    """Say whether the baseline of a rollout with another target has got as far as the device."""
    if not held.earlier:
        return False
    place = bucket(held.salt, envelope.device)
    return any(place < each.exposure and targets(each.target, envelope) for each in held.earlier)


def is_held_out(rollout: Rollout, arm: Arm) -> bool:
    """Say whether the arm is the held-out baseline's, which is the model's and outlasts the rollout."""
    return rollout.held is not None and arm.name == rollout.held.arm


def bucket(salt: str, device: str) -> float:
    """Return the device's place in 0 <= x < 1: the upper 53 of the first 64 bits of SHA-256(salt + 0x1F + device)."""
    return _fraction(salt.encode() + _SEPARATOR + device.encode())


def place_of(salt: str, device: str) -> float:
    """Return the device's place among the arms, 0 <= x < 1: as `bucket`, of salt + 0x1F + device + 0x1F + "arm"."""
    return _fraction(salt.encode() + _SEPARATOR + device.encode() + _SEPARATOR + b"arm")


def arm_of(salt: str, device: str, arms: Sequence[Arm]) -> Arm:
    """Return the arm that holds the device's place, in weight order.

    The weights are added up in the order of the list; the last arm that has any weight takes what rounding leaves.
    Where the arms are not the whole (the held-out one is away), the place is scaled to their sum.
    """
    whole = math.fsum(arm.weight for arm in arms)
    place = place_of(salt, device) * (1.0 if abs(whole - 1.0) < WEIGHT_SLACK else whole)
    end, chosen = 0.0, arms[0]
    for arm in arms:
        if arm.weight > 0.0:
            end, chosen = end + arm.weight, arm
            if place < end:
                break
    return chosen


def fits(release: Release, model: str, envelope: Envelope) -> bool:
    """Say whether the device's SDK and system can run the release and it sends all inputs (where it says what)."""
    if not satisfies(envelope.sdk, release.sdk) or not os_can_run(envelope.os, release.os):
        return False
    sent = envelope.signals.get(model)
    return sent is None or all(map(sent.__contains__, release.inputs))


def targets(target: Target, envelope: Envelope) -> bool:
    """Say whether a rollout speaks to the device. What is empty means everyone.

    A locale "de" means every "de_...", a hardware "iPhone15*" everything that begins so.
    """
    return (
        satisfies(envelope.sdk, target.sdk)
        and satisfies(envelope.app_version, target.app_version)
        and os_is(envelope.os, target.os)
        and (not target.locale or any(_speaks(envelope.locale, wanted) for wanted in target.locale))
        and (not target.hardware or any(_is_made(envelope.hardware, wanted) for wanted in target.hardware))
    )


def _speaks(locale: str, wanted: str) -> bool:
    # Apple writes de_AT, BCP 47 (RFC 5646) de-AT.
    locale, wanted = locale.replace("-", "_"), wanted.replace("-", "_")
    return locale == wanted or locale.startswith(wanted + "_")


def _is_made(hardware: str, wanted: str) -> bool:
    return hardware.startswith(wanted[:-1]) if wanted.endswith("*") else hardware == wanted


def _fitting(rules: ModelRules, model: str, envelope: Envelope) -> Iterator[int]:
    """Yield the releases that the device can run, the newest first; each is judged when it is asked for."""
    return (release.release for release in rules.releases if fits(release, model, envelope))


def _or_older(use: Use, rules: ModelRules, model: str, envelope: Envelope, untried: Rollout | None = None) -> Use:
    """Return what was named where the device can run it, or else the newest older release that it can run.

    With `untried`, one that only an arm of that rollout names does not stand in.
    """
    if isinstance(use, str):
        return use
    for each in rules.releases:
        stands_in = each.release < use and (untried is None or each.release not in tried(untried))
        if (each.release == use or stands_in) and fits(each, model, envelope):
            return each.release
    return "bundled"


def tried(rollout: Rollout) -> set[Use]:
    """Return what only an arm names: it stands in for nothing."""
    return {arm.use for arm in rollout.arms} - {rollout.otherwise}


def _is_on_trial(rollout: Rollout | None, told: Told) -> bool:
    if rollout is None or rollout.state not in UNDER_WAY:
        return False
    return told.arm != "" or (told.use != rollout.otherwise and told.use in tried(rollout))


def _riding(rules: ModelRules, use: Use, have: Have, room_bytes: int) -> dict[str, bytes]:
    """Return the bytes of the smallest way to the release that rides along and that the device can take."""
    release = next((each for each in rules.releases if each.release == use), None)
    if release is None:
        return {}
    # What a device says that it has it has verified: a patch on that is as good as the whole. If it lied, it fetches.
    bases = {None, *(each.sha256 for each in rules.releases if each.release in (have.use, have.previous))}
    ways = [way for way in release.downloads if way.base in bases and way.path[_ARTIFACTS:] in rules.inline]
    sha = min(ways, key=lambda way: way.size).path[_ARTIFACTS:] if ways else ""
    return {sha: rules.inline[sha]} if ways and base64_bytes(rules.inline[sha]) <= room_bytes else {}


def _fraction(text: bytes) -> float:
    return (int.from_bytes(sha256(text).digest()[:8], "big") >> _SPARE_BITS) * _UNIT
