"""Measure our gateway beside the floor and its peers: `make bench`, or `python -m tests.bench --help`."""

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

import msgspec

from tests.bench.build import Missing
from tests.bench.machine import date_and_commit
from tests.bench.plan import FULL, QUICK, Plan, measure
from tests.bench.programs import PROGRAMS
from tests.bench.table import text_table

RESULTS: Final = Path(__file__).resolve().parent / "results"
log = logging.getLogger("bench")


def main() -> int:
    """Do what the command line says; 0 when our gateway was measured."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="ours, the floor and aiohttp alone, in under two minutes")
    parser.add_argument("--only", default="", help="these programs, with commas between them; --list names them")
    parser.add_argument("--rounds", type=int, default=0, help="how many times each is measured")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long one measurement takes")
    parser.add_argument(
        "--json", action="store_true", default=bool(os.environ.get("JSON")), help="print JSON, no table"
    )
    parser.add_argument("--list", action="store_true", help="name the programs and do nothing")
    options = parser.parse_args()
    if options.list:
        print("\n".join(f"{program.name:18} {program.about}" for program in PROGRAMS))  # noqa: T201 - the command's answer
        return 0
    plan = _plan(options)
    try:
        with tempfile.TemporaryDirectory(prefix="backhaul-bench-") as directory:
            result = measure(plan, Path(directory), log.info)
    except Missing as missing:
        log.error("cannot measure: %s", missing)
        return 1
    if not options.quick and not options.only:
        RESULTS.mkdir(exist_ok=True)
        written = RESULTS / f"{date_and_commit()[0]}.json"
        written.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
        log.info("written to %s; `make documents` puts it into the README, its own page and deploy/", written)
    programs = msgspec.to_builtins(result.programs)
    printed = (
        msgspec.json.encode(programs).decode()
        if options.json or os.environ.get("JSON")
        else text_table(msgspec.to_builtins(result))
    )
    print(printed)  # noqa: T201 - the command's answer
    return 0 if "backhaul" in result.programs or options.only else 1


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


if __name__ == "__main__":
    sys.exit(main())
