"""A child process: started again when it ends, stopped when asked, killed when it does not listen."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable

import pytest

from gateway.supervisor.child import Child

Make = Callable[..., Child]


@pytest.fixture
def make() -> Make:
    def _make(script: str, **patience: float) -> Child:
        command = [sys.executable, "-c", script]
        return Child("kid", command, environ=os.environ, fds=[], changed=lambda: None, **patience)

    return _make


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - what a process prints has no event to wait for
            await asyncio.sleep(0.01)


async def test_a_child_that_is_killed_comes_back_under_another_number(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    child = make("import time; time.sleep(60)")
    running = asyncio.create_task(child.keep_running())
    await until(lambda: child.pid is not None)
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: child.pid not in (None, first))
    assert await child.stop(10)
    assert await running == 0
    assert "kid was ended by SIGKILL; starting it again in 0.2 s" in capsys.readouterr().err


async def test_output_is_passed_on_with_the_child_s_name_in_front(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    child = make("import sys; print('one'); print('two', file=sys.stderr, end='', flush=True); sys.exit(2)")
    assert await child.keep_running() == 2
    assert sorted(capsys.readouterr().err.splitlines()) == ["kid        | one", "kid        | two"]


async def test_a_line_without_an_end_is_passed_on_in_pieces(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    child = make("import sys; sys.stdout.write('x' * 300_000); sys.exit(2)")
    assert await child.keep_running() == 2
    printed = capsys.readouterr().err
    assert printed.count("x") == 300_000
    assert max(map(len, printed.splitlines())) < 200_000


async def test_a_configuration_that_a_child_refuses_is_not_tried_again(make: Make) -> None:
    assert await make("raise SystemExit(2)").keep_running() == 2


async def test_a_command_that_cannot_be_started_is_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    child = Child("kid", ["/nowhere/at/all"], environ={}, fds=[], changed=lambda: None)
    running = asyncio.create_task(child.keep_running())
    printed: list[str] = []

    def tried_twice() -> bool:
        printed.append(capsys.readouterr().err)
        return "".join(printed).count("cannot be started") >= 2

    await until(tried_twice)
    assert await child.stop(1)
    assert await running == 0


async def test_a_child_that_does_not_leave_is_killed(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    child = make(
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    running = asyncio.create_task(child.keep_running())
    printed: list[str] = []

    def is_up() -> bool:
        printed.append(capfd.readouterr().err)
        return "up" in "".join(printed)

    await until(is_up)
    assert not await child.stop(0.1)
    assert await running == 0


async def test_a_child_that_waits_to_be_started_again_is_stopped_at_once(make: Make) -> None:
    child = make("raise SystemExit(1)")
    running = asyncio.create_task(child.keep_running())
    await until(lambda: child.pid is not None)
    await until(lambda: child.pid is None)
    assert await child.stop(10)
    async with asyncio.timeout(5):
        assert await running == 0


async def test_a_child_that_ends_during_a_stop_is_not_started_again(make: Make) -> None:
    child = make("import time; time.sleep(60)")
    running = asyncio.create_task(child.keep_running())
    await until(lambda: child.pid is not None)
    child.start_no_more()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGTERM)
    async with asyncio.timeout(10):
        assert await running == 0
    assert await child.stop(1)


STOPS_ITSELF = """
import os, signal, sys, time
for _ in range(3):
    os.write(int(sys.argv[-1]), b".")
    time.sleep(0.05)
os.kill(os.getpid(), signal.SIGSTOP)
"""


async def test_a_child_that_falls_silent_is_killed_and_started_again(
    make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    child = make(STOPS_ITSELF, silence_seconds=0.3)
    running = asyncio.create_task(child.keep_running())
    await until(lambda: child.pid is not None)
    first = child.pid
    await until(lambda: child.pid not in (None, first))
    assert "kid has not been heard of for" in capsys.readouterr().err
    await child.stop(0.1)
    assert await running == 0


async def test_a_child_that_never_beats_is_given_longer(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    child = make("import time; time.sleep(60)", silence_seconds=0.01, first_beat_seconds=0.4)
    running = asyncio.create_task(child.keep_running())
    await until(lambda: child.pid is not None)
    first = child.pid
    await until(lambda: child.pid not in (None, first))
    assert "kid has not been heard of for" in capsys.readouterr().err
    await child.stop(10)
    assert await running == 0


async def test_a_child_that_leaves_with_an_error_has_not_left_in_order(
    make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    child = make(
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n"
        "print('up', flush=True)\ntime.sleep(60)"
    )
    running = asyncio.create_task(child.keep_running())
    printed: list[str] = []

    def is_up() -> bool:
        printed.append(capfd.readouterr().err)
        return "up" in "".join(printed)

    await until(is_up)
    assert not await child.stop(10)
    assert await running == 0
