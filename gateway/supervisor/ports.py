"""Ports that a child can keep across restarts, and the queue of connections that outlasts one."""

import os
import socket
from typing import Final

_HOST: Final = "127.0.0.1"
# Below Linux's ephemeral range (32768 and up): an outgoing connection must not take the port while the server that
# owns it is being started again.
_FIRST: Final = 20_000
_COUNT: Final = 10_000
# Connections that wait while a gateway is started again. To accept is to set it anew, so both sides must agree on it.
BACKLOG: Final = 4096


class CannotListen(Exception):
    """The address cannot be listened on."""


def listen(host: str, port: int, key: str) -> socket.socket:
    """Return a listening socket; `key` is the setting that chose the address. Raises `CannotListen`."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        raise cannot_listen(host, port, error, key) from error


def cannot_listen(host: str, port: int, error: OSError, key: str) -> CannotListen:
    """Say why, and what to do. Python puts the address into `strerror` again; a name that is unknown has no errno."""
    number = error.errno or 0
    reason = os.strerror(number) if number > 0 else error.strerror or str(error)
    return CannotListen(f"cannot listen on {host}:{port}: {reason}; choose another address with {key}")


def url_of(listening: socket.socket) -> str:
    """Return where this machine reaches it."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - the address that stands for every one
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def free_port() -> int:
    """Return a port that nothing listens on now, another one for each process that asks. Raises `OSError`."""
    start = os.getpid() * 7919  # a prime spreads neighbouring processes over the range
    for step in range(_COUNT):
        port = _FIRST + (start + step) % _COUNT
        if _is_free(port):
            return port
    raise OSError(f"no free port between {_FIRST} and {_FIRST + _COUNT}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True
