"""The client for programs without asyncio: the same calls, from any thread.

* The client lives on a thread of its own. A call waits for its own answer there and nothing else: `predict` and
  `outcome` never wait for a flush or a download, which wait for the network on that thread without holding it.
* A fork by the app is safe: the client is closed before it, and opened again by the next call in each of the two
  processes. They share the queue then, and one of them sends. A fork by a runtime, in its load or
  prediction, waits for ever: for the thread that it is made on (`subprocess` does not fork in this sense).
* A program that ends without `close` loses nothing, since everything is on disk. Nor does it send: `background` does.
"""

import asyncio
import atexit
import functools
import logging
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import CancelledError, Future
from contextlib import ExitStack, contextmanager
from threading import Lock, Thread
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

from gateway.client.client import Client, Predicted, Status
from gateway.client.sender import Flushed
from schemas.wire import Ledger

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def _like(
    original: Callable[Concatenate[Client, P], None],
) -> Callable[[Callable[..., None]], Callable[Concatenate["SyncClient", P], None]]:
    """Give a function the parameters of another."""

    def decorate(function: Callable[..., None]) -> Callable[Concatenate["SyncClient", P], None]:
        return functools.wraps(original)(function)

    return decorate


class SyncClient:
    """`Client` for any thread, with the same parameters but `session`, which belongs to one event loop."""

    @_like(Client.__init__)
    def __init__(self, *args: Any, **options: Any) -> None:
        if options.get("session") is not None:
            raise TypeError("a session belongs to an event loop; this client makes its own")
        self._make = functools.partial(Client, *args, **options)
        self._make()  # wrong parameters are said here, not at the first call
        self._lock = Lock()
        self._open = self._low_power = self._expensive = False
        self._living: _Living | None = None

    def open(self) -> Self:
        """Read the device's state and load its models. Needs no network."""
        _watch_forks()
        _open.add(self)
        self._open = True
        self._call(lambda client: None)
        return self

    def close(self) -> None:
        """Stop; a `flush` that another thread waits for ends with RuntimeError, its batch is kept."""
        self._open = False
        _open.discard(self)
        with self._resting():
            pass

    def foreground(self) -> None:
        """As `Client.foreground`, without waiting for the flush."""
        self._submit(lambda client: client.foreground()).add_done_callback(_log_failure)

    def background(self) -> None:
        """As `Client.background`: returns when what waited is sent, or cannot be."""
        self._wait(lambda client: client.background())

    def low_power(self, on: bool) -> None:
        """As `Client.low_power`."""
        self._low_power = on
        if self._open:
            self._call(lambda client: client.low_power(on))

    def expensive_network(self, on: bool) -> None:
        """As `Client.expensive_network`."""
        self._expensive = on
        if self._open:
            self._call(lambda client: client.expensive_network(on))

    def predict(self, model: str, signals: Mapping[str, float | None]) -> Predicted:
        """As `Client.predict`."""
        return self._call(lambda client: client.predict(model, signals))

    def outcome(self, prediction: int, model: str, label: str, value: float = 0.0) -> None:
        """As `Client.outcome`."""
        self._call(lambda client: client.outcome(prediction, model, label, value))

    def flush(self) -> Flushed:
        """As `Client.flush`."""
        return self._wait(lambda client: client.flush())

    def update_from(self, url: str) -> bool:
        """As `Client.update_from`."""
        return self._wait(lambda client: client.update_from(url))

    def status(self) -> Status:
        """As `Client.status`."""
        return self._call(lambda client: client.status())

    @property
    def ledger(self) -> Ledger:
        """As `Client.ledger`."""
        return self._call(lambda client: client.ledger)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, ask: Callable[[Client], T]) -> T:
        async def answer(client: Client) -> T:
            return ask(client)

        return self._wait(answer)

    def _wait(self, ask: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """Return the answer; what a fork interrupts is asked again."""
        while True:
            try:
                return self._submit(ask).result()
            except CancelledError:
                if not self._open:
                    raise RuntimeError("the client was closed meanwhile") from None

    def _submit(self, ask: Callable[[Client], Coroutine[Any, Any, T]]) -> "Future[T]":
        with self._lock:  # so that nothing is asked of a thread that has been told to end
            if not self._open:
                raise RuntimeError("the client is not open")
            if self._living is None:
                client = self._make()
                client.low_power(self._low_power)
                client.expensive_network(self._expensive)
                self._living = _Living(client)
            return self._living.submit(ask)

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """End the thread; while inside, none is begun."""
        with self._lock:
            if self._living is not None:
                self._living.end()
                self._living = None
            yield


class _Living:
    """A client and the thread on which it lives."""

    def __init__(self, client: Client) -> None:
        """Open the client. Raises what `Client.open` raises."""
        self._client = client
        self._opened: Future[asyncio.AbstractEventLoop] = Future()
        self._ending = asyncio.Event()
        self._thread = Thread(target=lambda: asyncio.run(self._live()), name="backhaul-client", daemon=True)
        self._thread.start()
        self._loop = self._opened.result()

    def submit(self, ask: Callable[[Client], Coroutine[Any, Any, T]]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(ask(self._client), self._loop)

    def end(self) -> None:
        """Interrupt what waits, close the client, and return when the thread has ended."""
        self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    async def _live(self) -> None:
        try:
            await self._client.open()
        except BaseException as error:
            self._opened.set_exception(error)
            return
        self._opened.set_result(asyncio.get_running_loop())
        await self._ending.wait()
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await self._client.close()


def _log_failure(done: "Future[None]") -> None:
    if not done.cancelled() and done.exception() is not None:
        logger.error("a call in the background failed", exc_info=done.exception())


_open: Final[set[SyncClient]] = set()
_forking: Final = ExitStack()


@functools.cache
def _watch_forks() -> None:
    """Let every client rest while the process forks: two processes that inherit one open SQLite file damage it."""
    os.register_at_fork(before=_before_fork, after_in_parent=_forking.close, after_in_child=_forking.close)
    atexit.register(_at_exit)


def _before_fork() -> None:
    for client in list(_open):
        _forking.enter_context(client._resting())


def _at_exit() -> None:
    for client in list(_open):
        client.close()
