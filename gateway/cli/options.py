"""What every command has in common: its parser, the shared flags, and the configuration they lead to."""

import argparse
import os
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from gateway.cli.failures import MISUSED

if TYPE_CHECKING:
    from gateway.config import Config

# argparse gives this type no public name, and it takes a parameter for the type checker only.
Nouns: TypeAlias = "argparse._SubParsersAction[Any]"


class Parser(ArgumentParser):
    """An argument parser that says what is wrong in one line, as every other error is said."""

    def error(self, message: str) -> NoReturn:
        """Leave with the usage exit code."""
        sys.stderr.write(f"{self.prog}: {message} (see {self.prog} --help)\n")
        raise SystemExit(MISUSED)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[Any, list[str]]:
        """Refuse what is unknown where it stands: argparse would have the outermost parser refuse it."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown


def add_command(
    nouns: Nouns,
    name: str,
    run: Callable[[Namespace], int],
    help_text: str,
    *,
    configured: bool = True,
    prints: bool = True,
) -> ArgumentParser:
    """Add a command with the shared flags; the caller adds its own."""
    command: ArgumentParser = nouns.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
    if configured:
        command.add_argument("--data", metavar="DIR", help="the data directory (default: backhaul-data)")
        command.add_argument("--config", metavar="FILE", type=Path, help="a TOML file of configuration keys")
    if prints:
        command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)
    return command


def add_noun(nouns: Nouns, name: str, help_text: str) -> Nouns:
    """Add a noun whose verbs are commands."""
    noun: ArgumentParser = nouns.add_parser(name, help=help_text, description=help_text, allow_abbrev=False)
    return noun.add_subparsers(dest="verb", metavar="COMMAND", required=True)


def add_kafka(command: ArgumentParser) -> None:
    """Add the flag that names the brokers."""
    command.add_argument("--kafka", metavar="HOST:PORT[,..]", help="Kafka brokers (default: the log is a file)")


def add_clickhouse(command: ArgumentParser) -> None:
    """Add the flag that names the warehouse."""
    command.add_argument("--clickhouse", metavar="URL", help="the ClickHouse server (default: the embedded one)")


def configuration(arguments: Namespace) -> "Config":
    """Read the configuration with this command's flags on top. Raises `ConfigError`."""
    from gateway.config import load

    flags = {
        "data": arguments.data,
        "listen": getattr(arguments, "listen", None),
        "workers": getattr(arguments, "workers", None),
        "kafka_bootstrap": getattr(arguments, "kafka", None),
        "clickhouse_url": getattr(arguments, "clickhouse", None),
    }
    return load(flags, os.environ, arguments.config)


def check_files(config: "Config") -> None:
    """Look at the files that the keys of the servers name. Raises `ConfigError`."""
    from gateway.config import ConfigError
    from gateway.config_kafka import unusable

    kafka = config.kafka
    if kafka is not None and (wrong := unusable(kafka)):
        raise ConfigError(wrong)
    if config.clickhouse_ca_file and not os.access(config.clickhouse_ca_file, os.R_OK):
        raise ConfigError(f"clickhouse_ca_file cannot be read: {config.clickhouse_ca_file}")


def this_command() -> str:
    """Return what starts this very program from any directory, to be pasted into a shell."""
    import shlex
    from shutil import which

    found = Path(which(sys.argv[0]) or sys.argv[0]).absolute()
    started_as_module = found.name == "__main__.py" or not os.access(found, os.X_OK)
    words = [sys.executable, "-P", "-m", "gateway.cli"] if started_as_module else [str(found)]
    return shlex.join(words)


def whole(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a reader of whole numbers from `least` up, to `most` where that is given."""

    def read(text: str) -> int:
        number = int(text)
        if number < least:
            raise ArgumentTypeError(f"{number} is below {least}")
        if most is not None and number > most:
            raise ArgumentTypeError(f"{number} is above {most}")
        return number

    read.__name__ = "whole number"  # argparse says it: invalid whole number value
    return read


def seconds(text: str) -> float:
    """Read a positive number of seconds."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ArgumentTypeError(f"{text} is not a positive number of seconds")
    return number


def now_ms() -> int:
    """Return the wall clock in epoch milliseconds."""
    import time

    return time.time_ns() // 1_000_000
