"""`backhaul doctor`: what is well, what is not, what to do."""

from argparse import Namespace
from typing import TYPE_CHECKING, Final

from gateway.cli.failures import DONE, FAILED, MISUSED
from gateway.cli.options import Nouns, add_clickhouse, add_command, add_kafka, configuration
from gateway.cli.printing import show

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.doctor import Finding

_MARKS: Final = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


def register(nouns: Nouns) -> None:
    """Add the command."""
    about = "check configuration, versions, disk, clocks and what can be reached"
    command = add_command(nouns, "doctor", _doctor, about)
    add_kafka(command)
    add_clickhouse(command)


def _doctor(arguments: Namespace) -> int:
    import asyncio

    from gateway.config import ConfigError
    from gateway.doctor import Finding

    try:
        config = configuration(arguments)
    except ConfigError as error:
        wrong = Finding("configuration", "fail", str(error), "correct it; nothing else was looked at")
        show(arguments, [wrong], _line(wrong))
        return MISUSED
    findings = asyncio.run(_examined(config))
    show(arguments, findings, "\n".join(map(_line, findings)))
    return FAILED if any(finding.state == "fail" for finding in findings) else DONE


async def _examined(config: "Config") -> "list[Finding]":
    from gateway.doctor import examine

    return [finding async for finding in examine(config)]


def _line(finding: "Finding") -> str:
    advice = f" -> {finding.advice}" if finding.advice else ""
    return f"{_MARKS[finding.state]}  {finding.part:<13}  {finding.text}{advice}"
