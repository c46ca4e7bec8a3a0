"""The system under fault: its processes, the proxies between them, and how each can be hit and healed."""

import asyncio
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import aiohttp
import msgspec

from deploy.local_kafka import LocalKafka
from gateway.clickhouse_server import password_of, url_of
from gateway.releases.apps import create_app
from gateway.releases.store import Store
from gateway.supervisor import runfile
from tests.campaign.devices import Orders
from tests.campaign.proxy import Mode, Proxy
from tests.campaign.schedule import Fault, Kind, Target

Layout = Literal["kafka", "embedded"]
ROOT: Final = Path(__file__).resolve().parents[2]
_SIGNALS: Final = ("kill", "stop")
_WAYS: Final[tuple[Kind, ...]] = ("refuse", "blackhole", "lose_replies")
_SMALL_DISK: Final = "size=96m"
_START_SECONDS: Final = 120.0
_PID_SECONDS: Final = 40.0


class CampaignError(Exception):
    """The campaign could not be held; it says nothing about the system."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Process:
    """A program that can be killed and started again; its output goes to a file."""

    def __init__(self, command: list[str], environ: Mapping[str, str], log: Path) -> None:
        self._command = command
        self._environ = dict(environ)
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._environ, cwd=ROOT, stdout=log, stderr=log, start_new_session=True
            )

    async def done(self, seconds: float) -> int | None:
        """Run it to its end."""
        self.start()
        return await self.ended(seconds)

    def signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    async def ended(self, seconds: float) -> int | None:
        """Return the exit status, None while it still runs after so long."""
        if self._process is None:
            return 0
        with suppress(subprocess.TimeoutExpired):
            return await asyncio.to_thread(self._process.wait, seconds)
        return None


class Serve:
    """One `backhaul serve`, on a data directory of its own, behind a proxy."""

    def __init__(self, name: str, directory: Path, settings: Mapping[str, object], source: Path) -> None:
        self.name = name
        self.directory = directory
        self.port = free_port()
        directory.mkdir(parents=True, exist_ok=True)
        environ = {key: value for key, value in os.environ.items() if not key.startswith("BACKHAUL_")}
        environ |= {f"BACKHAUL_{key.upper()}": str(value) for key, value in settings.items()}
        environ["PYTHONPATH"] = str(source)
        listen = f"127.0.0.1:{self.port}"
        command = [sys.executable, "-P", "-m", "gateway.cli", "serve", "--data", str(directory), "--listen", listen]
        self.process = Process(command, environ, directory / "serve.log")

    async def ready(self) -> None:
        """Wait until the gateway answers. Raises `CampaignError`."""
        try:
            async with asyncio.timeout(_START_SECONDS):
                while not await _answers(self.port):
                    if await self.process.ended(0.2) is not None:
                        raise CampaignError(f"{self.name} did not start; see {self.directory / 'serve.log'}")
        except TimeoutError as error:
            raise CampaignError(f"{self.name} does not answer; see {self.directory / 'serve.log'}") from error

    async def pid_of(self, child: str) -> int | None:
        """Return a child's process, waiting a while where it is being restarted."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PID_SECONDS):
                while True:
                    run = runfile.read(self.directory)
                    pid = run.children.get(child) if run else None
                    if pid:
                        return pid
                    await asyncio.sleep(0.05)
        return None


async def _answers(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        line = await asyncio.wait_for(reader.readline(), 2.0)
        writer.close()
    except (OSError, TimeoutError):
        return False
    return b" 200 " in line


class System:
    """Everything, started in order. `hit` applies one fault and heals it."""

    def __init__(self, directory: Path, layout: Layout, seed: int, devices: int, source: Path) -> None:
        self._directory = directory
        self._layout = layout
        self._seed = seed
        self._device_count = devices
        self._source = source
        self._kafka: LocalKafka | None = None
        self._serves: list[Serve] = []
        self._ways: dict[str, Proxy] = {}
        self._disk: Path | None = None
        self._busy: dict[str, asyncio.Lock] = {}
        self.journal = directory / "journal.db"
        self.clickhouse_port = free_port()
        self.notes: list[str] = []

    async def start(self) -> None:
        """Start brokers, servers, proxies and devices. Raises `CampaignError`."""
        first: dict[str, object] = {"clickhouse_port": self.clickhouse_port, "refresh_seconds": 0.5}
        if self._layout == "kafka":
            first |= await asyncio.to_thread(self._start_kafka)
        a = await self._serve("A", first)
        if self._layout == "kafka":
            self._ways["clickhouse"] = await Proxy.open(self.clickhouse_port)
            second = first | {
                "store_url": f"file://{a.directory / 'store'}",
                "clickhouse_url": url_of(self._ways["clickhouse"].port),
                "clickhouse_user": "backhaul",
                "clickhouse_password": self.clickhouse_password(),
            }
            second.pop("clickhouse_port")
            await self._serve("B", second)
        app_key = await create_app(Store.open(f"file://{a.directory / 'store'}"), "campaign", 1)
        await asyncio.sleep(1.0)  # until every gateway has seen the app
        urls = [f"http://127.0.0.1:{self._ways[serve.name].port}" for serve in self._serves]
        orders = Orders(urls, app_key, str(self.journal), self._device_count, self._seed)
        command = [sys.executable, "-m", "tests.campaign.devices", msgspec.json.encode(orders).decode()]
        environ = {key: value for key, value in os.environ.items() if not key.startswith("BACKHAUL_")}
        self._devices = Process(command, environ, self._directory / "devices.log")
        self._devices.start()

    def clickhouse_password(self) -> str:
        return password_of(self._serves[0].directory / "clickhouse")

    def _start_kafka(self) -> dict[str, object]:
        self._kafka = LocalKafka.create(self._directory / "kafka", 3)
        self._kafka.start()
        return {
            "kafka_bootstrap": self._kafka.bootstrap,
            "kafka_partitions": 4,
            "kafka_group": "campaign",
            "kafka_publish_seconds": 1.5,
            "kafka_session_seconds": 6.0,
        }

    async def _serve(self, name: str, settings: Mapping[str, object]) -> Serve:
        serve = Serve(name, self._directory / name, settings, self._source)
        if not self._serves:
            self._mount(serve.directory / ("spool" if self._layout == "kafka" else "log"))
        serve.process.start()
        await serve.ready()
        self._serves.append(serve)
        self._ways[name] = await Proxy.open(serve.port)
        return serve

    def _mount(self, log: Path) -> None:
        """Put the log of the first gateway on a small disk of its own, where we may."""
        log.mkdir(parents=True, exist_ok=True)
        mount = shutil.which("mount")
        if (
            mount
            and subprocess.run([mount, "-t", "tmpfs", "-o", _SMALL_DISK, "tmpfs", log], check=False).returncode == 0
        ):
            self._disk = log
        else:
            self.notes.append("no full disks: a small file system cannot be mounted here")

    def targets(self) -> list[Target]:
        """Return what can be hit in this layout."""
        found = [Target("devices", _SIGNALS, 1.5)]
        for serve in self._serves:
            found += [
                Target(f"{serve.name}.gateway", _SIGNALS, 2.0),
                Target(f"{serve.name}.warehouse", _SIGNALS, 2.0, zombie=True),
                Target(f"{serve.name}.supervisor", ("kill",), 0.5),
            ]
        found.append(Target("A.clickhouse", _SIGNALS, 1.5))
        found += [Target(f"way.{name}", _WAYS) for name in self._ways]
        if self._kafka is not None:
            found += [Target(f"broker.{broker.node}", _SIGNALS) for broker in self._kafka.brokers]
        if self._disk is not None:
            found.append(Target("disk", ("disk_full",)))
        return found

    async def hit(self, fault: Fault) -> None:
        """Apply a fault, keep it for its time, and heal it; a target takes one fault at a time."""
        async with self._busy.setdefault(fault.target, asyncio.Lock()):
            kind, _, rest = fault.target.partition(".")
            if kind == "way":
                await self._hit_way(self._ways[rest], fault)
            elif kind == "broker":
                await self._hit_broker(int(rest), fault)
            elif kind == "disk":
                await self._fill_disk(fault.seconds)
            elif kind == "devices":
                await self._hit_process(self._devices, fault)
            elif rest == "supervisor":
                await self._hit_process(self._named(kind).process, fault)
            else:
                await self._hit_child(self._named(kind), rest, fault)

    def _named(self, name: str) -> Serve:
        return next(serve for serve in self._serves if serve.name == name)

    async def _hit_way(self, way: Proxy, fault: Fault) -> None:
        mode: Mode = fault.kind  # type: ignore[assignment]  # the ways' targets list these kinds only
        way.become(mode)
        await asyncio.sleep(fault.seconds)
        way.become("pass")

    async def _hit_broker(self, node: int, fault: Fault) -> None:
        if self._kafka is None:
            return
        broker = self._kafka.brokers[node - 1]
        hurt, heal = (broker.kill, broker.start) if fault.kind == "kill" else (broker.pause, broker.resume)
        await _hurt_and_heal(hurt, heal, fault.seconds)

    async def _hit_process(self, process: Process, fault: Fault) -> None:
        if fault.kind == "stop":
            process.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            process.signal(signal.SIGCONT)
            return
        process.signal(signal.SIGKILL)
        await process.ended(10.0)
        await asyncio.sleep(fault.seconds)
        process.start()

    async def _hit_child(self, serve: Serve, child: str, fault: Fault) -> None:
        pid = await serve.pid_of(child)
        if pid is None:
            raise CampaignError(f"{serve.name}.{child} did not come back")
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        if fault.kind == "stop":
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    async def _fill_disk(self, seconds: float) -> None:
        if self._disk is None:
            return
        filler = self._disk / "filler"
        with suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(bytes(1024 * 1024))
                file.flush()
        await asyncio.sleep(seconds)
        filler.unlink(missing_ok=True)

    async def finish_devices(self, seconds: float) -> None:
        """Let the devices say all they have. Raises `CampaignError` where they end with an error of their own."""
        self._devices.signal(signal.SIGTERM)
        status = await self._devices.ended(seconds)
        if status is None:
            self.notes.append("devices were still waiting for an answer at the end")
        elif status != 0:
            raise CampaignError(f"the devices ended with status {status}; see {self._directory / 'devices.log'}")

    async def spooled_records(self) -> int:
        """Return what the gateways still keep for Kafka; -1 where one does not say."""
        if self._layout == "embedded":
            return 0
        left = 0
        for serve in self._serves:
            try:
                async with aiohttp.ClientSession() as session, session.get(f"{url_of(serve.port)}/metrics") as answer:
                    found = re.search(r"^\S*spool_left_records (\S+)$", await answer.text(), re.MULTILINE)
            except (aiohttp.ClientError, OSError):
                return -1
            if found is None:
                return -1
            left += int(float(found.group(1)))
        return left

    async def stop(self) -> None:
        """End everything, whatever state it is in."""
        if hasattr(self, "_devices"):
            self._devices.signal(signal.SIGKILL)
        for serve in reversed(self._serves):
            serve.process.signal(signal.SIGTERM)
            if await serve.process.ended(40.0) is None:
                serve.process.signal(signal.SIGKILL)
        for way in self._ways.values():
            await way.close()
        if self._kafka is not None:
            await asyncio.to_thread(self._kafka.stop)
        if self._disk is not None and (umount := shutil.which("umount")):
            await Process([umount, str(self._disk)], os.environ, self._directory / "umount.log").done(10.0)


async def _hurt_and_heal(hurt: Callable[[], None], heal: Callable[[], None], seconds: float) -> None:
    await asyncio.to_thread(hurt)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(heal)
