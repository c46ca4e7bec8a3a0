"""What the fleets of real clients have in common: how many there may be, and how they are ended."""

import signal
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from gateway.cli.options import whole

# Each is a directory and a database on this machine. For more there is `fleet simulate`.
MOST_DEVICES: Final = 100_000


def add_devices(command: ArgumentParser, default: int) -> None:
    """Add how many devices there are."""
    help_text = f"how many ({default}; up to {MOST_DEVICES:,}: `fleet simulate` takes millions)"
    command.add_argument("--devices", type=whole(1, MOST_DEVICES), default=default, metavar="N", help=help_text)


@contextmanager
def ended_alike() -> Iterator[None]:
    """Let SIGTERM end what runs as Ctrl-C does: no temporary directory and no child is left behind."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    on_interrupt = signal.getsignal(signal.SIGINT)
    if not callable(on_interrupt):  # a shell lets what it starts in the background ignore Ctrl-C, but not this
        raise KeyboardInterrupt
    on_interrupt(number, frame)
