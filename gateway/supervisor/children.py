"""The children's entry points: read the configuration, run until told to leave, return an exit code.

* A child leaves in order on SIGTERM, and at once where its supervisor is gone.
* A child beats while it works, so that its supervisor can tell one that hangs.
"""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

import uvloop

from gateway.config import Config
from gateway.supervisor import lifeline
from gateway.supervisor.ports import CannotListen
from gateway.supervisor.pulse import beat, keep_beating
from gateway.supervisor.supervise import stands_back_by
from gateway.supervisor.workers import Place

_log = logging.getLogger(__name__)

_MISCONFIGURED: Final = 2


class CannotGoOn(Exception):
    """What a child needs fails it; a traceback would say nothing more."""


class Bonds(NamedTuple):
    """The descriptors that tie a child to its supervisor."""

    lifeline: int
    pulse: int


class Told:
    """What a child was told: to leave in order, or to leave now."""

    def __init__(self) -> None:
        self.leave = asyncio.Event()
        self.now = asyncio.Event()

    def leave_now(self) -> None:
        """Leave without finishing what can be done another time."""
        self.now.set()
        self.leave.set()


def run_child(name: str, config: Config, bonds: Bonds, place: Place) -> int:
    """Run the child of that name, a gateway in its place among the workers; return its exit code."""
    _log_to_stderr(config)
    if name == "clickhouse":
        from gateway.clickhouse_server import serve

        directory = config.directory / "clickhouse"
        return serve(directory, config.clickhouse_port, bonds.lifeline, partial(beat, bonds.pulse))
    if name == "gateway":
        from gateway.supervisor.gateway import serve_devices

        os.nice(stands_back_by(config))
        return _until_told(lambda told: serve_devices(config, place, told.leave), config, bonds)
    from gateway.supervisor.warehouse import fill_warehouse

    numbers = place.listening() if place.socket_fd >= 0 else None
    return _until_told(lambda told: fill_warehouse(config, told, numbers, catch_up=True), config, bonds)


def consume_warehouse(config: Config) -> int:
    """Run the warehouse consumer without a supervisor, until SIGTERM or SIGINT."""
    from gateway.supervisor.warehouse import fill_warehouse

    _log_to_stderr(config)
    return _until_told(lambda told: fill_warehouse(config, told, None, catch_up=False), config, None)


def consume_unpack(config: Config) -> int:
    """Run the unpacking consumer, until SIGTERM or SIGINT."""
    from gateway.supervisor.unpack import unpack_events

    _log_to_stderr(config)
    return _until_told(lambda told: unpack_events(config, told), config, None)


def _until_told(body: Callable[[Told], Coroutine[Any, Any, None]], config: Config, bonds: Bonds | None) -> int:
    async def main() -> None:
        told, loop = Told(), asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, told.leave.set)
        loop.add_signal_handler(signal.SIGINT, told.leave.set)
        if bonds is None:
            return await body(told)
        lifeline.watch(bonds.lifeline, partial(loop.call_soon_threadsafe, told.leave_now), config.grace_seconds)
        beating = asyncio.create_task(keep_beating(bonds.pulse))
        try:
            await body(told)
        finally:
            beating.cancel()
            with suppress(asyncio.CancelledError):
                await beating

    try:
        uvloop.run(main())
    except CannotGoOn as error:
        _log.error("cannot go on: %s", error)
        return 1
    except CannotListen as error:
        _log.error("%s", error)
        return _MISCONFIGURED
    return 0


def _log_to_stderr(config: Config) -> None:
    logging.basicConfig(level=config.log_level.upper(), stream=sys.stderr, format="%(levelname)s %(name)s: %(message)s")
    # It tells of every refused connection; what matters of them is told by the parts that use it.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
