"""Run Apache Kafka on this machine, for development and tests: one broker or three, from plain jars, on loopback.

    python deploy/local_kafka.py start --brokers 3 --dir DIR     print the bootstrap servers once they answer
    python deploy/local_kafka.py status --dir DIR
    python deploy/local_kafka.py stop --dir DIR

* Needs Java 17 and, the first time, Maven: it copies the jars once into `$BACKHAUL_CACHE` or `~/.cache/backhaul`.
* Every broker is also a controller, so of three one may be killed or paused. Ports stay the same over a restart.
* Brokers talk to each other on ports of their own, so that clients alone can be sent another way, through a proxy.
* "Ready" is an answer: a broker that lists all the others, with a controller among them.
"""

import argparse
import asyncio
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final, Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from gateway.supervisor.ports import free_port

_PARTS: Final = Path(__file__).resolve().parent / "kafka"
_JARS: Final = "kafka-4.1.1"
_JAVA_VERSION: Final = 17
_JAVA_OPTIONS: Final = (
    "-Xms64m",
    "-Xmx320m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # starts in half the time, which matters more here than the speed it reaches later
    "-Xshare:auto",
    "-Djava.awt.headless=true",
)
_READY_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.1


class LocalKafkaError(Exception):
    """The brokers cannot be made, started or reached; the message is for a person."""


def missing() -> str | None:
    """Say what this machine lacks to run a broker; None when it has all."""
    if (java := shutil.which("java")) is None:
        return "java is not installed"
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)  # noqa: S603 - a constant
    version = re.search(r'version "(?:1\.)?(\d+)', said.stderr + said.stdout)
    if said.returncode or version is None:
        return "java does not run"
    if int(version[1]) < _JAVA_VERSION:
        return f"java is version {version[1]}, and Kafka needs {_JAVA_VERSION}"
    if shutil.which("mvn") is None and not _cached_jars().is_dir():
        return "mvn is not installed, and the jars are not in the cache"
    return None


def jars() -> Path:
    """Return the directory of the broker's jars, copied there the first time. Raises `LocalKafkaError`."""
    ready = _cached_jars()
    ready.parent.mkdir(parents=True, exist_ok=True)
    with (ready.parent / f"{_JARS}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.is_dir():
            with tempfile.TemporaryDirectory(dir=ready.parent) as beside:
                _copy_jars(Path(beside) / _JARS)
                (Path(beside) / _JARS).rename(ready)
    return ready


def _cached_jars() -> Path:
    return Path(os.environ.get("BACKHAUL_CACHE") or Path.home() / ".cache" / "backhaul") / _JARS


def _copy_jars(into: Path) -> None:
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={into}"]
    _run(["mvn", "-q", "-B", "-f", str(_PARTS / "pom.xml"), *goal], "the jars cannot be downloaded")


def _java(*arguments: str) -> list[str]:
    logs = f"-Dlog4j2.configurationFile={_PARTS / 'log4j2.properties'}"
    return ["java", *_JAVA_OPTIONS, logs, "-cp", f"{jars()}/*", *arguments]


def _run(command: Sequence[str], failure: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own command
    if done.returncode:
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr + done.stdout)  # Maven colours even what it does not say
        raise LocalKafkaError(f"{failure}: {said.strip()[-2000:]}")


@dataclass(frozen=True, slots=True)
class Guarded:
    """Listeners beside the plain one, for a single broker: TLS, and users who log in."""

    listeners: Sequence[str]  # as SASL_SSL://127.0.0.1:9094
    properties: Mapping[str, str] = field(default_factory=dict)
    scram: Sequence[str] = ()  # users as the storage tool takes them: SCRAM-SHA-512=[name=NAME,password=PASSWORD]


@dataclass(frozen=True, slots=True)
class Broker:
    """One node: broker and controller. Its process outlives ours unless it is stopped.

    Clients are told to come to `advertised_port`.
    """

    directory: Path
    node: int
    port: int
    controller_port: int
    inner_port: int
    advertised_port: int

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def home(self) -> Path:
        return self.directory / f"broker-{self.node}"

    @property
    def pid(self) -> int | None:
        """The running process, paused or not; None where there is none."""
        pid = self._recorded()
        try:
            # The number may have been given to another process since; a process that has ended has an empty line.
            return pid if str(self.home).encode() in Path(f"/proc/{pid}/cmdline").read_bytes() else None
        except OSError:
            return None

    def format(self, cluster_id: str, all_brokers: Sequence["Broker"], guarded: Guarded | None = None) -> None:
        """Write the node's properties and format its data directory. Raises `LocalKafkaError`."""
        self.home.mkdir(parents=True, exist_ok=True)
        guarded = guarded or Guarded(())
        inner = f"INNER://127.0.0.1:{self.inner_port}"
        beside = (inner, *guarded.listeners)
        own = {
            "node.id": self.node,
            "controller.quorum.voters": ",".join(f"{b.node}@127.0.0.1:{b.controller_port}" for b in all_brokers),
            "listeners": ",".join(
                (f"PLAINTEXT://{self.address}", *beside, f"CONTROLLER://127.0.0.1:{self.controller_port}")
            ),
            "advertised.listeners": ",".join((f"PLAINTEXT://127.0.0.1:{self.advertised_port}", *beside)),
            "log.dirs": self.home / "data",
            # Of internal topics, too: with 1, positions that one broker alone has kept are lost with it.
            "min.insync.replicas": max(1, len(all_brokers) - 1),
            "offsets.topic.replication.factor": len(all_brokers),
            "transaction.state.log.replication.factor": len(all_brokers),
            "transaction.state.log.min.isr": max(1, len(all_brokers) - 1),
            "share.coordinator.state.topic.replication.factor": len(all_brokers),
            "share.coordinator.state.topic.min.isr": max(1, len(all_brokers) - 1),
            **guarded.properties,
        }
        properties = self.home / "server.properties"
        lines = "".join(f"{key}={value}\n" for key, value in own.items())
        properties.write_text((_PARTS / "server.properties").read_text() + lines)
        users = [word for user in guarded.scram for word in ("--add-scram", user)]
        tool = _java("kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "-c", str(properties), *users)
        _run(tool, f"{self.home} cannot be formatted")

    def start(self, environ: Mapping[str, str] = os.environ) -> None:
        """Start the process and return at once; does nothing where it runs."""
        if self.pid is None:
            with (self.home / "broker.log").open("ab") as log:
                command = _java("kafka.Kafka", str(self.home / "server.properties"))
                streams = [(os.POSIX_SPAWN_DUP2, log.fileno(), 1), (os.POSIX_SPAWN_DUP2, log.fileno(), 2)]
                pid = os.posix_spawnp(command[0], command, environ, file_actions=streams, setsid=True)
            (self.home / "pid").write_text(str(pid))
            _until(lambda: self.pid is not None, 1.0)  # its command line appears a moment after it does

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        self._signal(signal.SIGKILL)
        self._await_end(_STOP_SECONDS)

    def pause(self) -> None:
        """Freeze the process: its connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ask the process to leave; kill it when it does not."""
        self.ask_to_leave()
        if not self._await_end(_STOP_SECONDS):
            self.kill()

    def ask_to_leave(self) -> None:
        self._signal(signal.SIGTERM)
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid
        if pid is not None:
            os.kill(pid, number)

    def _await_end(self, seconds: float) -> bool:
        return _until(self._gone, seconds)

    def _gone(self) -> bool:
        pid = self._recorded()
        if pid:
            with suppress(ChildProcessError):  # reaps it where it is a child of this process
                os.waitpid(pid, os.WNOHANG)
        return self.pid is None

    def _recorded(self) -> int:
        """Return the process that was started last; 0 for none, which is nobody's number."""
        try:
            return int((self.home / "pid").read_text())
        except (OSError, ValueError):
            return 0


class LocalKafka:
    """A cluster under one directory. Made by `create`, found again by `open`; a context manager that stops it."""

    def __init__(self, cluster_id: str, brokers: Sequence[Broker]) -> None:
        self.cluster_id = cluster_id
        self.brokers = tuple(brokers)

    @classmethod
    def create(
        cls, directory: Path, brokers: int, guarded: Guarded | None = None, advertised_ports: Sequence[int] = ()
    ) -> Self:
        """Choose ports and format every node; nothing runs yet. Raises `LocalKafkaError`."""
        directory = directory.resolve()
        directory.mkdir(parents=True, exist_ok=True)
        cluster_id = urlsafe_b64encode(secrets.token_bytes(15)).decode() + "AA"
        with free_ports(3 * brokers) as ports:
            own = [ports[3 * n : 3 * n + 3] for n in range(brokers)]
        told = advertised_ports or [port for port, *_ in own]
        nodes = [Broker(directory, n + 1, *own[n], told[n]) for n in range(brokers)]
        for node in nodes:
            node.format(cluster_id, nodes, guarded)
        kept = {"cluster_id": cluster_id, "brokers": [{**asdict(node), "directory": ""} for node in nodes]}
        (directory / "cluster.json").write_text(json.dumps(kept))
        return cls(cluster_id, nodes)

    @classmethod
    def open(cls, directory: Path) -> Self:
        """Find the cluster made there earlier. Raises `LocalKafkaError`."""
        directory = directory.resolve()
        try:
            kept = json.loads((directory / "cluster.json").read_text())
        except FileNotFoundError:
            raise LocalKafkaError(f"there is no cluster in {directory}") from None
        return cls(kept["cluster_id"], [Broker(**{**node, "directory": directory}) for node in kept["brokers"]])

    @property
    def bootstrap(self) -> str:
        return ",".join(broker.address for broker in self.brokers)

    def start(self) -> None:
        """Start what does not run, and wait until every broker is in. Raises `LocalKafkaError`."""
        for broker in self.brokers:
            broker.start()
        self.wait_ready()

    def wait_ready(self, seconds: float = _READY_SECONDS) -> None:
        """Wait until the cluster lists all of its brokers. Raises `LocalKafkaError`."""
        if not _until(self._answers, seconds):
            logs = ", ".join(str(broker.home / "broker.log") for broker in self.brokers)
            raise LocalKafkaError(f"not all brokers answered within {seconds:g} s; see {logs}")

    def stop(self) -> None:
        """Stop every broker, together."""
        for broker in self.brokers:
            broker.ask_to_leave()
        for broker in self.brokers:
            broker.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _answers(self) -> bool:
        for broker in self.brokers:
            if broker.pid is None:
                raise LocalKafkaError(f"broker {broker.node} has died; see {broker.home / 'broker.log'}")
        if not all(_port_open(broker.port) for broker in self.brokers):
            return False
        with ThreadPoolExecutor(1) as beside:  # this thread may be running an event loop: a test's
            return beside.submit(lambda: asyncio.run(self._all_listed())).result()

    async def _all_listed(self) -> bool:
        expected = {broker.node for broker in self.brokers}
        for broker in self.brokers:
            try:
                admin = AIOKafkaAdminClient(bootstrap_servers=broker.address, request_timeout_ms=5000)
                await admin.start()
                try:
                    seen = await admin.describe_cluster()
                finally:
                    await admin.close()
            except KafkaError:
                return False
            if {node["node_id"] for node in seen["brokers"]} != expected or seen["controller_id"] not in expected:
                return False
        return True


def _port_open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def free_ports(count: int) -> Iterator[list[int]]:
    """Hold ports that nobody uses until the block ends: none that the kernel gives to an outgoing connection."""
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", free_port()))) for _ in range(count)]
        yield [server.getsockname()[1] for server in held]


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _start(directory: Path, brokers: int) -> str:
    made = (directory / "cluster.json").exists()
    cluster = LocalKafka.open(directory) if made else LocalKafka.create(directory, brokers)
    if len(cluster.brokers) != brokers:
        raise LocalKafkaError(f"{directory} holds a cluster of {len(cluster.brokers)}; take another directory")
    cluster.start()
    return cluster.bootstrap


def _stop(directory: Path) -> str:
    LocalKafka.open(directory).stop()
    return "stopped"


def _status(directory: Path) -> str:
    brokers = LocalKafka.open(directory).brokers
    return "\n".join(f"broker {b.node} at {b.address}: {f'process {b.pid}' if b.pid else 'stopped'}" for b in brokers)


def main() -> int:
    """Do what the command line says; 0 when it worked."""
    parser = argparse.ArgumentParser(description="Apache Kafka on this machine, for development and tests.")
    parser.add_argument("command", choices=("start", "stop", "status"))
    parser.add_argument("--dir", type=Path, required=True, help="where the cluster keeps everything")
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1)
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # refused connections are expected until it is ready
    try:
        if given.command == "start":
            said = _start(given.dir, given.brokers)
        else:
            said = {"stop": _stop, "status": _status}[given.command](given.dir)
    except LocalKafkaError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{said}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
