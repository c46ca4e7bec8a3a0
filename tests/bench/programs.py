"""The programs that are measured: how each is started, what it does with a batch, and where its records must arrive."""

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal
from urllib.error import URLError
from urllib.request import Request, urlopen

from gateway.supervisor.ports import free_port
from tests.bench import build
from tests.bench.build import Missing
from tests.bench.machine import SYSTEM_PYTHON
from tests.bench.otlp import otlp
from tests.bench.ours import BATCHES_PREFIX

Speaks = Literal["batches", "otlp"]
Keeps = Literal["one record a batch", "one record an event", "embedded", "nothing"]

_STARTED_SECONDS: Final = 40.0
_ROOT: Final = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ground:
    """What all programs are given."""

    directory: Path
    bootstrap: str
    app_key: str
    events: int
    body: bytes
    brokers: tuple[int, ...] = ()  # their processes
    no_kafka: str = ""  # why there is none, where there is none


@dataclass(frozen=True)
class Program:
    """A server to measure. `command` builds it where that is needed and may raise `Missing`.

    Each of its `workers` is sent as many connections as a program that is one process: a fleet twice the size.
    Without `own_core` it shares all cores with what sends and with Kafka.
    """

    name: str
    about: str
    keeps: Keeps
    command: Callable[[], Sequence[str]]
    environ: Mapping[str, str] = field(default_factory=dict)
    ingest_only: bool = False
    speaks: Speaks = "batches"
    workers: int = 1
    own_core: bool = True

    @property
    def on_kafka(self) -> bool:
        return self.keeps in ("one record a batch", "one record an event")

    @property
    def path(self) -> str:
        return "/v1/logs" if self.speaks == "otlp" else "/v1/batches"

    def answer(self, events: int) -> str:
        """Return what a good answer says."""
        return '"partialSuccess":{}' if self.speaks == "otlp" else f'"accepted":{events}'

    def body(self, body: bytes) -> bytes:
        """Return a batch as this program takes it."""
        return otlp(body) if self.speaks == "otlp" else body


def _system_python() -> list[str]:
    """Return the command of ours on the system's own Python. Raises `Missing`."""
    if not Path(SYSTEM_PYTHON).exists():
        raise Missing(f"there is no {SYSTEM_PYTHON}")
    if Path(SYSTEM_PYTHON).resolve() == Path(sys.executable).resolve():
        raise Missing("all of this runs on it")
    return [SYSTEM_PYTHON, "-m", "tests.bench.ours", "kafka"]


def _ours(log: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, "-m", "tests.bench.ours", log]


_MODULE: Final = "tests.bench.bare"
_KAFKA: Final = _ours("kafka")
_ONE: Final[Keeps] = "one record a batch"
_EACH: Final[Keeps] = "one record an event"

PROGRAMS: Final = (
    Program("floor", "C++: receive, inflate with ISA-L, scan with simdjson", "nothing", lambda: [str(build.floor())]),
    Program("bare", "aiohttp alone: receive and answer", "nothing", lambda: [sys.executable, "-m", _MODULE]),
    Program("backhaul", "ours with all that production has on, Kafka and its spool", _ONE, _KAFKA),
    Program(
        "backhaul-system-python",
        "as backhaul, on the system's own Python: distributions build theirs with profile-guided optimization",
        _ONE,
        _system_python,
        {"PYTHONPATH": os.pathsep.join((str(_ROOT), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))},
    ),
    Program(
        "backhaul-shared",
        "as backhaul, on cores that it shares with Kafka and what sends",
        _ONE,
        _KAFKA,
        own_core=False,
    ),
    Program(
        "backhaul-2-workers",
        "`backhaul serve --workers 2` on shared cores, for twice as many connections",
        _ONE,
        _ours("workers"),
        workers=2,
        own_core=False,
    ),
    Program("backhaul-ingest", "ours without catalogues to decide on", _ONE, _KAFKA, ingest_only=True),
    Program("backhaul-embedded", "ours on its embedded log, fsynced", "embedded", _ours("embedded")),
    Program("backhaul-no-log", "ours on a log that keeps nothing", "nothing", _ours("nothing")),
    Program(
        "rust",
        "hyper, ISA-L, serde typed, librdkafka",
        _ONE,
        lambda: [str(build.rust())],
        {"STYLE": "batch", "INFLATE": "isal"},
    ),
    Program(
        "rust-zlib",
        "as rust, with zlib-rs",
        _ONE,
        lambda: [str(build.rust())],
        {"STYLE": "batch", "INFLATE": "zlib"},
    ),
    Program(
        "rust-slices",
        "Rust, each event typed and sent as its own message",
        _EACH,
        lambda: [str(build.rust())],
        {"STYLE": "slices", "INFLATE": "isal"},
    ),
    Program(
        "rust-maps",
        "Rust, each event a map, written anew, a message each",
        _EACH,
        lambda: [str(build.rust())],
        {"STYLE": "maps", "INFLATE": "isal"},
    ),
    Program(
        "go",
        "net/http, klauspost gzip, encoding/json, franz-go",
        _ONE,
        lambda: [str(build.go())],
        {"DECODER": "std", "GOMAXPROCS": "1"},
    ),
    Program(
        "go-goccy",
        "as go, with goccy/go-json",
        _ONE,
        lambda: [str(build.go())],
        {"DECODER": "goccy", "GOMAXPROCS": "1"},
    ),
    Program(
        "node",
        "node:http, zlib, JSON.parse and checks by hand, @platformatic/kafka",
        _ONE,
        lambda: ["node", str(build.node())],
    ),
    Program(
        "nginx-lua",
        "cjson and lua-zlib; it writes to no log",
        "nothing",
        lambda: ["nginx", str(build.nginx())],
    ),
    Program(
        "otelcol",
        "the OpenTelemetry Collector, OTLP/HTTP to Kafka: the same events as JSON logs; no key, no rules, no models",
        _ONE,
        lambda: [str(build.otelcol()), "--config", str(build.SOURCES / "otelcol" / "config.yaml")],
        {"GOMAXPROCS": "1"},
        speaks="otlp",
    ),
)

# Not in the table: its rate is set beside that of one such process, on batches large enough that the load generator,
# which is on the same cores, takes little of them.
WITHOUT_LOG: Final = Program(
    "backhaul-no-log-shared", "one worker on a log that keeps nothing", "nothing", _ours("nothing"), own_core=False
)
WITHOUT_LOG_TWICE: Final = Program(
    "backhaul-no-log-2-workers",
    "two workers on a log that keeps nothing",
    "nothing",
    _ours("nothing-twice"),
    workers=2,
    own_core=False,
)


def port_for_program() -> int:
    """Return a port that nothing listens on now, and that no outgoing connection takes until the program does."""
    return free_port()


class Server:
    """A program that runs. A context manager that ends it."""

    def __init__(self, program: Program, ground: Ground) -> None:
        self.program = program
        self._ground = ground
        self.port = port_for_program()
        self.directory = ground.directory / f"{program.name}-{ground.events}"
        self.directory.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def app_key(self) -> str:
        return self._ground.app_key

    @property
    def pid(self) -> int:
        if self._process is None:
            raise Missing(f"{self.program.name} does not run")
        return self._process.pid

    def __enter__(self) -> "Server":
        """Start it and wait until it takes a batch. Raises `Missing`."""
        if self.program.on_kafka and not self._ground.bootstrap:
            raise Missing(self._ground.no_kafka)
        command = self._rendered(self.program.command())
        store = self._ground.directory / ("store-without-models" if self.program.ingest_only else "store")
        environ = {
            **os.environ,
            "PORT": str(self.port),
            "APP_KEY": self._ground.app_key,
            "BOOTSTRAP": self._ground.bootstrap,
            "TOPIC": f"{BATCHES_PREFIX}batches",
            "STORE": str(store),
            "DATA": str(self.directory / "data"),
            "EVENTS": str(self._ground.events),
            "PYTHONPATH": str(_ROOT),
            **self.program.environ,
        }
        with (self.directory / "output").open("wb") as output:
            self._process = subprocess.Popen(command, cwd=self.directory, env=environ, stdout=output, stderr=output)
        try:
            self._await_answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _rendered(self, command: Sequence[str]) -> list[str]:
        """nginx takes no environment: its configuration is written out."""
        if command[0] != "nginx":
            return list(command)
        template = Path(command[1])
        text = template.read_text().replace("PORT", str(self.port))
        text = text.replace("KEY", self._ground.app_key).replace("HERE", str(template.parent))
        lines = [line for line in text.splitlines() if not line.startswith("#")]
        (self.directory / "nginx.conf").write_text("\n".join(lines))
        return ["nginx", "-p", str(self.directory), "-c", "nginx.conf"]

    def _await_answer(self) -> None:
        deadline = time.monotonic() + _STARTED_SECONDS
        trouble = ""
        while time.monotonic() < deadline:
            if self._process is not None and self._process.poll() is not None:
                break
            try:
                self.send_one(self._ground.body)
            except (URLError, OSError) as error:
                trouble = str(error)
                time.sleep(0.1)
            else:
                return
        said = (self.directory / "output").read_text(errors="replace").strip()[-400:]
        raise Missing(f"{self.program.name} does not answer: {trouble} {said}")

    def send_one(self, body: bytes) -> bytes:
        """Send a batch and return the answer's body."""
        headers = {
            "Authorization": f"Bearer {self._ground.app_key}",
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
        }
        url = f"http://127.0.0.1:{self.port}{self.program.path}"
        with urlopen(Request(url, self.program.body(body), headers), timeout=5) as answer:
            said: bytes = answer.read()
        return said
