"""The pulse between a child and its supervisor, by a clock that the test turns."""

import asyncio
import os

from gateway.supervisor.pulse import Pulse, beat, keep_beating


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_silence_is_measured_from_the_last_beat_and_is_longer_before_the_first() -> None:
    clock = Clock()
    with Pulse(30.0, 600.0, clock) as pulse:
        clock.seconds += 599.0
        assert pulse.silent_seconds() is None
        clock.seconds += 2.0
        assert pulse.silent_seconds() == 601.0
        beat(pulse.fd)
        assert pulse.silent_seconds() is None
        clock.seconds += 29.0
        assert pulse.silent_seconds() is None
        clock.seconds += 2.0
        assert pulse.silent_seconds() == 31.0


def test_beats_that_nobody_reads_hold_up_nothing() -> None:
    with Pulse(30.0, 600.0) as pulse:
        for _ in range(100_000):  # more than a pipe holds
            beat(pulse.fd)
        assert pulse.silent_seconds() is None


def test_a_supervisor_that_is_gone_is_no_trouble() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    beat(writer)
    os.close(writer)


async def test_a_loop_beats_at_once() -> None:
    clock = Clock()
    with Pulse(1.0, 1.0, clock) as pulse:
        clock.seconds += 5.0
        beating = asyncio.create_task(keep_beating(pulse.fd))
        await asyncio.sleep(0)
        assert pulse.silent_seconds() is None
        beating.cancel()
