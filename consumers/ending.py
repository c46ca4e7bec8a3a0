"""How a consumer waits and ends: pauses that a stop cuts short, and tasks that are given a while to finish."""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress


async def until(stop: asyncio.Event, seconds: float) -> None:
    """Wait so long, or until stopped."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.wait()


@contextmanager
def cancelled_after(work: Coroutine[None, None, None]) -> Iterator[None]:
    """Run something beside the block, and no longer than it."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()


async def wind_up(tasks: Sequence[asyncio.Task[None]], seconds: float) -> None:
    """Wait for the tasks, cancel the late ones. Raises what one died of: that is a bug, not an outage."""
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=seconds)
    for task in late:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended
