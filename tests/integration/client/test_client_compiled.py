"""What a runtime compiled: kept from launch to launch, and made again from the artifact whenever it is in doubt."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.integration.client.conftest import CompilingRuntime

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.client.conftest import World

DIES_IN_A_LOAD = """
import os, signal, sys
from pathlib import Path
from gateway.client.tries import Tries
with Tries(Path(sys.argv[1])).marked(sys.argv[2], sys.argv[3], "load"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
async def runtime(world: World) -> CompilingRuntime:
    """Compile the bundle (0.2) and release 42 (0.8)."""
    world.runtime = found = CompilingRuntime()
    world.offer_42()
    async with world.client() as client:
        await client.flush()
        assert world.runs(client) == (42, "ota", 42)
    assert found.compiled == [0.2, 0.8]
    return found


def forms(world: World) -> list[Path]:
    return sorted((world.directory / "compiled").iterdir())


async def test_what_was_compiled_serves_every_launch_on_the_same_sdk_and_system(
    world: World, runtime: CompilingRuntime
) -> None:
    for _ in range(3):
        async with world.client() as client:
            assert world.runs(client) == (42, "ota", 42)
    assert runtime.compiled == [0.2, 0.8]


async def test_an_update_of_the_system_the_sdk_or_the_compiler_compiles_again_without_a_download(
    world: World, runtime: CompilingRuntime
) -> None:
    changes: list[dict[str, str]] = [{"os": "iOS 20.0"}, {"os": "iOS 20.0", "sdk": "2.4.0"}]
    for change in changes:
        async with world.client(**change) as client:
            assert world.runs(client) == (42, "ota", 42)
    runtime.compiler = "mock 2"
    async with world.client(**changes[-1]) as client:
        assert world.runs(client) == (42, "ota", 42)
        said = await world.steps(client)
    assert runtime.compiled == [0.2, 0.8, 0.8, 0.8, 0.8]
    assert len(world.gateway.fetches) == 1
    assert said[said.index((42, "activated", "")) + 1 :] == [(42, "verified", "recompiled")] * 3, "once at each launch"


async def test_what_was_compiled_and_does_not_load_is_compiled_once_more(
    world: World, runtime: CompilingRuntime
) -> None:
    runtime.rots = lambda compilation: compilation == 2
    async with world.client() as client:
        assert world.runs(client) == (42, "ota", 42)
    assert runtime.compiled == [0.2, 0.8, 0.8]
    assert len(world.gateway.fetches) == 1


async def test_what_does_not_load_compiled_anew_either_gives_way_and_is_quarantined(
    world: World, runtime: CompilingRuntime
) -> None:
    runtime.rots = lambda compilation: compilation > 1
    async with world.client() as client:
        assert world.runs(client) == (1, "bundled", "bundled")
        await client.flush()
        assert world.gateway.steps(42)[-1] == ("quarantined", "bad_model")
    assert runtime.compiled == [0.2, 0.8, 0.8]


async def test_a_launch_after_one_that_did_not_come_back_compiles_again(
    world: World, runtime: CompilingRuntime
) -> None:
    async with world.client() as client:
        [form] = [path for path in forms(world) if path.name != world.bundle.sha256]
        context = client._slots["upsell"].kept._tried_as(form.name)
    died = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", DIES_IN_A_LOAD, str(world.directory), form.name, context)
    )
    assert await died.wait() == -signal.SIGKILL
    async with world.client() as client:
        assert world.runs(client) == (42, "ota", 42)
    assert runtime.compiled == [0.2, 0.8, 0.8]


@pytest.mark.parametrize(
    "damage",
    [lambda form: form[:-1], lambda form: b"", lambda form: bytes(len(form)), lambda form: form[:-2] + b"9}"],
    ids=["torn", "empty", "zeros", "other"],
)
async def test_a_compiled_form_that_is_damaged_is_made_again(
    world: World, runtime: CompilingRuntime, damage: Callable[[bytes], bytes]
) -> None:
    for form in forms(world):
        form.write_bytes(damage(form.read_bytes()))
    async with world.client() as client:
        assert world.runs(client) == (42, "ota", 42)
    assert runtime.compiled == [0.2, 0.8, 0.8]


async def test_a_disk_that_keeps_no_compiled_form_costs_time_and_nothing_else(world: World) -> None:
    world.runtime = runtime = CompilingRuntime()
    world.directory.mkdir()
    (world.directory / "compiled").write_text("in the way")
    world.offer_42()
    for _ in range(2):
        async with world.client() as client:
            await client.flush()
            assert world.runs(client) == (42, "ota", 42)
    assert runtime.compiled == [0.2, 0.8, 0.8]


async def test_compiled_forms_of_what_is_gone_are_swept_and_the_bundles_stays(
    world: World, runtime: CompilingRuntime
) -> None:
    assert len(forms(world)) == 2
    world.offer(18, [], "bundled", floor=43)
    client = await world.open()
    await client.flush()
    assert world.runs(client) == (1, "bundled", "bundled")
    assert [form.name for form in forms(world)] == [world.bundle.sha256]
