"""The command line: parse, call, print; one file per noun.

* Nothing heavy is imported before a command runs, so that `--help` answers at once.
* Every failure is one line on stderr and an exit code (`failures`).
"""

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version

from gateway.cli import (
    app,
    child,
    consume,
    cost,
    dead_letters,
    demo,
    device,
    doctor,
    explain,
    fleet,
    key,
    release,
    report,
    rollout,
    serve,
    sql,
    static,
)
from gateway.cli.failures import FAILED, MISUSED, CommandError, one_line
from gateway.cli.options import Parser
from gateway.config import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = child.parser().parse_args(words[1:]) if words[:1] == ["child"] else _parser().parse_args(words)
    try:
        code: int = arguments.run(arguments)
    except CommandError as error:
        return _fail(error, error.code)
    except ConfigError as error:
        return _fail(error, MISUSED)
    except KeyboardInterrupt:
        return 128 + 2
    except BrokenPipeError:  # `backhaul ... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return code


def _parser() -> Parser:
    parser = Parser(
        prog="backhaul",
        description="Telemetry out, model news back, in one round trip.",
        epilog="Every command that prints takes --json. Exit codes: 0 done, 1 failed or refused, "
        "2 usage or configuration, 3 something could not be reached.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"backhaul {version('backhaul')}")
    nouns = parser.add_subparsers(dest="noun", metavar="COMMAND", required=True, parser_class=Parser)
    for command in (
        serve,
        app,
        key,
        release,
        rollout,
        explain,
        cost,
        static,
        report,
        dead_letters,
        sql,
        fleet,
        device,
        demo,
        doctor,
        consume,
    ):
        command.register(nouns)
    return parser


def _fail(error: Exception, code: int) -> int:
    sys.stderr.write(f"backhaul: {one_line(error)}\n")
    return code
