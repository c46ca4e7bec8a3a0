"""The workers of one gateway: processes that share an address, and what each is given of what was meant for the whole.

* Each has a socket of its own on the one address (SO_REUSEPORT), and the kernel spreads connections over them. The
  supervisor holds all of them, so that who connects to a worker that is being started again waits in its queue.
* Each also has a socket on the loopback that only the others know: there they ask it how it is (`gateway.fellows`).
* A spool has one process, so each has a directory of its own, and its part of the bounds that are the whole's.
"""

import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple, Self

from msgspec.structs import replace

from gateway.config import MIB, Config
from gateway.log_bounds import least_log_bytes
from gateway.supervisor.ports import BACKLOG, cannot_listen

_LEAST_DRAINED_PER_SECOND: Final = 10
_SPOOL: Final = "spool"


class Place(NamedTuple):
    """A worker as its process is told of it: its number from 1, its sockets, and every worker's port for the others."""

    number: int
    socket_fd: int
    inner_fd: int = -1
    inner_ports: Sequence[int] = ()

    def listening(self) -> socket.socket:
        """Return the socket for devices."""
        return socket.socket(fileno=self.socket_fd)

    def inner(self) -> socket.socket | None:
        """Return the socket for the other workers; None where there are none."""
        return socket.socket(fileno=self.inner_fd) if self.inner_fd >= 0 else None


class Workers:
    """The sockets of all workers. Made by `listen`; a context manager."""

    def __init__(self, listening: Sequence[socket.socket], inner: Sequence[socket.socket]) -> None:
        self.listening = listening
        self._inner = inner

    @classmethod
    def listen(cls, host: str, port: int, count: int) -> Self:
        """Listen for so many workers. Raises `CannotListen`."""
        with ExitStack() as opened:
            try:
                listening = [opened.enter_context(made) for made in _on_one_address(host, port, count)]
                names = range(count if count > 1 else 0)
                inner = [opened.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in names]
            except OSError as error:
                raise cannot_listen(host, port, error, "--listen") from error
            opened.pop_all()
        return cls(listening, inner)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets in this process; workers that have them go on."""
        for each in (*self.listening, *self._inner):
            each.close()

    def places(self) -> Iterator[Place]:
        """Yield each worker's place."""
        ports = [each.getsockname()[1] for each in self._inner]
        for at, each in enumerate(self.listening):
            yield Place(at + 1, each.fileno(), self._inner[at].fileno() if self._inner else -1, ports)


def share_of(config: Config) -> Config:
    """Return the configuration of one of the workers: what is budgeted or kept by the whole is divided among them."""
    spool_bytes = max(config.spool_max_bytes // config.workers, least_log_bytes(config), MIB)
    drained = config.spool_drain_records_per_second // config.workers
    return replace(
        config,
        flush_budget_requests_per_second=config.flush_budget_requests_per_second / config.workers,
        spool_max_bytes=min(config.spool_max_bytes, spool_bytes),
        spool_drain_records_per_second=max(drained, _LEAST_DRAINED_PER_SECOND),
    )


def spool_of(directory: Path, worker: int) -> Path:
    """Return where a worker keeps what Kafka does not take."""
    return directory / numbered(_SPOOL, worker)


def spools(directory: Path) -> dict[int, Path]:
    """Return the spools that are there, by worker, whether or not there is such a worker now."""
    found = {int(path.name.partition("-")[2] or 1): path for path in directory.glob(f"{_SPOOL}*") if _is_spool(path)}
    return dict(sorted(found.items()))


def numbered(name: str, worker: int) -> str:
    """Return the name for a worker: the first one's is the name itself."""
    return name if worker == 1 else f"{name}-{worker}"


def _is_spool(path: Path) -> bool:
    return path.name == _SPOOL or path.name.removeprefix(f"{_SPOOL}-").isdecimal()


def _on_one_address(host: str, port: int, count: int) -> Iterator[socket.socket]:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    if count == 1:
        yield socket.create_server(address[:2], family=family, backlog=BACKLOG)
        return
    # Without SO_REUSEPORT this fails where anybody listens, another gateway's workers included; with it, it would not.
    with socket.create_server(address[:2], family=family) as first:
        taken = first.getsockname()[:2]
    for _ in range(count):
        yield socket.create_server(taken, family=family, backlog=BACKLOG, reuse_port=True)
