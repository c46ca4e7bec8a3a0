"""`backhaul explain`: why a device runs what it runs, now or then."""

from argparse import ArgumentTypeError, Namespace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from gateway.cli.failures import CommandError, Misused
from gateway.cli.options import Nouns, add_clickhouse, add_command, configuration, now_ms
from gateway.cli.printing import moment, note, show, show_table
from gateway.cli.rollout import use
from gateway.cli.storing import with_store

if TYPE_CHECKING:
    from clickhouse_connect.driver.asyncclient import AsyncClient

    from gateway.config import Config
    from gateway.releases.explain import Explanation
    from gateway.releases.rules import ModelRules
    from schemas.wire import Envelope, Have

# The newest batch of the device that had arrived by then: what it said of itself, and what it was told.
_SAID = """
SELECT toUnixTimestamp64Milli(received_at), sdk, app_version, os, hardware, locale,
    have[{model:String}].catalogue, have[{model:String}].use, have[{model:String}].previous,
    mapContains(have, {model:String}), mapContains(offer, {model:String}),
    offer[{model:String}].use, offer[{model:String}].arm, offer[{model:String}].rollout,
    notEmpty(signals), if(mapContains(signals, {model:String}), [signals[{model:String}]], [])
FROM batches
WHERE app = {app:String} AND device = {device:UUID} AND received_at <= fromUnixTimestamp64Milli({at:Int64})
ORDER BY received_at DESC LIMIT 1
"""
# Of a batch that came before the warehouse kept their names: it named the same as its neighbours in time.
_SIGNALS = """
SELECT mapKeys(signals) FROM events
WHERE app = {app:String} AND model = {model:String} AND device = {device:UUID} AND type = 'prediction'
    AND notEmpty(signals)
ORDER BY abs(toUnixTimestamp64Milli(received_at) - {received_at:Int64}) LIMIT 1
"""
_REPORTED = """
SELECT toUnixTimestamp64Milli(occurred_at), toString(type), release, source, state, detail,
    if(type = 'prediction', score, NULL), outcome
FROM events
WHERE app = {app:String} AND model = {model:String} AND device = {device:UUID}
    AND received_at <= fromUnixTimestamp64Milli({at:Int64})
ORDER BY received_at DESC, t DESC LIMIT 10
"""


def register(nouns: Nouns) -> None:
    """Add the command."""
    command = add_command(nouns, "explain", _explain, "why a device runs what it runs: every rule, now or then")
    command.add_argument("--app", required=True, metavar="A")
    add_clickhouse(command)
    command.add_argument("--model", required=True, metavar="M")
    command.add_argument("--device", required=True, metavar="D", help="the install's id")
    command.add_argument("--at", type=moment_of, metavar="TIME", help="2026-11-22T21:30:00Z, or epoch milliseconds")
    for flag, help_text in (
        ("--sdk", "say it, where the warehouse does not know the device"),
        ("--app-version", "the same"),
        ("--os", "the same"),
        ("--hardware", "the same"),
        ("--locale", "the same"),
        ("--signals", "the names of what it sends, A,B"),
    ):
        command.add_argument(flag, metavar="TEXT", help=help_text)
    command.add_argument("--use", type=use, metavar="N", help="what the device runs: a release, 'bundled' or 'none'")


def moment_of(text: str) -> int:
    """Read a time as epoch milliseconds; without a zone it is UTC."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no time such as 2026-11-22T21:30:00Z") from None
    return round((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def _explain(arguments: Namespace) -> int:
    from gateway.releases.explain import explain
    from gateway.releases.replay import rules_at

    config, at_ms = configuration(arguments), arguments.at if arguments.at is not None else now_ms()
    _check_known(arguments, config)
    said = _said(arguments, config, at_ms)
    envelope, have = _device(arguments, said)
    if arguments.at is not None and "said" in said:
        # The decision of then was made when the batch came, not when it is asked about.
        at_ms = said["said"]["received_at"]
    rules = with_store(config, lambda store: rules_at(store, arguments.app, arguments.model, at_ms))
    if rules is None:
        raise CommandError(f"nothing was published for {arguments.app}/{arguments.model} by {moment(at_ms)}")
    found, decision_us = explain(rules, arguments.model, have, envelope), _decision_us(rules, arguments, envelope, have)
    data = {"at": at_ms, "device": arguments.device, "told": found.told, "reasons": found.reasons}
    if arguments.json:
        known = {"said": said.get("said"), "recorded": said.get("offer"), "reported": said["events"]}
        show(arguments, data | known | {"agrees": _agrees(arguments, said, found), "decision_us": decision_us}, "")
        return 0
    note(f"as decided at {moment(at_ms)}; the decision alone takes {decision_us:.1f} microseconds here")
    show_table(arguments, ("rule", "what it came to"), [(each.rule, each.text) for each in found.reasons])
    if said.get("offer"):
        note(f"the gateway's record of {moment(said['said']['received_at'])}: told to use {_recorded(**said['offer'])}")
    if _agrees(arguments, said, found) is False:
        note(
            "the record and the replay differ: a flag overrules what the device said, it said it before the warehouse "
            "kept what predictions carry, or the gateway still went by the documents of a moment before"
        )
    show_table(arguments, _COLUMNS, [tuple(row.values()) for row in said["events"]], "it reported nothing")
    return 0


def _recorded(use: str, arm: str, rollout: int) -> str:
    arm = f"in arm {arm}" if arm else "in no arm"
    return f"{use}, {arm} of rollout {rollout}" if rollout else f"{use}, without a rollout"


def _agrees(arguments: Namespace, said: dict[str, Any], found: "Explanation") -> bool | None:
    """Say whether the replay comes to what the gateway recorded; None where there is no record of that decision."""
    if arguments.at is None or not said.get("offer"):
        return None
    told = found.told
    return bool(said["offer"] == {"use": str(told.use), "arm": told.arm, "rollout": told.rollout})


def _check_known(arguments: Namespace, config: "Config") -> None:
    """Say what is misspelt, before anything is looked for. Raises `CommandError`."""
    import uuid

    from gateway.releases.catalogues import check_model

    with_store(config, lambda store: check_model(store, arguments.app, arguments.model), app=arguments.app)
    try:
        uuid.UUID(arguments.device)
    except ValueError as error:
        raise CommandError(
            f"{arguments.device!r} is no device's id: those are UUIDs, as in `device` of events"
        ) from error


def _decision_us(rules: "ModelRules", arguments: Namespace, envelope: "Envelope", have: "Have") -> float:
    """Time what a gateway does for every batch of this device."""
    from timeit import repeat

    from msgspec.structs import replace

    from gateway.releases.decide import decide

    models, batch = {arguments.model: rules}, replace(envelope, have={arguments.model: have})
    return min(repeat(lambda: decide(models, batch), number=_TIMED, repeat=5)) / _TIMED * 1e6


_TIMED: Final = 200
_COLUMNS: Final = ("at", "type", "release", "source", "state", "detail", "score", "outcome")


def _said(arguments: Namespace, config: "Config", at_ms: int) -> dict[str, Any]:
    """Return what the warehouse knows of the device; where it cannot be asked, nothing."""
    from gateway.cli.failures import Unreachable
    from gateway.cli.warehouse import ask

    words = {"app": arguments.app, "model": arguments.model, "device": arguments.device, "at": at_ms}

    async def question(client: "AsyncClient") -> dict[str, Any]:
        batches = (await client.query(_SAID, parameters=words)).result_rows
        near = words | {"received_at": batches[0][0] if batches else at_ms}
        named = batches[0][15] if batches and batches[0][14] else None
        if named is None:
            named = [row[0] for row in (await client.query(_SIGNALS, parameters=near)).result_rows]
        events = (await client.query(_REPORTED, parameters=words)).result_rows
        found: dict[str, Any] = {"events": [dict(zip(_COLUMNS, (moment(r[0]), *r[1:]), strict=True)) for r in events]}
        if batches:
            row = batches[0]
            names = ("received_at", "sdk", "app_version", "os", "hardware", "locale")
            found["said"] = dict(zip(names, row[:6], strict=True)) | {"signals": named[0] if named else None}
            found["have"] = row[6:9] if row[9] else None
            found["offer"] = {"use": row[11], "arm": row[12], "rollout": row[13]} if row[10] else None
        return found

    try:
        return ask(config, question)
    except Unreachable as error:
        note(f"without the warehouse: {error}")
        return {"events": []}


def _device(arguments: Namespace, said: dict[str, Any]) -> "tuple[Envelope, Have]":
    """Return the device as it said it was; a flag overrules the warehouse."""
    import msgspec

    from schemas.wire import Envelope, Have

    known = said.get("said", {})
    given = {name: getattr(arguments, name) or known.get(name) or "" for name in _FACTS}
    if not given["sdk"]:
        raise CommandError(
            f"no batch of device {arguments.device} for {arguments.app} is known by then: describe the device, with at "
            "least --sdk and --use"
        )
    names = arguments.signals.split(",") if arguments.signals else known.get("signals")
    catalogue, using, previous = said.get("have") or (0, "bundled", "")
    have = Have(catalogue, arguments.use or _use(using), _use(previous) if previous else None)
    about = {"device": arguments.device, "batch": arguments.device, "seq": 0, "sent_at": 0}
    signals = {arguments.model: names} if names is not None else {}
    try:
        return msgspec.convert({**about, **given, "signals": signals}, Envelope), have
    except msgspec.ValidationError as error:
        raise Misused(f"no device is like that: {error}") from error


_FACTS: Final = ("sdk", "app_version", "os", "hardware", "locale")


def _use(text: str) -> Any:
    return int(text) if text.isdigit() else text
