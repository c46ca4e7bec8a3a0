"""Run the children of `backhaul serve` until a signal, then stop them in order."""

import asyncio
import http.client
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from gateway.config import PREFIX, Config, to_environment
from gateway.supervisor import runfile
from gateway.supervisor.child import Child, clean_environment, say
from gateway.supervisor.lock import DirectoryLock
from gateway.supervisor.ports import url_of
from gateway.supervisor.workers import Place, Workers, numbered, share_of

GATEWAY: Final = "gateway"
WAREHOUSE: Final = "warehouse"
CLICKHOUSE: Final = "clickhouse"

# Each must be gone when this share of the grace is over; what one leaves unused the next may use.
_STOP_ORDER: Final = ((GATEWAY, 0.5), (WAREHOUSE, 0.8), (CLICKHOUSE, 1.0))
# Kept back from the grace for the killing itself and for our own end.
_RESERVE_SECONDS: Final = 0.4
_LOOK_EVERY_SECONDS: Final = 0.1


class Supervisor:
    """The children, the sockets and the run file of one `backhaul serve`."""

    def __init__(
        self,
        config: Config,
        lock: DirectoryLock,
        workers: Workers,
        clickhouse_port: int,
        numbers: socket.socket | None = None,
    ) -> None:
        self._directory = config.directory
        self._grace_seconds = config.grace_seconds
        self._workers, self._numbers = workers, numbers
        self.url = url_of(workers.listening[0])
        self._numbers_url = url_of(numbers) if numbers is not None else ""
        self._embedded, self._kafka = runs_clickhouse(config), config.kafka_bootstrap
        self._clickhouse_url = f"http://127.0.0.1:{clickhouse_port}" if self._embedded else config.clickhouse_url
        self._lifeline, self._lifeline_end = os.pipe()
        chosen = {
            f"{PREFIX}CLICKHOUSE_PORT": str(clickhouse_port),
            f"{PREFIX}CONSUMER_LISTEN": self._numbers_url.removeprefix("http://"),
        }
        self._environ = clean_environment(to_environment(share_of(config)) | chosen, PREFIX)
        self._lock_fd = lock.fd
        children = [self._child(CLICKHOUSE)] if self._embedded else []
        children += [self._gateway(place) for place in workers.places()]
        children += [self._warehouse()] if config.warehouse == "on" else []
        self._children = {child.name: child for child in children}
        self._stop = asyncio.Event()

    async def run(self, ready: Callable[[str], None]) -> int:
        """Serve until SIGTERM, SIGINT or SIGHUP; call `ready` with the URL once; return the exit code."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal, number)
        running = [asyncio.create_task(child.keep_running()) for child in self._children.values()]
        announcing = asyncio.create_task(self._announce(ready))
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([stopping, *running], return_when=asyncio.FIRST_COMPLETED)
        announcing.cancel()
        in_order = await self._stop_children()
        codes = [int(not in_order), *await asyncio.gather(*running)]
        stopping.cancel()
        runfile.remove(self._directory)
        os.close(self._lifeline_end)
        os.close(self._lifeline)
        return max(codes)

    def _child(self, kind: str, words: Sequence[object] = (), fds: Sequence[int] = (), worker: int = 1) -> Child:
        # -P: a directory named like one of our packages, where the user happens to stand, must not be imported.
        command = [sys.executable, "-P", "-m", "gateway.cli", "child", kind, "--lifeline", str(self._lifeline)]
        return Child(
            numbered(kind, worker),
            [*command, *map(str, words)],
            environ=self._environ,
            fds=[self._lifeline, self._lock_fd, *fds],
            changed=self._write_run_file,
        )

    def _gateway(self, place: Place) -> Child:
        words: list[object] = ["--socket", place.socket_fd, "--worker", place.number]
        fds = [place.socket_fd]
        if place.inner_fd >= 0:
            words += ["--inner-socket", place.inner_fd, "--inner-ports", *place.inner_ports]
            fds.append(place.inner_fd)
        return self._child(GATEWAY, words, fds, place.number)

    def _warehouse(self) -> Child:
        fds = [self._numbers.fileno()] if self._numbers is not None else []
        return self._child(WAREHOUSE, ["--socket", *fds] if fds else [], fds)

    def _on_signal(self, number: signal.Signals) -> None:
        if self._stop.is_set():  # the user asked twice
            for child in self._children.values():
                child.kill()
        else:
            say(f"stopping on {number.name}, within {self._grace_seconds:g} s")
        self._stop.set()

    async def _stop_children(self) -> bool:
        """Stop one after the other; say whether all left in order."""
        started, in_order = time.monotonic(), True
        self._workers.close()
        if self._numbers is not None:
            self._numbers.close()
        for child in self._children.values():  # whoever stopped us may have told them too, as systemd does
            child.start_no_more()
        for kind, share in _STOP_ORDER:
            left = started + share * (self._grace_seconds - _RESERVE_SECONDS) - time.monotonic()
            alike = [child for name, child in self._children.items() if name.partition("-")[0] == kind]
            in_order &= all(await asyncio.gather(*(child.stop(max(left, 0.0)) for child in alike)))
        return in_order

    async def _announce(self, ready: Callable[[str], None]) -> None:
        while True:
            if await asyncio.to_thread(_answers_ready, self.url):
                return ready(self.url)
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    def _write_run_file(self) -> None:
        children = {name: child.pid for name, child in self._children.items() if child.pid is not None}
        places = (self.url, self._clickhouse_url, children, self._embedded, self._numbers_url, self._kafka)
        run = runfile.Run(os.getpid(), *places)
        try:
            runfile.write(self._directory, run)
        except OSError as error:  # a full disk must not end the serving
            say(f"cannot write run.json: {error}")


def runs_clickhouse(config: Config) -> bool:
    """Say whether the embedded server is one of the children."""
    return config.warehouse == "on" and not config.clickhouse_url


def stands_back_by(config: Config) -> int:
    """Return by how much, in the numbers of nice(1), a gateway lets the consumer and ClickHouse beside it go first.

    An embedded log that grows for as long as devices send ends at its bound, and then nobody is answered. Devices that
    are answered later send later. Where there are cores for all, nobody waits for anybody.
    """
    return config.gateway_nice if config.kafka is None and runs_clickhouse(config) else 0


def _answers_ready(url: str) -> bool:
    host, _, port = url.removeprefix("http://").rpartition(":")
    connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
