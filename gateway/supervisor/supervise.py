"""Run the children of `backhaul serve` until a signal, then stop them in order."""

import asyncio
import http.client
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Final

from gateway.config import PREFIX, Config, to_environment
from gateway.supervisor import runfile
from gateway.supervisor.child import Child, clean_environment, say
from gateway.supervisor.lock import DirectoryLock
from gateway.supervisor.ports import BACKLOG

GATEWAY: Final = "gateway"
WAREHOUSE: Final = "warehouse"
CLICKHOUSE: Final = "clickhouse"

# Each must be gone when this share of the grace is over; what one leaves unused the next may use.
_STOP_ORDER: Final = ((GATEWAY, 0.5), (WAREHOUSE, 0.8), (CLICKHOUSE, 1.0))
# Kept back from the grace for the killing itself and for our own end.
_RESERVE_SECONDS: Final = 0.4
_LOOK_EVERY_SECONDS: Final = 0.1


class CannotListen(Exception):
    """The address cannot be listened on."""


class Supervisor:
    """The children, the socket and the run file of one `backhaul serve`."""

    def __init__(self, config: Config, lock: DirectoryLock, listening: socket.socket, clickhouse_port: int) -> None:
        self._directory = config.directory
        self._grace_seconds = config.grace_seconds
        self._listening = listening
        self.url = _url_of(listening)
        self._embedded = runs_clickhouse(config)
        self._clickhouse_url = f"http://127.0.0.1:{clickhouse_port}" if self._embedded else config.clickhouse_url
        self._lifeline, self._lifeline_end = os.pipe()
        names = [CLICKHOUSE] if self._embedded else []
        names += [GATEWAY, WAREHOUSE] if config.warehouse == "on" else [GATEWAY]
        environ = clean_environment(to_environment(config) | {f"{PREFIX}CLICKHOUSE_PORT": str(clickhouse_port)}, PREFIX)
        self._children = {name: self._child(name, environ, lock.fd) for name in names}
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

    def _child(self, name: str, environ: dict[str, str], lock_fd: int) -> Child:
        # -P: a directory named like one of our packages, where the user happens to stand, must not be imported.
        command = [sys.executable, "-P", "-m", "gateway.cli", "child", name, "--lifeline", str(self._lifeline)]
        fds = [self._lifeline, lock_fd]
        if name == GATEWAY:
            command += ["--socket", str(self._listening.fileno())]
            fds.append(self._listening.fileno())
        return Child(name, command, environ=environ, fds=fds, changed=self._write_run_file)

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
        self._listening.close()
        for child in self._children.values():  # whoever stopped us may have told them too, as systemd does
            child.start_no_more()
        for name, share in _STOP_ORDER:
            if name in self._children:
                left = started + share * (self._grace_seconds - _RESERVE_SECONDS) - time.monotonic()
                in_order &= await self._children[name].stop(max(left, 0.0))
        return in_order

    async def _announce(self, ready: Callable[[str], None]) -> None:
        while True:
            if await asyncio.to_thread(_answers_ready, self.url):
                return ready(self.url)
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    def _write_run_file(self) -> None:
        children = {name: child.pid for name, child in self._children.items() if child.pid is not None}
        run = runfile.Run(os.getpid(), self.url, self._clickhouse_url, children, self._embedded)
        try:
            runfile.write(self._directory, run)
        except OSError as error:  # a full disk must not end the serving
            say(f"cannot write run.json: {error}")


def runs_clickhouse(config: Config) -> bool:
    """Say whether the embedded server is one of the children."""
    return config.warehouse == "on" and not config.clickhouse_url


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises `CannotListen`."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or str(error)
        raise CannotListen(f"cannot listen on {host}:{port}: {reason}; choose another address with --listen") from error


def _url_of(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - the address that stands for every one
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


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
