"""`backhaul dead-letters`: what was refused, why, and bringing it back."""

import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NoReturn

from gateway.cli.failures import DONE, FAILED, CommandError, Misused, Unreachable
from gateway.cli.options import (
    Nouns,
    add_clickhouse,
    add_command,
    add_kafka,
    add_noun,
    check_files,
    configuration,
    whole,
)
from gateway.cli.printing import moment, note, show, show_table

if TYPE_CHECKING:
    from clickhouse_connect.driver.asyncclient import AsyncClient

    from consumers.dead_letters import Filters, Kept
    from gateway.cli.replaying import Outcome

_DIGEST_CHARACTERS: Final = 32
_LEAST_CHARACTERS: Final = 6
_NOTHING: Final = "no dead letters"


def register(nouns: Nouns) -> None:
    """Add the noun and its verbs."""
    verbs = add_noun(nouns, "dead-letters", "what was refused, why, and bringing it back")
    each = add_command(verbs, "list", _list, "list what was refused, the newest first")
    _add_filters(each)
    one = add_command(verbs, "show", _show, "show one dead letter, whole")
    one.add_argument("digest", metavar="DIGEST", type=_digest, help="as listed; its first characters do")
    add_clickhouse(one)
    again = add_command(verbs, "replay", _replay, "judge dead letters again, and store what is acceptable now")
    again.add_argument("digests", metavar="DIGEST", type=_digest, nargs="*", help="these; without any, by the filters")
    again.add_argument("--dry-run", action="store_true", help="judge only")
    _add_filters(again)
    add_kafka(again)


def _add_filters(command: ArgumentParser) -> None:
    command.add_argument("--app", metavar="A", default="", help="one app (default: all)")
    command.add_argument("--reason", metavar="R", default="", help="one reason code (default: all)")
    command.add_argument("--limit", metavar="N", type=whole(1), default=50, help="at most so many (default: 50)")
    add_clickhouse(command)


def _digest(text: str) -> str:
    found = text.lower()
    if not _LEAST_CHARACTERS <= len(found) <= _DIGEST_CHARACTERS or set(found) - set("0123456789abcdef"):
        raise ArgumentTypeError(f"{text!r} is not the beginning of a digest: {_LEAST_CHARACTERS} characters at least")
    return found


def _list(arguments: Namespace) -> int:
    from consumers.dead_letters import listed
    from gateway.cli.warehouse import ask

    found = ask(configuration(arguments), lambda client: listed(client, _filters(arguments)))
    if arguments.json:
        show(arguments, found, "")
        return DONE
    columns = ("digest", "received", "app", "reason", "device", "batch", "index", "encoding", "bytes")
    rows = [
        (
            *(each.digest, moment(each.received_at), each.app, each.reason, each.device, each.batch),
            *(each.index, each.encoding, each.size_bytes),
        )
        for each in found
    ]
    show_table(arguments, columns, rows, _NOTHING)
    return DONE


def _filters(arguments: Namespace, digests: Sequence[str] = ()) -> "Filters":
    from consumers.dead_letters import Filters

    return Filters(arguments.app, arguments.reason, tuple(digests), arguments.limit)


def _show(arguments: Namespace) -> int:
    from consumers.dead_letters import Filters, kept
    from gateway.cli.warehouse import ask

    found = ask(configuration(arguments), lambda client: kept(client, Filters(digests=(arguments.digest,), limit=2)))
    if len(found) != 1:
        _not_one(arguments.digest, found)
    (one,) = found
    if arguments.json:
        show(arguments, one, "")
        return DONE
    letter = one.letter
    rows = [
        ("digest", one.digest),
        ("app", letter.app),
        ("received", moment(letter.received_at)),
        ("reason", letter.reason),
        ("device", letter.device),
        ("batch", letter.batch),
        ("index", letter.index),
        ("stood at", f"{one.topic}/{one.partition} offset {one.offset}"),
        ("encoding", letter.encoding),
    ]
    show_table(arguments, ("what", "value"), rows)
    sys.stdout.write(f"\n{letter.body}\n")
    return DONE


def _not_one(digest: str, found: "Sequence[Kept]") -> NoReturn:
    if found:
        raise CommandError(f"several dead letters begin with {digest}: say more of the digest")
    raise CommandError(f"no dead letter begins with {digest}: `backhaul dead-letters list` shows them")


def _replay(arguments: Namespace) -> int:
    outcomes = _replayed(arguments)
    if arguments.json:
        show(arguments, outcomes, "")
    else:
        columns = ("digest", "app", "outcome", "batch", "accepted", "refused", "detail")
        rows = [tuple(getattr(each, name) for name in columns) for each in outcomes]
        show_table(arguments, columns, rows, _NOTHING)
    refused = [each for each in outcomes if each.outcome == "refused again"]
    if refused and not arguments.json:
        note(f"{len(refused)} of {len(outcomes)} are refused by today's rules too")
    return FAILED if refused else DONE


def _replayed(arguments: Namespace) -> "list[Outcome]":
    from consumers.dead_letters import kept
    from gateway.cli.replaying import bring_back
    from gateway.cli.warehouse import ask
    from gateway.publish import Unavailable
    from gateway.quiet import quiet

    if not (arguments.digests or arguments.app or arguments.reason):
        raise Misused("say which: digests, --app or --reason")
    config = configuration(arguments)
    check_files(config)

    async def again(client: "AsyncClient") -> "list[Outcome]":
        # Every digest may turn out to be the beginning of two.
        arguments.limit = max(arguments.limit, 2 * len(arguments.digests))
        letters = await kept(client, _filters(arguments, arguments.digests))
        for digest in arguments.digests:
            matching = [each for each in letters if each.digest.startswith(digest)]
            if len(matching) != 1:
                _not_one(digest, matching)
        return await bring_back(client, config, letters, dry=arguments.dry_run)

    try:
        with quiet("aiokafka", "gateway.publish"):  # what is wrong is said once, below
            return ask(config, again)
    except Unavailable as error:
        raise Unreachable(f"the log takes nothing now: {error.reason}") from error
