"""A release goes out to a few, to more, and is taken back: two real gateway processes, real devices, real commands."""

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import pytest

from gateway.client import Bundled, Client, Limits
from gateway.client.runtimes.coreml import CoreMLRuntime
from gateway.releases.decide import arm_of, bucket
from gateway.releases.keys import load_public
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store
from schemas.releases import Parameters

MODELS: Final = Path(__file__).resolve().parents[1] / "models"
BACKHAUL: Final = [sys.executable, "-P", "-m", "gateway.cli"]
ENVIRON: Final = {name: value for name, value in os.environ.items() if not name.startswith("BACKHAUL_")}
REFRESH_SECONDS: Final = 2.0
DAY_SECONDS: Final = 86_400.0
LAUNCHES_A_DAY: Final = 3.5
DECISIONS_A_LAUNCH: Final = 3
SIGNALS: Final = ("battery_level", "charging", "session_seconds", "items_viewed")
UPSELL: Final = ("--app", "shop", "--model", "upsell")


class DayClock:
    """One device's clock, set by the test to the moment of its next launch."""

    def __init__(self) -> None:
        self.seconds = 1_795_334_400.0

    def now_ms(self) -> int:
        return round(self.seconds * 1000)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        if seconds > 0:
            await asyncio.Event().wait()


class Shop(NamedTuple):
    """A data directory, its gateways, and the commands on it."""

    data: Path
    urls: list[str]
    app_key: str

    def run(self, *words: object) -> str:
        command = [*BACKHAUL, *map(str, words), "--data", str(self.data)]
        ran = subprocess.run(command, env=ENVIRON, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def publish(self, number: int) -> None:
        words = ("--file", MODELS / f"upsell-{number}.mlmodel", "--sdk", ">=2.3", "--sign", self.data / "k.pem")
        self.run("release", "publish", *UPSELL, *words)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    data = tmp_path / "data"
    data.mkdir()
    shop = Shop(data, [], "")
    key = shop.run("app", "create", "shop").strip()
    subprocess.run([*BACKHAUL, "key", "generate", str(data / "k.pem")], env=ENVIRON, check=True, capture_output=True)
    environ = ENVIRON | {
        "BACKHAUL_DATA": str(data),
        "BACKHAUL_REFRESH_SECONDS": str(REFRESH_SECONDS),
        "BACKHAUL_ROLLOUT_LEASE_SECONDS": "3600",
    }
    lifeline, end = os.pipe()
    beats, pulse = os.pipe()  # nobody listens to it here, so a full one must not stop a gateway
    os.set_blocking(pulse, False)
    running = []
    for _ in range(2):
        with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
            fds = (lifeline, pulse, listening.fileno())
            words = ["child", "gateway", "--lifeline", str(fds[0]), "--pulse", str(fds[1]), "--socket", str(fds[2])]
            running.append(subprocess.Popen([*BACKHAUL, *words], env=environ, pass_fds=fds))
            shop.urls.append(f"http://127.0.0.1:{listening.getsockname()[1]}")
    yield shop._replace(app_key=key)
    for process in running:
        process.terminate()
    codes = [process.wait(20) for process in running]
    for fd in (lifeline, end, beats, pulse):
        os.close(fd)
    assert codes == [0, 0]


class Device(NamedTuple):
    """A real client, its clock, and how it lives."""

    client: Client
    clock: DayClock
    dice: random.Random

    def sleep_until_next_launch(self) -> float:
        gap = self.dice.expovariate(LAUNCHES_A_DAY / DAY_SECONDS)
        self.clock.seconds += gap
        return gap

    async def live(self) -> list[int]:
        """Launch, decide, leave; return the releases that decided."""
        await self.client.foreground()
        signals = dict.fromkeys(SIGNALS, 0.5)
        made = [self.client.predict("upsell", signals).release for _ in range(DECISIONS_A_LAUNCH)]
        await self.client.background()
        return made

    @property
    def use(self) -> Any:
        return self.client.status().models["upsell"].use

    @property
    def id(self) -> str:
        return self.client.status().device


@pytest.fixture
async def devices(shop: Shop, tmp_path: Path) -> AsyncIterator[Callable[[int], Any]]:
    session = aiohttp.ClientSession()
    opened: list[Client] = []

    async def _devices(count: int) -> list[Device]:
        bundle = Bundled(1, MODELS / "upsell-1.mlmodel", Parameters(), SIGNALS[:2], SIGNALS)
        made = []
        for number in range(len(opened), len(opened) + count):
            clock = DayClock()
            client = Client(
                shop.app_key,
                shop.urls[number % 2],
                [load_public(shop.data / "k.pem.pub")],
                directory=tmp_path / f"device-{number}",
                bundled={"upsell": bundle},
                runtime=CoreMLRuntime(),
                clock=clock,
                dice=random.Random(number),  # noqa: S311 - scripted lives
                session=session,
                limits=Limits(jitter_seconds=0.0),
            )
            opened.append(await client.open())
            made.append(Device(client, clock, random.Random(1000 + number)))  # noqa: S311 - as above
        return made

    yield _devices
    for client in opened:
        await client.close()
    await session.close()


async def obeyed(shop: Shop, session: aiohttp.ClientSession, device: str, use: object) -> float:
    """Ask both gateways as that device until both say `use`; return how many seconds that took."""
    began = time.monotonic()
    left = set(shop.urls)
    about = {"device": device, "batch": device, "seq": 1, "sent_at": 1, "sdk": "2.3.0", "events": []}
    have = {"upsell": {"catalogue": 2, "use": "none"}}
    headers = {"Authorization": f"Bearer {shop.app_key}"}
    while left:
        assert time.monotonic() - began < 30, f"{left} did not obey"
        for url in sorted(left):
            async with session.post(f"{url}/v1/batches", json={**about, "have": have}, headers=headers) as response:
                if response.status == 200 and (await response.json()).get("use") == {"upsell": use}:
                    left.discard(url)
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_a_release_goes_to_1_percent_to_25_percent_and_is_taken_back(
    shop: Shop, devices: Callable[[int], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    await asyncio.to_thread(shop.publish, 1)
    await asyncio.to_thread(shop.run, "rollout", "hold", *UPSELL, "--use", 1, "--reason", "2 is for a rollout")
    await asyncio.to_thread(shop.publish, 2)
    async with aiohttp.ClientSession() as session:
        await obeyed(shop, session, "6f1c2f60-3f6e-4b6e-9d0e-0a6a3f6c1d11", 1)
        fleet = await devices(60)
        for device in fleet:
            await device.live()
        assert {device.use for device in fleet} == {1}, "a published release reaches nobody before a rollout names it"

        words = ("--challenger", 2, "--stages", "1,25,100", "--reason", "new trees")
        await asyncio.to_thread(shop.run, "rollout", "start", *UPSELL, *words)
        store = Store.open((shop.data / "store").as_uri())
        for exposure in (0.01, 0.25):
            if exposure > 0.01:
                await asyncio.to_thread(shop.run, "rollout", "advance", *UPSELL, "--to", 25, "--reason", "well so far")
            await asyncio.sleep(REFRESH_SECONDS + 0.5)
            for device in fleet:
                device.sleep_until_next_launch()
                await device.live()
            expected = await told_by_hand(store, [device.id for device in fleet], exposure)
            assert [device.use for device in fleet] == expected
        for device in fleet:  # once more, so that no device has a report of its update waiting to be sent
            device.sleep_until_next_launch()
            await device.live()
        stopped = [device for device in fleet if device.use == 2]
        assert 2 <= len(stopped) <= 20

        await asyncio.to_thread(shop.run, "rollout", "rollback", *UPSELL, "--reason", "worse")
        seconds = await obeyed(shop, session, stopped[0].id, 1)
        assert seconds < REFRESH_SECONDS + 1.0, "the second is for this machine, which does other things too"
        still = 0
        for device in stopped:
            while device.use == 2:
                device.sleep_until_next_launch()
                still += (await device.live()).count(2)
        assert still <= DECISIONS_A_LAUNCH * len(stopped)
        assert {device.use for device in fleet} == {1}
    with capsys.disabled():
        per_device = still / len(stopped)
        print(f"\n  stopped: {seconds:.2f} s to every gateway, {per_device:.2f} decisions a device after it")  # noqa: T201


async def told_by_hand(store: Store, names: list[str], exposure: float) -> list[int]:
    keeper = SnapshotKeeper(store)
    await keeper.refresh()
    rollout = keeper.current.apps["shop"]["upsell"].rollout
    assert rollout is not None
    assert rollout.exposure == exposure
    inside = [name if bucket(rollout.salt, name) < exposure else None for name in names]
    arms = [arm_of(rollout.salt, name, rollout.arms).name if name else "" for name in inside]
    return [2 if arm == "challenger" else 1 for arm in arms]
