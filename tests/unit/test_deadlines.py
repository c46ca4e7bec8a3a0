"""Futures with a deadline: each fails at its own time, and one timer is all that they cost."""

import asyncio

import pytest

from gateway.publish.deadlines import Deadlines


async def test_a_future_that_nobody_sets_in_time_fails_with_timeout_error() -> None:
    with pytest.raises(TimeoutError):
        await Deadlines(0.01).future()


async def test_a_future_that_is_set_in_time_returns() -> None:
    future = Deadlines(0.01).future()
    future.set_result(None)
    await future
    await asyncio.sleep(0.03)
    assert future.exception() is None


async def test_each_of_many_has_its_own_time() -> None:
    deadlines, loop = Deadlines(0.2), asyncio.get_running_loop()
    began = loop.time()
    first = deadlines.future()
    await asyncio.sleep(0.1)
    second, third = deadlines.future(), deadlines.future()
    third.set_result(None)
    with pytest.raises(TimeoutError):
        await first
    assert loop.time() - began < 0.29
    assert not second.done()
    with pytest.raises(TimeoutError):
        await second
    assert loop.time() - began >= 0.29
    assert third.exception() is None


async def test_a_future_that_was_given_up_is_left_alone() -> None:
    deadlines = Deadlines(0.02)
    waiting = asyncio.ensure_future(deadlines.future())
    waiting.cancel()
    with pytest.raises(TimeoutError):
        await deadlines.future()
    assert waiting.cancelled()


async def test_what_is_done_is_not_kept_until_its_deadline() -> None:
    deadlines = Deadlines(1000.0)
    for _ in range(100):
        deadlines.future().set_result(None)
    last = deadlines.future()
    assert len(deadlines) == 1
    last.cancel()
