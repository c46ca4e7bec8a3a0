"""A TCP proxy that misbehaves on request: it stands before each gateway, before ClickHouse and before each broker."""

import asyncio
from contextlib import suppress
from typing import Literal, Self

Mode = Literal["pass", "refuse", "blackhole", "lose_replies"]
_CHUNK_BYTES = 64 * 1024


class Proxy:
    """Forwards connections to one port of this machine in the mode of the moment; made by `open`.

    * `refuse`: connections are reset at once.
    * `blackhole`: they stay open and nothing moves in either direction; afterwards what was sent arrives, late.
    * `lose_replies`: requests arrive, answers do not, and the connection is cut.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.mode: Mode = "pass"
        self.port = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    @classmethod
    async def open(cls, target_port: int = 0) -> Self:
        """Listen; the port to forward to may be told later."""
        proxy = cls(target_port)
        proxy._server = await asyncio.start_server(proxy._connected, "127.0.0.1", 0)
        proxy.port = proxy._server.sockets[0].getsockname()[1]
        return proxy

    _server: asyncio.Server

    def become(self, mode: Mode) -> None:
        """Change the mode; connections made in another one are cut, unless they are to hang or hung until now."""
        before, self.mode = self.mode, mode
        self._changed.set()
        self._changed = asyncio.Event()
        if "blackhole" not in (before, mode):
            self._cut()

    async def close(self) -> None:
        self.become("refuse")
        self._cut()
        self._server.close()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.mode == "refuse":
            writer.transport.abort()
            return
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)
        self._writers.add(writer)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            self._writers.discard(writer)
            return
        self._writers.add(back)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, back, answers=False))
                both.create_task(self._pump(there, writer, answers=True))
        finally:
            for each in (writer, back):
                self._writers.discard(each)
                each.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, answers: bool) -> None:
        with suppress(OSError):
            while data := await source.read(_CHUNK_BYTES):
                while self.mode == "blackhole":
                    await self._changed.wait()
                if answers and self.mode == "lose_replies":
                    break
                target.write(data)
                await target.drain()
        target.transport.abort()
