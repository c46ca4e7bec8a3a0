"""How each kind of part is hit and healed."""

import asyncio
import logging
import os
import signal
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from consumers.positions import keep, load, positions_path
from deploy.local_kafka import Broker
from schemas.topics import BATCHES
from tests.campaign.clocks import Clock
from tests.campaign.disks import Disk
from tests.campaign.processes import Process, Serve
from tests.campaign.proxy import Mode, Proxy
from tests.campaign.rest import left_in_file
from tests.campaign.schedule import Fault

Hit = Callable[[Fault], Awaitable[None]]

_KILLED_SECONDS = 10.0
# Well below the silence for which a supervisor kills a gateway.
_READ_SECONDS = 15.0
_AGAIN_SECONDS = 0.05

_log = logging.getLogger(__name__)


def on_process(process: Process) -> Hit:
    async def hit(fault: Fault) -> None:
        if fault.kind == "stop":
            process.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            process.signal(signal.SIGCONT)
        else:
            process.signal(signal.SIGKILL)
            await process.ended(_KILLED_SECONDS)
            await asyncio.sleep(fault.seconds)
            process.start()

    return hit


def on_consumer(process: Process, groups: list[str]) -> Hit:
    """A consumer alone. From zero: it comes back in a group that has committed nothing yet, beside the others.

    `groups` is given the group that it is in, last.
    """
    plain, usual = on_process(process), groups[-1]

    async def hit(fault: Fault) -> None:
        if fault.kind != "stop":
            groups.append(f"zero-{len(groups)}" if fault.kind == "from_zero" else usual)
            process.environ["BACKHAUL_KAFKA_GROUP"] = groups[-1]
        await plain(fault)

    return hit


def on_child(serve: Serve, child: str) -> Hit:
    async def hit(fault: Fault) -> None:
        if fault.kind == "from_zero":
            await _lose_positions(serve)
            return
        pid = await serve.pid_of(child)
        _send(pid, signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        if fault.kind == "stop":
            _send(pid, signal.SIGCONT)

    return hit


async def _lose_positions(serve: Serve) -> None:
    """Have the warehouse consumer begin at offset 0 of what the embedded log still holds.

    The gateway is stopped where there is something to read, and so does not trim what the consumer then reads.
    """
    log = serve.directory / "log"
    gateway = await serve.pid_of("gateway")
    try:
        async with asyncio.timeout(_READ_SECONDS):
            while not await asyncio.to_thread(_stopped_with_unread, gateway, log):  # noqa: ASYNC110 - of a file
                await asyncio.sleep(_AGAIN_SECONDS)
            while await asyncio.to_thread(left_in_file, log, (BATCHES,)):  # noqa: ASYNC110 - of a file
                await asyncio.sleep(_AGAIN_SECONDS)
    except (TimeoutError, OSError, sqlite3.Error):  # other faults last: then there is less to read again
        _log.info("the consumer did not reach the log's end", exc_info=True)
    _send(await serve.pid_of("warehouse"), signal.SIGKILL)
    path = positions_path(log, "warehouse")
    kept = load(path)
    if kept is not None:
        with suppress(OSError):  # a disk that is full: then it was killed, no more
            keep(path, msgspec.structs.replace(kept, positions=dict.fromkeys(kept.positions, 0)))
    _send(gateway, signal.SIGCONT)


def _stopped_with_unread(gateway: int, log: Path) -> bool:
    """Stop the gateway; let it go on where everything on the log is read."""
    _send(gateway, signal.SIGSTOP)
    unread = left_in_file(log, (BATCHES,)) > 0
    if not unread:
        _send(gateway, signal.SIGCONT)
    return unread


def on_broker(broker: Broker, environ: Mapping[str, str]) -> Hit:
    async def hit(fault: Fault) -> None:
        if fault.kind == "kill":
            await asyncio.to_thread(broker.kill)
            await asyncio.sleep(fault.seconds)
            await asyncio.to_thread(broker.start, environ)
        else:
            broker.pause()
            await asyncio.sleep(fault.seconds)
            broker.resume()

    return hit


def on_way(way: Proxy) -> Hit:
    async def hit(fault: Fault) -> None:
        mode: Mode = fault.kind  # type: ignore[assignment]  # the ways' targets list these kinds only
        way.become(mode)
        await asyncio.sleep(fault.seconds)
        way.become("pass")

    return hit


def on_disk(disk: Disk) -> Hit:
    async def hit(fault: Fault) -> None:
        await disk.be_full(fault.seconds)

    return hit


def on_clock(clock: Clock) -> Hit:
    async def hit(fault: Fault) -> None:
        clock.step(fault.clock_seconds)
        await asyncio.sleep(fault.seconds)
        clock.step(0.0)

    return hit


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
