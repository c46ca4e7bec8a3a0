"""Measure our gateway beside the floor and its peers: `make bench`, or `python -m tests.bench --help`.

* What was measured goes to standard output, as a table or as JSON; all that is said on the way goes to standard error.
* Ended from outside, by Ctrl-C or SIGTERM, it leaves no server running behind it.
"""

import argparse
import logging
import os
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from tests.bench.aims import OURS
from tests.bench.build import Missing
from tests.bench.machine import date_and_commit
from tests.bench.plan import FULL, QUICK, Plan, measure
from tests.bench.processes import tree
from tests.bench.programs import PROGRAMS
from tests.bench.result import Result
from tests.bench.table import text_table

RESULTS: Final = Path(__file__).resolve().parent / "results"
_ENDED_BY_SIGINT: Final = 128 + 2
log = logging.getLogger("bench")


def main() -> int:
    """Do what the command line says; 0 when our gateway was measured."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    options = _options()
    if options.list:
        print("\n".join(f"{program.name:26} {program.about}" for program in PROGRAMS))  # noqa: T201 - the command's answer
        return 0
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        with tempfile.TemporaryDirectory(prefix="backhaul-bench-") as directory:
            result = measure(_plan(options), Path(directory), log.info)
    except Missing as missing:
        log.error("cannot measure: %s", missing)
        return 1
    except KeyboardInterrupt:
        _end_the_rest()
        log.error("interrupted: nothing was written, and all that was started has ended")
        return _ENDED_BY_SIGINT
    if not options.quick and not options.only and OURS in result.programs:
        _keep(result)
    programs = msgspec.to_builtins(result.programs)
    printed = msgspec.json.encode(programs).decode() if options.json else text_table(msgspec.to_builtins(result))
    print(printed)  # noqa: T201 - the command's answer
    return 0 if OURS in result.programs or options.only else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="ours, the floor and aiohttp alone, in under two minutes")
    parser.add_argument("--only", default="", help="these programs, with commas between them; --list names them")
    parser.add_argument("--rounds", type=int, default=0, help="how many times each is measured; 0: as planned")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long one measurement takes; 0: as planned")
    parser.add_argument(
        "--json", action="store_true", default=bool(os.environ.get("JSON")), help="print JSON, no table"
    )
    parser.add_argument("--list", action="store_true", help="name the programs and do nothing")
    options = parser.parse_args()
    if options.rounds < 0 or options.seconds < 0:
        parser.error("--rounds and --seconds cannot be negative")
    unknown = set(filter(None, options.only.split(","))) - {program.name for program in PROGRAMS}
    if unknown:
        parser.error(f"no such program: {', '.join(sorted(unknown))}; --list names them")
    return options


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    changes: dict[str, object] = {}
    if options.only:
        changes |= {"programs": tuple(options.only.split(",")), "beside": False}
    if options.rounds:
        changes["rounds"] = options.rounds
    if options.seconds:
        changes["seconds"] = options.seconds
    return msgspec.structs.replace(plan, **changes)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """Unwind, once: a second Ctrl-C in the middle of that would leave servers behind."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def _end_the_rest() -> None:
    """End a server that was being started when the signal came, so that nobody knew of it yet."""
    for pid in tree(os.getpid())[1:]:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _keep(result: Result) -> None:
    RESULTS.mkdir(exist_ok=True)
    written = RESULTS / f"{date_and_commit()[0]}.json"
    written.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    log.info("written to %s; `make documents` puts it into the README, its own page and deploy/", written)


if __name__ == "__main__":
    sys.exit(main())
