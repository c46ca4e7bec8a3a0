"""Say why a device was told what it was told: every rule of a decision, in the order in which they apply.

* Pure, and made of the functions that decide, so that an explanation cannot tell another story than the decision.
"""

from msgspec import Struct

from gateway.releases.decide import (
    UNDER_WAY,
    arm_for,
    bucket,
    fits,
    held_before,
    offer_for,
    place_of,
    targets,
    was_reached,
)
from gateway.releases.rules import ModelRules
from schemas.records import Told
from schemas.releases import Release, Rollout
from schemas.versions import os_can_run, satisfies
from schemas.wire import Envelope, Have, Use


class Reason(Struct, frozen=True):
    """One rule, and what it came to for this device."""

    rule: str
    text: str


class Explanation(Struct, frozen=True):
    """The rules that applied, and what the device was told."""

    reasons: list[Reason]
    told: Told


def explain(rules: ModelRules, model: str, have: Have, envelope: Envelope) -> Explanation:
    """Replay the decision on one model of one device."""
    reasons = [_catalogue(rules, have)]
    reasons += [Reason("fits", _fit(release, model, envelope)) for release in rules.releases]
    if have.catalogue > rules.number:
        reasons.append(Reason("lag", "the device has seen a newer catalogue: nothing is said about this model"))
        return Explanation(reasons, Told(have.use))
    told = offer_for(rules, model, have, envelope)
    rollout = rules.rollout
    if rollout is None:
        reasons.append(Reason("rollout", "there is none: the newest release that fits"))
    else:
        reasons += _rollout(rollout, have, envelope, told)
    reasons.append(Reason("told", _told(rollout, told, have, envelope)))
    return Explanation(reasons, told)


def _catalogue(rules: ModelRules, have: Have) -> Reason:
    listed = ", ".join(str(release.release) for release in rules.releases) or "no release"
    sent = ", which is sent along" if have.catalogue < rules.number else ""
    return Reason("catalogue", f"number {rules.number} lists {listed}; the device has seen {have.catalogue}{sent}")


def _fit(release: Release, model: str, envelope: Envelope) -> str:
    if fits(release, model, envelope):
        return f"release {release.release} can run on SDK {envelope.sdk}"
    if not satisfies(envelope.sdk, release.sdk):
        return f"release {release.release} cannot run: it needs SDK {release.sdk}, the device has {envelope.sdk}"
    if not os_can_run(envelope.os, release.os):
        return f"release {release.release} cannot run: it needs {release.os}, the device has {envelope.os}"
    missing = [name for name in release.inputs if name not in envelope.signals.get(model, [])]
    return f"release {release.release} cannot run: the device does not send {', '.join(missing)}"


def _rollout(rollout: Rollout, have: Have, envelope: Envelope, told: Told) -> list[Reason]:
    name = f"rollout {rollout.rollout}, revision {rollout.revision}"
    reasons = [Reason("rollout", f"{name}, is {rollout.state.replace('_', ' ')}: {rollout.reason} ({rollout.author})")]
    if rollout.state == "rolled_back":
        but = " but the held-out baseline" if rollout.held is not None else ""
        reasons.append(Reason("state", f"rolled back: everyone{but} gets otherwise"))
        if rollout.held is None:
            return reasons
    hit = targets(rollout.target, envelope)
    if not hit:
        return [*reasons, *_not_meant(rollout, envelope)]
    reasons.append(Reason("target", "the device is meant"))
    reasons += _held(rollout, envelope)
    arm = arm_for(rollout, envelope)
    if rollout.state in UNDER_WAY:
        place = bucket(rollout.salt, envelope.device)
        side = "inside" if place < rollout.exposure else "outside"
        reasons.append(Reason("exposure", f"its bucket {place:.6f} is {side} the exposure {rollout.exposure:g}"))
    if arm is not None:
        place = place_of(rollout.salt, envelope.device)
        reasons.append(Reason("arm", f"{arm.name}, which uses {arm.use} (place {place:.6f} among the arms)"))
        if told.arm == "" and rollout.state == "paused":
            stays = (
                "it stays on it, in no arm until the end of the pause"
                if _keeps(rollout, told, have)
                else "it does not enter"
            )
            reasons.append(Reason("pause", f"paused, and the device runs {have.use}: {stays}"))
    return reasons


def _not_meant(rollout: Rollout, envelope: Envelope) -> list[Reason]:
    if held_before(rollout, envelope) is None:
        return [Reason("target", "the device is not meant: it gets otherwise")]
    return [
        Reason("target", "the device is not meant"),
        Reason("held out", "yes: a rollout before this one held it out, and it stays so, in no arm of this one"),
    ]


def _held(rollout: Rollout, envelope: Envelope) -> list[Reason]:
    held = rollout.held
    if held is None:
        return []
    share = next(arm.weight for arm in rollout.arms if arm.name == held.arm)
    place, reached = place_of(held.salt, envelope.device), bucket(held.salt, envelope.device)
    if place >= share:
        return [Reason("held out", f"no: place {place:.6f} is not below the share {share:g}")]
    if reached < held.exposure:
        return [Reason("held out", f"yes: place {place:.6f} is below {share:g}, bucket {reached:.6f} is reached")]
    if was_reached(held, envelope):
        return [Reason("held out", f"yes: place {place:.6f} is below {share:g}, and a rollout before reached it")]
    return [Reason("held out", f"later: bucket {reached:.6f} is not below {held.exposure:g} yet; in no arm until then")]


def _keeps(rollout: Rollout, told: Told, have: Have) -> bool:
    """Say whether the device keeps through a pause what only an arm would give it."""
    return rollout.state == "paused" and told.use == have.use != rollout.otherwise


def _outside(rollout: Rollout, told: Told, have: Have, envelope: Envelope) -> tuple[str, Use]:
    """Say why a device that is told no arm gets what it gets, and what that was meant to be."""
    arm = arm_for(rollout, envelope)
    if arm is not None and _keeps(rollout, told, have):
        return ", as before the pause", arm.use
    held_out = held_before(rollout, envelope) if arm is None else None
    return (", held out as before", held_out.use) if held_out is not None else (", otherwise", rollout.otherwise)


def _told(rollout: Rollout | None, told: Told, have: Have, envelope: Envelope) -> str:
    if rollout is None:
        where, meant = "", told.use
    elif told.arm:
        where, meant = f", in arm {told.arm}", next(arm.use for arm in rollout.arms if arm.name == told.arm)
    else:
        where, meant = _outside(rollout, told, have, envelope)
    instead = f", in place of {meant}, which does not fit" if meant != told.use else ""
    news = "which it runs already" if told.use == have.use else f"instead of {have.use}"
    return f"use {told.use}{where}{instead}: {news}"
