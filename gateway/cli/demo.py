"""`backhaul demo`: the whole path on this machine, shown and checked."""

from argparse import Namespace
from pathlib import Path

from gateway.cli.options import Nouns, add_command, seconds, this_command, whole

_ENDED_BY_SIGTERM = 128 + 15


def register(nouns: Nouns) -> None:
    """Add the command."""
    help_text = "show the whole path on this machine: phones, gateway, log, warehouse, a model over the air"
    command = add_command(nouns, "demo", _demo, help_text, configured=False)
    command.add_argument("--devices", type=whole(1), default=200, metavar="N", help="how many phones (200)")
    command.add_argument("--seconds", type=seconds, default=60.0, metavar="S", help="how long they live (60)")
    command.add_argument("--seed", type=int, default=1, metavar="N", help="the same seed is the same users (1)")
    command.add_argument("--keep", action="store_true", help="go on serving afterwards, until Ctrl-C")
    command.add_argument("--data", type=Path, metavar="DIR", help="a new directory to keep (default: a temporary one)")


def _demo(arguments: Namespace) -> int:
    import asyncio

    from gateway.demo import DemoOptions, run_demo

    options = DemoOptions(
        devices=arguments.devices,
        seconds=arguments.seconds,
        seed=arguments.seed,
        keep=arguments.keep,
        json=arguments.json,
        data=arguments.data,
        command=this_command(),
    )
    try:
        return asyncio.run(run_demo(options))
    except asyncio.CancelledError:
        return _ENDED_BY_SIGTERM
