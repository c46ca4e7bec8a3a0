"""The history of a model's rollouts in the store: read it, add the next document, or propose it.

* A change names the document that it follows; when someone else wrote that number, nothing is written and it says so.
* Who raises the exposure names the share, or the document looked at; who approves names the proposal looked at: two
  operators who mean the same step never take two.
* As on the gateway, a damaged document is passed over and the one before it stays in force: it can be rolled back.
* Where the app has the two-person rule, a change is a proposal until a second operator approves it. What stops a
  rollout under way (pause, rollback) never waits: a stop that needs a second person at night is no stop. To take back
  one that is complete is a change for everyone, and waits like any other.
* Under the rule nothing new is listed for a model that has no rollout document: it would reach everyone at once.
* The rule guards against mistakes, not against an operator who means harm: whoever can write to the store can write
  any document there.
"""

from collections.abc import Callable

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway.releases.apps import check_name, load_app
from gateway.releases.decide import UNDER_WAY
from gateway.releases.documents import APPS, CATALOGUES, PROPOSALS, ROLLOUTS, Series, append, newest, parse_path
from gateway.releases.errors import BadDocument, BadPlan, NotAllowed, NotNow, SomeoneWroteInBetween
from gateway.releases.keylists import listed_floor
from gateway.releases.rules import read_catalogue, read_proposal, read_rollout
from gateway.releases.store import Store
from gateway.releases.transitions import Change
from schemas.releases import App, Catalogue, Proposal, Rollout, TwoPersonRule
from schemas.wire import Use


class Entry(Struct, frozen=True, omit_defaults=True):
    """A document of the history; one that is damaged has a reason in place of a rollout."""

    number: int
    rollout: Rollout | None = None
    damage: str = ""


class Standing(Struct, frozen=True):
    """Where a model's rollouts stand: the newest number, the document in force, and what waits for approval."""

    number: int
    rollout: Rollout | None
    proposal: Proposal | None


class Changed(Struct, frozen=True):
    """What became of a change: the document `number`, or the proposal of that number where `waits`."""

    number: int
    rollout: Rollout
    before: Rollout | None
    waits: bool


async def standing(store: Store, app: str, model: str) -> Standing:
    """Return where the model's rollouts stand. Raises `StoreError`."""
    numbers, rollout = await _numbers(store, app, model), None
    for older in reversed(numbers):
        rollout = (await _entry(store, app, model, older)).rollout
        if rollout is not None:
            break
    number = numbers[-1] if numbers else 0
    proposal = await _newest_proposal(store, app, model)
    return Standing(number, rollout, proposal if proposal is not None and proposal.follows == number else None)


async def history(store: Store, app: str, model: str) -> list[Entry]:
    """Return every document, oldest first. Raises `StoreError`."""
    return [await _entry(store, app, model, number) for number in await _numbers(store, app, model)]


async def change(
    store: Store,
    app: str,
    model: str,
    step: Callable[[Rollout | None], Rollout],
    *,
    stops: bool = False,
    seen: int | None = None,
) -> Changed:
    """Take a step and write it, or propose it where the two-person rule holds.

    `stops`: the step is a stop, which never waits where it ends something that is under way. `seen` is the number of
    the document that the operator looked at. Raises `ReleaseError` or `StoreError`.
    """
    check_name("model", model)
    rule = (await load_app(store, app)).two_person
    now = await standing(store, app, model)
    if seen is not None and seen != now.number:
        raise SomeoneWroteInBetween(
            f"you looked at document {seen}, but {now.number} is the newest: look at what changed, then run this again"
        )
    rollout = step(now.rollout)
    await _check_uses(store, rollout, now.rollout, stops=stops)
    document = msgspec.json.encode(rollout)
    try:
        read_rollout(document, app, model)
    except BadDocument as error:
        raise BadPlan(f"no gateway would obey that: {error}") from error
    if rule is None or (stops and now.rollout is not None and now.rollout.state in UNDER_WAY):
        await append(store, Series(ROLLOUTS, app, model), now.number + 1, document)
        return Changed(now.number + 1, rollout, now.rollout, waits=False)
    number = await _propose(store, rollout, now.number)
    return Changed(number, rollout, now.rollout, waits=True)


async def waiting(store: Store, app: str, model: str) -> Proposal:
    """Return the change that waits for a second operator. Raises `NotNow` or `StoreError`."""
    return _waiting(await standing(store, app, model), app, model)


async def approve(
    store: Store, app: str, model: str, author: str, now_ms: int, *, proposal: int, reason: str = ""
) -> Changed:
    """Write the change that waits, as its second operator.

    `proposal` is the number of the one that the operator looked at; a `reason` joins that of the change. Raises
    `ReleaseError` or `StoreError`.
    """
    now = await standing(store, app, model)
    found = _waiting(now, app, model)
    if proposal != found.number:
        raise SomeoneWroteInBetween(
            f"you looked at proposal {proposal}, but {found.number} is the newest: look at it, then run this again"
        )
    if found.rollout.author == author:
        raise NotAllowed(f"{author} proposed this change: a second operator has to approve it")
    why = f"{found.rollout.reason}; {author}: {reason}" if reason else found.rollout.reason
    approved = replace(found.rollout, approved_by=author, reason=why, at=now_ms)
    await append(store, Series(ROLLOUTS, app, model), now.number + 1, msgspec.json.encode(approved))
    return Changed(now.number + 1, approved, now.rollout, waits=False)


async def check_steered(store: Store, app: str, model: str) -> None:
    """Refuse to list a new release that would reach everyone though the app has the two-person rule.

    Raises `NotAllowed` or `StoreError`.
    """
    if (await load_app(store, app)).two_person is None:
        return
    if (await standing(store, app, model)).rollout is None:
        raise NotAllowed(
            f"{app} has the two-person rule and {app}/{model} has no rollout, so a new release would reach everyone at "
            "once: 'rollout hold --use bundled' first (or what runs now), and a second operator approves it"
        )


async def set_two_person_rule(store: Store, app: str, change: Change, *, on: bool) -> App:
    """Turn the two-person rule on, or ask for its end, or end it as the second operator.

    Raises `ReleaseError` or `StoreError`.
    """
    current = await load_app(store, app)
    rule = current.two_person
    if (not on) if rule is None else (on and not rule.leaving):
        raise NotNow(f"the two-person rule of {app} is {'on' if on else 'off'} already")
    asked = TwoPersonRule(change.author, change.reason, change.at_ms, leaving=not on)
    if rule is not None and rule.leaving and not on:
        if rule.author == change.author:
            raise NotAllowed(f"{change.author} asked for the end of the rule: a second operator has to end it")
        changed = replace(current, number=current.number + 1, two_person=None)
    else:
        changed = replace(current, number=current.number + 1, two_person=asked)
    await append(store, Series(APPS, app), changed.number, msgspec.json.encode(changed))
    return changed


def _waiting(now: Standing, app: str, model: str) -> Proposal:
    if now.proposal is None:
        raise NotNow(f"nothing waits for approval on {app}/{model}: what was proposed before has been overtaken")
    return now.proposal


async def _check_uses(store: Store, rollout: Rollout, before: Rollout | None, *, stops: bool) -> None:
    """Check that every release may run that is new to its rollout, or given to everyone by what is no stop.

    Raises `BadPlan` or `StoreError`.
    """
    named = {arm.use for arm in rollout.arms} | {rollout.otherwise}
    known: set[Use] = set()
    if before is not None and rollout.rollout == before.rollout:
        known = {arm.use for arm in before.arms} | {before.otherwise}
        if not stops and rollout.otherwise != before.otherwise:
            known.discard(rollout.otherwise)
    fresh = sorted(use for use in named - known if isinstance(use, int))
    if not fresh:
        return
    catalogue = await _newest_catalogue(store, rollout.app, rollout.model)
    floor = max(catalogue.floor, await listed_floor(store, rollout.app, rollout.model))
    listed = {release.release for release in catalogue.releases if release.release >= floor}
    for use in fresh:
        if use not in listed:
            raise BadPlan(
                f"release {use} of {rollout.app}/{rollout.model} is not listed or is below the floor: listed are "
                f"{', '.join(map(str, sorted(listed))) or 'none'}; publish it first"
            )
    if rollout.state == "running" and catalogue.expires_at <= rollout.at:
        raise BadPlan(
            f"catalogue {catalogue.number} of {rollout.app}/{rollout.model} has expired, so no device would take up "
            f"release {fresh[-1]}: sign it again first, with 'release renew'"
        )


async def _newest_catalogue(store: Store, app: str, model: str) -> Catalogue:
    found = await newest(store, Series(CATALOGUES, app, model))
    if found is None:
        raise BadPlan(f"nothing is published for {app}/{model}: 'release publish' comes first")
    return read_catalogue(found[1], app, model, found[0])[1]


async def _numbers(store: Store, app: str, model: str) -> list[int]:
    check_name("app", app)
    check_name("model", model)
    series = Series(ROLLOUTS, app, model)
    return sorted(found[1] for found in map(parse_path, await store.names(series.prefix)) if found)


async def _entry(store: Store, app: str, model: str, number: int) -> Entry:
    stored = await store.get(Series(ROLLOUTS, app, model).path(number))
    try:
        return Entry(number, read_rollout(stored, app, model))
    except BadDocument as error:
        return Entry(number, None, str(error))


async def _newest_proposal(store: Store, app: str, model: str) -> Proposal | None:
    found = await newest(store, Series(PROPOSALS, app, model))
    if found is None:
        return None
    try:
        return read_proposal(found[1], app, model, found[0])
    except BadDocument:
        return None  # nobody can approve what cannot be read; the change is proposed again, under the next number


async def _propose(store: Store, rollout: Rollout, follows: int) -> int:
    series = Series(PROPOSALS, rollout.app, rollout.model)
    numbers = [found[1] for found in map(parse_path, await store.names(series.prefix)) if found]
    number = max(numbers, default=0) + 1
    await append(store, series, number, msgspec.json.encode(Proposal(number, follows, rollout)))
    return number
