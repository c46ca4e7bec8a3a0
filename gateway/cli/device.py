"""`backhaul device`: the conformance kit, against a gateway or an SDK, and the reference client as a driver."""

from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING

from gateway.cli.failures import DONE, FAILED, CommandError, Misused, Unreachable
from gateway.cli.options import Nouns, add_command, add_noun, whole
from gateway.cli.printing import note, show, show_table

if TYPE_CHECKING:
    from gateway.client.conformance import Result


def register(nouns: Nouns) -> None:
    """Add the noun and its verbs."""
    verbs = add_noun(nouns, "device", "what every device and every gateway must do, row by row")
    check = add_command(
        verbs,
        "check",
        _check,
        "run the conformance kit against a gateway (URL) or an SDK (--driver); what it sends to a gateway goes to the "
        "app whose key is given, from devices with new random ids, so give it an app of its own",
        configured=False,
    )
    check.add_argument("url", nargs="?", metavar="URL", help="the gateway")
    check.add_argument("--app-key", metavar="KEY", help="the app's key, where events may go")
    check.add_argument("--revoked-key", metavar="KEY", help="a revoked key of the app, to see that it is refused")
    check.add_argument("--model", metavar="M", default="upsell", help="the app's model to ask about (upsell)")
    check.add_argument(
        "--public-key", metavar="FILE", type=Path, action="append", default=[], help="a key that must have signed"
    )
    check.add_argument("--read-only", action="store_true", help="send nothing that the gateway would keep")
    check.add_argument("--driver", metavar="COMMAND", help="the command that starts the SDK's driver (PROTOCOL.md)")
    check.add_argument("--log", metavar="FILE", type=Path, help="where the drivers' stderr goes (default: nowhere)")
    check.add_argument("--at-once", type=whole(1), default=4, metavar="N", help="rows that run at the same time (4)")
    check.add_argument(
        "--answer-seconds", type=whole(1), default=30, metavar="N", help="how long a driver may take to answer (30)"
    )
    check.add_argument("--row", metavar="ROW", action="append", default=[], help="only this row, such as 13 or G7")
    driver = "speak the driver's protocol for the reference client, on stdin and stdout"
    add_command(verbs, "driver", _driver, driver, configured=False, prints=False)


def _check(arguments: Namespace) -> int:
    if (arguments.url is None) == (arguments.driver is None):
        raise Misused("name either a gateway's URL or a --driver")
    return _report(arguments, _gateway(arguments) if arguments.driver is None else _sdk(arguments))


def _gateway(arguments: Namespace) -> "list[Result]":
    import asyncio

    from gateway.client.conformance.contract import ROWS
    from gateway.client.conformance.gateways import KeyRefused, Target, Unreached, judge
    from gateway.releases.errors import ReleaseError
    from gateway.releases.keys import load_public

    if not arguments.url.startswith(("http://", "https://")):
        raise Misused(f"{arguments.url} is no URL of a gateway, such as http://127.0.0.1:8080")
    if not arguments.app_key:
        raise Misused("a gateway is asked as an app: give its --app-key")
    wanted = _wanted(arguments, [row.name for row in ROWS.rows])
    try:
        target = Target(
            arguments.url,
            arguments.app_key,
            arguments.model,
            [load_public(path) for path in arguments.public_key],
            arguments.revoked_key,
            arguments.read_only,
        )
        return asyncio.run(judge(target, only=wanted, watch=_Progress(len(wanted))))
    except (ReleaseError, KeyRefused) as error:
        raise CommandError(str(error)) from error
    except Unreached as error:
        raise Unreachable(str(error)) from error


def _sdk(arguments: Namespace) -> "list[Result]":
    import asyncio
    from subprocess import DEVNULL

    from gateway.client.conformance.devices import greet, judge
    from gateway.client.conformance.results import Failed, Skipped
    from gateway.client.conformance.rows import ROWS

    command = _command(arguments.driver)
    wanted = _wanted(arguments, [row.name for row in ROWS.rows])
    with ExitStack() as stack:
        log: IO[bytes] | int = DEVNULL
        try:
            if arguments.log is not None:
                log = stack.enter_context(arguments.log.open("ab"))
        except OSError as error:
            raise CommandError(f"cannot write the log: {error}") from error
        seconds = float(arguments.answer_seconds)

        async def work() -> "list[Result]":
            await greet(command, seconds)
            watch = _Progress(len(wanted))
            return await judge(
                command, log=log, only=wanted, at_once=arguments.at_once, answer_seconds=seconds, watch=watch
            )

        try:
            return asyncio.run(work())
        except (Failed, Skipped) as error:
            raise CommandError(f"the driver cannot be judged: {error}") from error


def _command(driver: str) -> list[str]:
    """Split a command line, and say what is wrong with it before anything is started."""
    import shlex
    from shutil import which

    try:
        command = shlex.split(driver)
    except ValueError as error:
        raise Misused(f"the --driver cannot be read: {error}") from error
    if not command:
        raise Misused("the --driver is empty")
    if which(command[0]) is None:
        why = "is not executable" if Path(command[0]).is_file() else "is not there"
        raise Unreachable(f"the driver's command {command[0]!r} {why}")
    return command


def _wanted(arguments: Namespace, rows: list[str]) -> list[str]:
    unknown = set(arguments.row) - set(rows)
    if unknown:
        raise Misused(f"there is no row {', '.join(sorted(unknown))}: there are {', '.join(rows)}")
    return arguments.row or rows


class _Progress:
    """A line for each row as it ends, also where stderr is a file: a whole kit takes a minute."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._done = 0

    def __call__(self, result: "Result") -> None:
        self._done += 1
        why = f": {result.why}" if result.outcome == "failed" else ""
        note(f"{self._done}/{self._rows}  {result.outcome:<7}  {result.row}{why}")


def _report(arguments: Namespace, results: "list[Result]") -> int:
    import msgspec

    from gateway.client.conformance.results import NO_CATALOGUE

    outcomes = [result.outcome for result in results]
    count = {outcome: outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")}
    if arguments.json:
        show(arguments, {**count, "rows": msgspec.to_builtins(results)}, "")
    else:
        marks = {"passed": "ok", "failed": "FAIL", "skipped": "skip"}
        rows = [(each.row, marks[each.outcome], each.sentence, each.why) for each in results]
        show_table(arguments, ("row", "", "what happens: what is required", "why"), rows)
        note(", ".join(f"{number} {outcome}" for outcome, number in count.items()))
    if any(each.why.startswith(NO_CATALOGUE) for each in results):
        note("nothing of updates was checked: publish a release of the app's model and check again")
    return FAILED if count["failed"] else DONE


def _driver(_: Namespace) -> int:
    from gateway.client.conformance.driver import main

    main()
    return DONE
