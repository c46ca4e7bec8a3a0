"""The system under fault: its processes, the proxies between them, their disks and clocks, and what can be hit."""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Final, Literal

import msgspec
from aiokafka.errors import KafkaError
from clickhouse_connect.driver.asyncclient import AsyncClient
from msgspec import Struct

from deploy.local_kafka import LocalKafka
from gateway.clickhouse_server import ADMIN, connect, password_of, url_of
from gateway.releases.apps import create_app
from gateway.releases.store import Store
from gateway.supervisor import runfile
from gateway.supervisor.ports import free_port
from schemas.topics import BATCHES, TOPICS
from tests.campaign import hits, rest
from tests.campaign.clocks import Clock, library
from tests.campaign.devices import Orders
from tests.campaign.disks import Disk
from tests.campaign.journal import Journal
from tests.campaign.processes import ROOT, CampaignError, Process, Serve, answers, backhaul, environ_of
from tests.campaign.proxy import Proxy
from tests.campaign.schedule import Fault, Kind, Target
from tests.kafka_groups import forget_group

Layout = Literal["kafka", "embedded"]

RESEND_WINDOW_RECORDS: Final = 500
_BROKERS: Final = 3
_PARTITIONS: Final = 4
_GROUP: Final = "campaign"
_SIGNALS: Final = ("kill", "stop")
_WAYS: Final[tuple[Kind, ...]] = ("refuse", "blackhole", "lose_replies")
_UNPACKING: Final = ("unpack.1", "unpack.2")
_LEAVE_SECONDS: Final = 40.0
_FIRST_ANSWER_SECONDS: Final = 60.0
_KEEPER_SECONDS: Final = 0.5
_LOG_MB: Final = 96
_RESERVE_BYTES: Final = 32 * 1024 * 1024
_CLICKHOUSE_MB: Final = 1024
# Below what the server keeps free, so that it has begun nothing when the disk is full to the last byte.
_WARNING_MB: Final = 64
_BROKER_MB: Final = 768
# Brokers keep records for 7 days of their own clock, and what transactions may do for less.
_BROKER_CLOCK_DAYS: Final = (0.5, 0.5)
_CLOCK_DAYS: Final = (10.0, 2.0)
_SERVE_CLICKHOUSE: Final = (
    "import sys; from pathlib import Path; from gateway.clickhouse_server import serve; "
    "sys.exit(serve(Path(sys.argv[1]), int(sys.argv[2])))"
)


class Kept(Struct):
    """What is started again when it ends by itself, as an init system does."""

    runs: Callable[[], bool]
    start: Callable[[], None]


class System:
    """Everything, started in order. `hit` applies one fault and heals it."""

    def __init__(self, directory: Path, layout: Layout, seed: int, devices: int, source: Path) -> None:
        self._directory = directory
        self._layout = layout
        self._orders = Orders([], "", str(directory / "journal.db"), str(directory / "stop"), devices, seed)
        self._source = source
        self._library, self._no_clocks = library(directory)
        self._hits: dict[str, tuple[Target, hits.Hit]] = {}
        self._busy: dict[str, asyncio.Lock] = {}
        self._ways: dict[str, Proxy] = {}
        self._disks: list[Disk] = []
        self._kept: dict[str, Kept] = {}
        self._died: Counter[str] = Counter()
        self._processes: list[Process] = []
        self._serves: list[Serve] = []
        self._kafka: LocalKafka | None = None
        self._groups: list[str] = [_GROUP]
        self._clickhouse: Path = directory
        self._clickhouse_port = 0
        self._notes: list[str] = []

    @property
    def journal(self) -> Path:
        return Path(self._orders.journal)

    @property
    def bootstrap(self) -> str:
        """Where clients find Kafka: behind the proxies."""
        ways = [way.port for name, way in self._ways.items() if name.startswith("broker")]
        return ",".join(f"127.0.0.1:{port}" for port in ways)

    @property
    def notes(self) -> list[str]:
        """What a reader of the verdict must know beside."""
        lacking = [f"no clock steps of servers: {self._no_clocks}"] if self._no_clocks else []
        died = [f"{name} ended by itself {times} times and was started again" for name, times in self._died.items()]
        return [*self._notes, *lacking, *died]

    async def start(self) -> None:
        """Start brokers, servers, proxies and devices. Raises `CampaignError`."""
        if self._layout == "kafka":
            settings = await self._start_beside()
            await self._serve("A", settings)
            await self._serve("B", settings | {"store_url": f"file://{self._directory / 'A' / 'store'}"})
            self._start_consumers(settings)
        else:
            self._clickhouse = self._directory / "A" / "clickhouse"
            self._disk("clickhouse", self._clickhouse, _CLICKHOUSE_MB, _WARNING_MB)
            await self._serve("A", {"refresh_seconds": 0.5, "disk_reserve_bytes": _RESERVE_BYTES})
        self._keeper = asyncio.create_task(self._keep_running())
        app_key = await create_app(Store.open(f"file://{self._directory / 'A' / 'store'}"), "campaign", 1)
        await asyncio.sleep(1.0)  # until every gateway has seen the app
        urls = [url_of(self._ways[serve.name].port) for serve in self._serves]
        orders = msgspec.structs.replace(self._orders, urls=urls, app_key=app_key)
        command = [sys.executable, "-m", "tests.campaign.devices", msgspec.json.encode(orders).decode()]
        self._devices = self._process("devices", command, environ_of(ROOT, {}), 1.5)
        await self._journal_shows(Journal.has_answers, _FIRST_ANSWER_SECONDS)

    async def _start_beside(self) -> dict[str, object]:
        """Start Kafka and ClickHouse; return what gateways and consumers are told of them."""
        for number in range(1, _BROKERS + 1):
            self._disk(f"broker.{number}", self._directory / "kafka" / f"broker-{number}" / "data", _BROKER_MB)
            await self._way(f"broker.{number}", 0)
        await asyncio.to_thread(self._start_kafka)
        self._clickhouse = self._directory / "clickhouse"
        self._disk("clickhouse", self._clickhouse, _CLICKHOUSE_MB, _WARNING_MB)
        self._clickhouse_port = free_port()
        command = [sys.executable, "-P", "-c", _SERVE_CLICKHOUSE, str(self._clickhouse), str(self._clickhouse_port)]
        environ = environ_of(self._source, {}) | self._clock("clickhouse")
        process = self._process("clickhouse", command, environ, 1.5)
        self._keep("clickhouse", lambda: process.runs, process.start)
        await answers(process, self._clickhouse_port, "/ping", self._directory / "clickhouse.log")
        await self._way("clickhouse", self._clickhouse_port)
        return {
            "refresh_seconds": 0.5,
            "disk_reserve_bytes": _RESERVE_BYTES,
            "kafka_bootstrap": self.bootstrap,
            "kafka_partitions": _PARTITIONS,
            "kafka_group": _GROUP,
            "kafka_events_compression": "gzip",  # this side cannot read zstd
            "kafka_publish_seconds": 1.5,
            "kafka_session_seconds": 6.0,
            "clickhouse_url": url_of(self._ways["clickhouse"].port),
            "clickhouse_user": ADMIN,
            "clickhouse_password": password_of(self._clickhouse),
        }

    def _start_kafka(self) -> None:
        ways = [self._ways[f"broker.{number}"] for number in range(1, _BROKERS + 1)]
        self._kafka = LocalKafka.create(
            self._directory / "kafka", _BROKERS, advertised_ports=[way.port for way in ways]
        )
        for broker, way in zip(self._kafka.brokers, ways, strict=True):
            way.target_port = broker.port
            name = f"broker.{broker.node}"
            environ = environ_of(ROOT, {}) | self._clock(name, _BROKER_CLOCK_DAYS)
            broker.start(environ)
            self._add(Target(name, _SIGNALS), hits.on_broker(broker, environ))
            self._keep(name, lambda broker=broker: broker.pid is not None, lambda b=broker, e=environ: b.start(e))  # type: ignore[misc]
        self._kafka.wait_ready()

    async def _serve(self, name: str, settings: Mapping[str, object]) -> None:
        directory, port = self._directory / name, free_port()
        if not self._serves:
            log = "spool" if self._layout == "kafka" else "log"
            self._disk(log, directory / log, _LOG_MB)
        serve = Serve(name, directory, port, self._source, settings, self._clock(name))
        serve.process.start()
        self._serves.append(serve)
        await serve.ready()
        await self._way(name, port)
        from_zero: tuple[Kind, ...] = ("from_zero",) if self._layout == "embedded" else ()
        parts: list[tuple[str, Sequence[Kind]]] = [("gateway", _SIGNALS), ("warehouse", (*_SIGNALS, *from_zero))]
        if self._layout == "embedded":
            parts.append(("clickhouse", _SIGNALS))
        for part, kinds in parts:
            target = Target(f"{name}.{part}", kinds, 2.0, zombie=part == "warehouse")
            self._add(target, hits.on_child(serve, part))
        self._add(Target(f"{name}.supervisor", ("kill",), 0.5), hits.on_process(serve.process))
        self._keep(f"{name}.supervisor", lambda: serve.process.runs, serve.process.start)

    def _start_consumers(self, settings: Mapping[str, object]) -> None:
        """Start those that run alone: one that fills the warehouse, two that unpack."""
        environ = environ_of(self._source, settings) | self._clock("C")
        command = backhaul(self._source, "consume", "warehouse")
        consumer = self._process("C.warehouse", command, environ, 2.0, ("from_zero",))
        target = self._hits["C.warehouse"][0]
        self._add(msgspec.structs.replace(target, zombie=True), hits.on_consumer(consumer, self._groups))
        window = {"unpack_resend_window_records": RESEND_WINDOW_RECORDS}
        environ = environ_of(self._source, {**settings, **window}) | self._clock("unpack")
        for name in _UNPACKING:
            process = self._process(name, backhaul(self._source, "consume", "unpack"), environ, 1.5)
            self._add(msgspec.structs.replace(self._hits[name][0], zombie=True), hits.on_process(process))
            self._keep(name, lambda process=process: process.runs, process.start)  # type: ignore[misc]
        self._keep("C.warehouse", lambda: consumer.runs, consumer.start)

    def _process(
        self, name: str, command: list[str], environ: Mapping[str, str], weight: float, more: Sequence[Kind] = ()
    ) -> Process:
        process = Process(command, environ, self._directory / f"{name}.log")
        process.start()
        self._processes.append(process)
        self._add(Target(name, (*_SIGNALS, *more), weight), hits.on_process(process))
        return process

    async def _way(self, name: str, port: int) -> None:
        self._ways[name] = await Proxy.open(port)
        self._add(Target(f"way.{name}", _WAYS), hits.on_way(self._ways[name]))

    def _disk(self, name: str, directory: Path, megabytes: int, warning_megabytes: int = 0) -> None:
        disk = Disk.mount(directory, megabytes, warning_megabytes)
        if disk is None:
            self._notes.append(f"no full disk of {name}: a small file system cannot be mounted here")
        else:
            self._disks.append(disk)
            self._add(Target(f"disk.{name}", ("disk_full",)), hits.on_disk(disk))

    def _clock(self, name: str, days: tuple[float, float] = _CLOCK_DAYS) -> dict[str, str]:
        """Give a machine a clock of its own; return what its processes are to be started with."""
        if self._library is None:
            return {}
        clock = Clock(self._library, self._directory / f"clock.{name}")
        self._add(Target(f"clock.{name}", ("clock_step",), 1.0, clock_days=days), hits.on_clock(clock))
        return dict(clock.environ)

    def _add(self, target: Target, hit: hits.Hit) -> None:
        self._hits[target.name] = (target, hit)
        self._busy.setdefault(target.name, asyncio.Lock())

    def _keep(self, name: str, runs: Callable[[], bool], start: Callable[[], None]) -> None:
        self._kept[name] = Kept(runs, start)

    async def _keep_running(self) -> None:
        while True:
            for name, kept in list(self._kept.items()):
                if not self._busy[name].locked() and not kept.runs():
                    self._died[name] += 1
                    kept.start()
            await asyncio.sleep(_KEEPER_SECONDS)

    def targets(self, only: str) -> list[Target]:
        """Return what can be hit in this layout and, as TARGET:KIND, matches the pattern."""
        found = []
        for target, _ in self._hits.values():
            kinds = [kind for kind in target.kinds if fnmatch(f"{target.name}:{kind}", only)]
            found += [msgspec.structs.replace(target, kinds=kinds)] if kinds else []
        return found

    async def hit(self, fault: Fault) -> None:
        """Apply a fault, keep it for its time, and heal it; a target takes one fault at a time."""
        _, hit = self._hits[fault.target]
        async with self._busy[fault.target]:
            await hit(fault)

    async def finish_devices(self, seconds: float) -> None:
        """Let the devices say all they have. Raises `CampaignError` where they end with an error of their own.

        On a slow machine few faults are over before devices have seen every kind of answer: then they go on a while.
        """
        await self._journal_shows(Journal.has_all_kinds, seconds)
        await asyncio.to_thread(Path(self._orders.stop).touch)
        status = await self._devices.ended(seconds)
        if status is None:
            self._notes.append("devices were still waiting for an answer at the end")
        elif status != 0:
            raise CampaignError(f"the devices ended with status {status}; see {self._directory / 'devices.log'}")

    async def _journal_shows(self, what: Callable[[Journal], bool], seconds: float) -> None:
        journal = Journal(self.journal)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not what(journal):  # noqa: ASYNC110 - another process writes it
                    await asyncio.sleep(_KEEPER_SECONDS)
        journal.close()

    async def left(self) -> int:
        """Return how many records nobody has taken yet. Raises what a log that does not answer raises."""
        if self._layout == "embedded":
            return rest.left_in_file(self._directory / "A" / "log")
        groups = {self._groups[0]: TOPICS, self._groups[-1]: TOPICS, "unpack": (BATCHES,)}
        spooled = sum([await rest.spooled(serve.port) for serve in self._serves if serve.process.runs])
        return spooled + await rest.left_on_kafka(self.bootstrap, groups, _PARTITIONS)

    async def warehouse(self) -> AsyncClient:
        """Connect to ClickHouse, past the proxies. Raises `ServerError`."""
        run = runfile.read(self._serves[0].directory)
        url = run.clickhouse_url if run and run.embedded else url_of(self._clickhouse_port)
        return await connect(url, ADMIN, password_of(self._clickhouse), "backhaul")

    async def start_over(self) -> bool:
        """Lose every position and every plan, and have one consumer read the log again from offset 0; say if done.

        Those that unpack lose their positions, too, and are to find out by the events that there is nothing to do.
        """
        if self._layout == "embedded":
            return False
        unpacking = [self._named(name) for name in _UNPACKING]
        alone = [(process.log.stem, process) for process in (self._named("C.warehouse"), *unpacking)]
        for name, process in [*alone, *((s.name, s.process) for s in self._serves)]:
            self._kept.pop(name, None)
            self._kept.pop(f"{name}.supervisor", None)
            if (status := await process.leave(_LEAVE_SECONDS)) != 0:
                self._notes.append(f"{name} was asked to leave at the end and did so with status {status}")
        client = await self.warehouse()
        try:
            await client.command("TRUNCATE TABLE plans")
        finally:
            await client.close()
        try:
            await forget_group({"bootstrap_servers": self.bootstrap}, "unpack")
        except (KafkaError, TimeoutError) as error:
            raise CampaignError(f"Kafka does not delete the group unpack: {error!r}") from error
        for process in unpacking:
            process.start()
        self._groups[:] = ["from-zero"]
        consumer = self._named("C.warehouse")
        consumer.environ["BACKHAUL_KAFKA_GROUP"] = "from-zero"
        consumer.start()
        return True

    def _named(self, name: str) -> Process:
        return next(process for process in self._processes if process.log.stem == name)

    async def stop(self, *, keep_disks: bool) -> None:
        """End everything, whatever state it is in; what was on the small disks is kept where somebody will look."""
        if hasattr(self, "_keeper"):
            self._keeper.cancel()
        for process in self._processes:
            process.signal(signal.SIGKILL)
        for serve in reversed(self._serves):
            await serve.process.leave(_LEAVE_SECONDS)
        for way in self._ways.values():
            await way.close()
        if self._kafka is not None:
            for broker in self._kafka.brokers:
                await asyncio.to_thread(broker.kill)
        for disk in self._disks:
            await asyncio.to_thread(disk.unmount, keep=keep_disks)
