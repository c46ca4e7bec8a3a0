"""A port that a child can keep across restarts, and the queue of connections that outlasts one."""

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
