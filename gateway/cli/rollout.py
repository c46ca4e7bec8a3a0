"""`backhaul rollout`: who runs which release, step by step, with a reason for each."""

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.cli.failures import Misused
from gateway.cli.options import Nouns, add_command, add_noun, configuration, now_ms, whole
from gateway.cli.printing import moment, show, show_table
from gateway.cli.storing import change_store, with_store

if TYPE_CHECKING:
    from gateway.releases.rollouts import Changed, Entry, Standing
    from gateway.releases.store import Store
    from gateway.releases.transitions import Change
    from schemas.releases import Rollout, Target
    from schemas.wire import Use

_TARGETS: Final = ("sdk", "app_version", "os", "locale", "hardware")
T = TypeVar("T")
Step = Callable[["Rollout | None", "Change"], "Rollout"]


def register(nouns: Nouns) -> None:
    """Add the noun and its verbs."""
    verbs = add_noun(nouns, "rollout", "who runs which release")
    _add_start(verbs)
    held = _add_step(verbs, "hold", _hold, "keep everyone on one release until a rollout names another")
    held.add_argument("--use", required=True, type=use, metavar="N", help="a release, 'bundled' or 'none'")
    advance = _add_step(
        verbs, "advance", _advance, "raise the exposure: to a share, or (with --seen) to the next stage"
    )
    advance.add_argument("--to", type=percentage, metavar="PERCENT", help="to this share")
    _add_step(verbs, "pause", _pause, "let no further device in; those that are in stay")
    _add_step(verbs, "resume", _resume, "go on after a pause")
    _add_step(verbs, "rollback", _rollback, "put everyone on what ran before, now")
    complete = _add_step(verbs, "complete", _complete, "put everyone but the baseline on the winner")
    complete.add_argument("--winner", default="challenger", metavar="ARM", help="the arm that stays (challenger)")
    approve = _add_model(add_command(verbs, "approve", _approve, "write the change that waits, as the second operator"))
    approve.add_argument(
        "--proposal", type=whole(1), metavar="N", help="the one that you looked at, as `status` has it"
    )
    approve.add_argument("--reason", default="", metavar="TEXT", help="why; it joins the reason of the change")
    approve.add_argument("--author", metavar="WHO", help="who approves (default: the user of this system)")
    rule = add_command(verbs, "rule", _rule, "let changes wait for a second operator, per app")
    rule.add_argument("--app", required=True, metavar="A")
    rule.add_argument("--two-person", required=True, choices=("on", "off"))
    _add_signed(rule)
    _add_model(add_command(verbs, "status", _status, "show where a model's rollout stands"))
    _add_model(add_command(verbs, "history", _history, "list every change"))
    diff = _add_model(add_command(verbs, "diff", _diff, "show what changed between two documents"))
    diff.add_argument("--from", dest="older", type=whole(1), metavar="N", help="the older one (default: one before)")
    diff.add_argument("--to", dest="newer", type=whole(1), metavar="N", help="the newer one (default: the newest)")


def use(text: str) -> "Use":
    """Read a release's number, 'bundled' or 'none'."""
    if text == "bundled":
        return "bundled"
    if text == "none":
        return "none"
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise ArgumentTypeError(f"{text!r} is no release's number, 'bundled' or 'none'")


def percentage(text: str) -> float:
    """Read a percentage as a share."""
    try:
        return float(text.strip().removesuffix("%")) / 100
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a percentage") from None


def stages(text: str) -> list[float]:
    """Read percentages such as 1,5,25,100 as shares."""
    return [percentage(part) for part in text.split(",")]


def _add_start(verbs: Nouns) -> None:
    start = _add_step(verbs, "start", _start, "let the first devices run a release, beside what runs now")
    start.add_argument("--challenger", required=True, type=use, metavar="N", help="the release to try")
    start.add_argument("--champion", type=use, metavar="N", help="what runs now (default: what the last rollout left)")
    baseline_help = "the share, 0 to 1, that runs no model at all, across rollouts (default: as it is)"
    start.add_argument("--baseline", type=float, metavar="SHARE", help=baseline_help)
    start.add_argument("--new-baseline", action="store_true", help="hold out other devices than before")
    start.add_argument("--stages", type=stages, metavar="P,P", help="percentages to go through (1,5,25,100)")
    target_help = "only these devices: sdk, app_version, os, locale or hardware; repeat it to narrow, or for a list"
    start.add_argument("--target", action="append", default=[], metavar="NAME=VALUE", help=target_help)


def _add_step(verbs: Nouns, name: str, run: Callable[[Namespace], int], help_text: str) -> ArgumentParser:
    command = _add_model(add_command(verbs, name, run, help_text))
    _add_signed(command)
    seen_help = "only if this is still the newest document, as `status` showed it"
    command.add_argument("--seen", type=whole(0), metavar="NUMBER", help=seen_help)
    return command


def _add_model(command: ArgumentParser) -> ArgumentParser:
    command.add_argument("--app", required=True, metavar="A")
    command.add_argument("--model", required=True, metavar="M")
    return command


def _add_signed(command: ArgumentParser) -> None:
    command.add_argument("--reason", required=True, metavar="TEXT", help="why; it stays in the history")
    command.add_argument("--author", metavar="WHO", help="who does it (default: the user of this system)")


def _author(arguments: Namespace) -> str:
    import getpass

    try:
        return str(arguments.author or getpass.getuser()).strip()
    except (KeyError, OSError):
        raise Misused("this system does not say who you are: give --author") from None


def _change_of(arguments: Namespace) -> "Change":
    from gateway.releases.transitions import Change

    if not arguments.reason.strip():
        raise Misused("--reason is empty: say why, for whoever reads the history")
    return Change(_author(arguments), arguments.reason.strip(), now_ms())


def _start(arguments: Namespace) -> int:
    from gateway.releases import transitions

    plan = transitions.Plan(
        app=arguments.app,
        model=arguments.model,
        challenger=arguments.challenger,
        champion=arguments.champion,
        baseline=arguments.baseline,
        new_baseline=arguments.new_baseline,
        stages=arguments.stages or transitions.STAGES,
        target=_target(arguments.target),
    )
    return _step(arguments, lambda last, change: transitions.start(last, plan, change))


def _hold(arguments: Namespace) -> int:
    from gateway.releases.transitions import hold

    def step(last: "Rollout | None", change: "Change") -> "Rollout":
        return hold(last, arguments.app, arguments.model, arguments.use, change)

    return _step(arguments, step, known=False)  # it may come before the first release


def _advance(arguments: Namespace) -> int:
    from gateway.releases.transitions import advance, advance_to

    if arguments.to is None and arguments.seen is not None:
        return _step(arguments, advance)
    return _step(arguments, lambda last, change: advance_to(last, change, arguments.to))


def _pause(arguments: Namespace) -> int:
    from gateway.releases.transitions import pause

    return _step(arguments, pause, stops=True)


def _resume(arguments: Namespace) -> int:
    from gateway.releases.transitions import resume

    return _step(arguments, resume)


def _rollback(arguments: Namespace) -> int:
    from gateway.releases.transitions import roll_back

    return _step(arguments, roll_back, stops=True)


def _complete(arguments: Namespace) -> int:
    from gateway.releases.transitions import complete

    return _step(arguments, lambda last, change: complete(last, change, arguments.winner))


def _step(arguments: Namespace, step: Step, *, stops: bool = False, known: bool = True) -> int:
    from gateway.releases.catalogues import check_model
    from gateway.releases.rollouts import change

    signed, app, model = _change_of(arguments), arguments.app, arguments.model

    async def take(store: "Store") -> "Changed":
        if known:
            await check_model(store, app, model)
        return await change(store, app, model, lambda last: step(last, signed), stops=stops, seen=arguments.seen)

    return _show_changed(arguments, change_store(configuration(arguments), take, app=app))


def _approve(arguments: Namespace) -> int:
    from gateway.releases.rollouts import approve

    who, app, model, looked_at = _author(arguments), arguments.app, arguments.model, arguments.proposal
    if looked_at is None:
        raise Misused(_which_waits(arguments))
    why = arguments.reason.strip()
    if not why:
        raise Misused("say why you approve it with --reason: it joins the reason of the change")
    changed = change_store(
        configuration(arguments),
        lambda store: approve(store, app, model, who, now_ms(), proposal=looked_at, reason=why),
    )
    return _show_changed(arguments, changed)


def _which_waits(arguments: Namespace) -> str:
    from gateway.releases.rollouts import waiting

    found = with_store(
        configuration(arguments), lambda store: waiting(store, arguments.app, arguments.model), app=arguments.app
    )
    change = found.rollout
    return (
        f"say which change you approve: --proposal {found.number} is the one that waits, by {change.author} "
        f"({change.reason}): {_line(change)}"
    )


def _show_changed(arguments: Namespace, changed: "Changed") -> int:
    place = "proposal" if changed.waits else "document"
    data = {"waits": changed.waits, place: changed.number, "rollout": changed.rollout}
    said = f"{_line(changed.rollout)} ({place} {changed.number})"
    end = f"; it waits for a second operator: rollout approve --proposal {changed.number}" if changed.waits else ""
    show(arguments, data, said + end)
    return 0


def _rule(arguments: Namespace) -> int:
    from gateway.releases.rollouts import set_two_person_rule

    signed, on = _change_of(arguments), arguments.two_person == "on"
    app = change_store(configuration(arguments), lambda store: set_two_person_rule(store, arguments.app, signed, on=on))
    state = "off" if app.two_person is None else "leaving" if app.two_person.leaving else "on"
    said = {"on": "is on", "off": "is off", "leaving": "stays on until a second operator turns it off too"}[state]
    show(arguments, {"app": app.app, "two_person": state}, f"the two-person rule of {app.app} {said}")
    return 0


def _status(arguments: Namespace) -> int:
    from gateway.releases.rollouts import standing

    found = _of_model(arguments, standing)
    show(arguments, found, _status_text(found))
    return 0


def _of_model(arguments: Namespace, read: "Callable[[Store, str, str], Awaitable[T]]") -> "T":
    """Read of a model that is there: of one that is misspelt it is not so that it has no rollout."""
    from gateway.releases.catalogues import check_model

    async def checked(store: "Store") -> "T":
        await check_model(store, arguments.app, arguments.model)
        return await read(store, arguments.app, arguments.model)

    return with_store(configuration(arguments), checked, app=arguments.app)


def _status_text(found: "Standing") -> str:
    rollout = found.rollout
    if rollout is None:
        lines = [f"no rollout: every device is offered the newest release that it can run (document {found.number})"]
    else:
        lines = [
            f"{_line(rollout)} (document {found.number})",
            f"by {_people(rollout)} at {moment(rollout.at)}: {rollout.reason}",
            *_who_runs_what(rollout),
        ]
        if rollout.held is not None:
            lines.append(
                f"{rollout.held.arm} is held out across rollouts, {_share(rollout.held.exposure)} of it so far"
            )
    if found.proposal is not None:
        waiting = found.proposal
        lines.append(
            f"waits for approval: proposal {waiting.number} by {waiting.rollout.author}: {_line(waiting.rollout)}"
        )
    return "\n".join(lines)


def _who_runs_what(rollout: "Rollout") -> list[str]:
    from gateway.releases.decide import UNDER_WAY

    if rollout.state not in UNDER_WAY:
        spared = " but those held out" if rollout.held is not None else ""
        return [f"every device{spared} is offered {rollout.otherwise}"]
    arms = [f"{arm.name:<12} {arm.use!s:<8} {_share(arm.weight)}" for arm in rollout.arms]
    return ["stages " + ", ".join(map(_share, rollout.stages)), "of the devices that are in it:", *arms]


def _history(arguments: Namespace) -> int:
    from gateway.releases.rollouts import history

    entries = _of_model(arguments, history)
    if arguments.json:
        show(arguments, entries, "")
        return 0
    columns = ("document", "rollout", "revision", "state", "exposure", "otherwise", "by", "at", "reason")
    show_table(arguments, columns, [_row(entry) for entry in entries], "no rollouts yet: backhaul rollout start --help")
    return 0


def _row(entry: "Entry") -> tuple[object, ...]:
    r = entry.rollout
    if r is None:
        return (entry.number, None, None, "damaged", None, None, None, None, entry.damage)
    exposure = _share(r.exposure)
    return (entry.number, r.rollout, r.revision, r.state, exposure, r.otherwise, _people(r), moment(r.at), r.reason)


def _diff(arguments: Namespace) -> int:
    from gateway.releases.rollouts import history
    from gateway.releases.transitions import differences

    entries = _of_model(arguments, history)
    good = {entry.number: entry.rollout for entry in entries if entry.rollout is not None}
    newer = arguments.newer or max(good, default=0)
    older = arguments.older or max((number for number in good if number < newer), default=0)
    for number in (newer, older or newer):
        if number not in good:
            raise Misused(f"there is no readable document {number}: see 'rollout history'")
    changes = differences(good.get(older), good[newer])
    if arguments.json:
        document = {name: {"from": old, "to": new} for name, (old, new) in changes.items()}
        show(arguments, {"from": older, "to": newer, "changes": document}, "")
        return 0
    from gateway.cli.printing import as_json

    rows = [(name, as_json(old), as_json(new)) for name, (old, new) in changes.items()]
    show_table(arguments, ("field", f"document {older or '-'}", f"document {newer}"), rows, "no difference")
    return 0


def _target(words: list[str]) -> "Target":
    import msgspec

    from schemas.releases import Target

    given: dict[str, object] = {}
    for word in words:
        if word.lstrip().startswith("{"):
            try:
                return msgspec.json.decode(word, type=Target)
            except ValueError as error:
                raise Misused(f"--target {word} is not a target: {error}") from error
        name, _, value = word.partition("=")
        name, value = name.strip().replace("-", "_"), value.strip()
        if name not in _TARGETS or not value:
            raise Misused(f"--target {word!r} is not NAME=VALUE with one of {', '.join(_TARGETS)}")
        if name in ("locale", "hardware"):
            earlier = given.setdefault(name, [])
            assert isinstance(earlier, list)  # noqa: S101 - set the line before
            earlier.append(value)
        else:
            given[name] = f"{given[name]},{value}" if name in given else value
    return msgspec.convert(given, Target)


def _line(rollout: "Rollout") -> str:
    exposure = f" at {_share(rollout.exposure)}" if rollout.state in ("running", "paused") else ""
    arms = ", ".join(f"{arm.name} {arm.use}" for arm in rollout.arms)
    name = f"{rollout.app}/{rollout.model} rollout {rollout.rollout}.{rollout.revision}"
    return f"{name} {rollout.state.replace('_', ' ')}{exposure}: {arms}, otherwise {rollout.otherwise}"


def _people(rollout: "Rollout") -> str:
    return f"{rollout.author}, approved by {rollout.approved_by}" if rollout.approved_by else rollout.author


def _share(share: float) -> str:
    return f"{share * 100:.6g} %"
