"""A gateway, a CDN, and a week in which things go wrong on it, for the real client and for the field's sample alike.

* Day 1: release 2 is published. Day 2: for six hours the CDN answers 404, with a page. Day 3: for twelve hours it
  serves release 2 with a byte turned over. Day 4: release 3 is published, which kills the process that loads it; it is
  taken back after twelve hours. What is right is release 1, and release 2 from day 1 on.
"""

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from hashlib import sha256
from pathlib import Path
from typing import Final, Self

from aiohttp import web

from gateway.app import create_app
from gateway.client.fleet.shoppers import MODEL
from gateway.client.runtimes import BadModel, Model
from gateway.client.runtimes.coreml import CoreMLRuntime
from gateway.config import Config
from gateway.demo.stage import APP, Stage, model_file, set_up
from gateway.publish.embedded import EmbeddedLog
from gateway.rehearsal.acts import operator
from gateway.releases.publish import publish_release
from gateway.releases.rollouts import change
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store
from gateway.releases.transitions import hold

_DAY: Final = 86_400.0
_LOG_BYTES: Final = 2**30
_PAGE: Final = b"<!doctype html><title>404</title><p>Nothing is here."
# An unknown field at the end of a protobuf message: other bytes, the same model.
_MARK: Final = b"\x9a\xbb\x01\x05fatal"
_TRIED: Final = 200
RIGHT: Final = 2
FATAL: Final = 3


class Died(BaseException):
    """The process is gone: no `except Exception` sees that either."""


class _Fitting:
    """A model that takes of the inputs those that it knows: what an app would give it."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.input_size, self.labels, self.metadata = model.input_size, model.labels, model.metadata

    def predict(self, inputs: Sequence[float]) -> dict[str, float]:
        """Predict."""
        return self._model.predict(inputs[: self.input_size])


class FatalRuntime:
    """Core ML in a process that one artifact kills when it is loaded. `dying` is called at that moment."""

    def __init__(self, fatal: str, dying: Callable[[], None] = lambda: None) -> None:
        self._runtime = CoreMLRuntime()
        self._fatal, self._dying = fatal, dying
        self.format = self._runtime.format
        self.deaths = 0

    def load(self, data: bytes) -> Model:
        """Load, or die."""
        if sha256(data).hexdigest() == self._fatal:
            self.deaths += 1
            self._dying()
            raise Died
        return _Fitting(self._runtime.load(data))


class World:
    """What the phones talk to. `advance` lets happen what is due."""

    def __init__(self, stage: Stage, directory: Path) -> None:
        self.stage = stage
        self.snapshots = SnapshotKeeper(stage.store)
        self.url = self.cdn_url = ""
        self.artifacts = {release: model_file(release).read_bytes() for release in (1, RIGHT)}
        self.artifacts[FATAL] = self.artifacts[RIGHT] + _MARK
        self.sha256 = {release: sha256(content).hexdigest() for release, content in self.artifacts.items()}
        self.right = 1
        self.downloads: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()
        self._directory = directory
        self._named = 1
        self._is_away = self._is_turned = False
        self._due: list[tuple[float, Callable[[], Awaitable[None]]]] = [
            (1.0 * _DAY, self._publish),
            (2.0 * _DAY, self._set(away=True)),
            (2.25 * _DAY, self._set()),
            (3.0 * _DAY, self._set(turned=True)),
            (3.5 * _DAY, self._set()),
            (4.0 * _DAY, self._publish_fatal),
            (4.5 * _DAY, self._take_back),
        ]

    @classmethod
    async def open(cls, directory: Path, stack: AsyncExitStack) -> Self:
        """Start a gateway and a CDN that end with the stack."""
        store = Store.open(Config(data=str(directory)).store_address)
        stage = await set_up(directory, store)
        world = cls(stage, directory)
        cdn = web.Application()
        cdn.router.add_get("/poll.json", world.poll)
        cdn.router.add_get("/models/" + MODEL + r"-{release:\d+}.mlmodel", world.named)
        cdn.router.add_get("/artifacts/{sha256}", world.artifact)
        world.cdn_url = await _listen(cdn, stack)
        # Not inline: both shall download, from the same CDN.
        world.snapshots = SnapshotKeeper(store, base_url=world.cdn_url, inline_bytes=0)
        await world.snapshots.refresh()
        log = await EmbeddedLog.open(directory / "log", max_bytes=_LOG_BYTES, max_pending_bytes=_LOG_BYTES)
        stack.push_async_callback(log.close)
        app = create_app(Config(data=str(directory)), sink=log, snapshots=world.snapshots, store=store)
        world.url = await _listen(app, stack)
        return world

    async def advance(self, now: float) -> None:
        """Let happen what is due at this many seconds from the beginning."""
        while self._due and self._due[0][0] <= now:
            await self._due.pop(0)[1]()
            await self.snapshots.refresh()

    async def poll(self, _: web.Request) -> web.Response:
        """Answer the sample's poll: the newest file."""
        return web.json_response({"url": f"/models/{MODEL}-{self._named}.mlmodel"})

    async def named(self, request: web.Request) -> web.Response:
        """Serve a file by the name that a poll gave it."""
        release = int(request.match_info["release"])
        return self._serve("sample", self.artifacts[release], release)

    async def artifact(self, request: web.Request) -> web.Response:
        """Serve an artifact by its hash."""
        path = f"artifacts/{request.match_info['sha256']}"
        return self._serve("client", await self.stage.store.get(path), RIGHT)

    def _serve(self, whose: str, content: bytes, release: int) -> web.Response:
        self.downloads[whose] += 1
        status = 200
        if self._is_away:
            status, content = 404, _PAGE
        elif self._is_turned and release == RIGHT:
            content = _turned(content)
        self.bytes[whose] += len(content)
        return web.Response(status=status, body=content)

    def _set(self, *, away: bool = False, turned: bool = False) -> Callable[[], Awaitable[None]]:
        async def act() -> None:
            self._is_away, self._is_turned = away, turned

        return act

    async def _publish(self) -> None:
        await self._list(RIGHT)
        self._named = self.right = RIGHT

    async def _publish_fatal(self) -> None:
        await self._list(FATAL)
        self._named = FATAL

    async def _take_back(self) -> None:
        signed = operator("it kills the app")
        await change(self.stage.store, APP, MODEL, lambda last: hold(last, APP, MODEL, RIGHT, signed))
        self._named = RIGHT

    async def _list(self, release: int) -> None:
        file = self._directory / f"{MODEL}-{release}.mlmodel"
        file.write_bytes(self.artifacts[release])
        await publish_release(
            self.stage.store,
            app=APP,
            model=MODEL,
            file=file,
            sdk="",
            signing_key=self.stage.signing_key,
            now_ms=time.time_ns() // 1_000_000,
        )


def _turned(content: bytes) -> bytes:
    """Turn one byte over, the first from the middle on after which the file still is a model, where there is one."""
    runtime = CoreMLRuntime()
    middle = len(content) // 2
    for place in range(middle, min(middle + _TRIED, len(content))):
        turned = content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
        try:
            runtime.load(turned)
        except BadModel:
            continue
        return turned
    return content[:middle]


async def _listen(app: web.Application, stack: AsyncExitStack) -> str:
    runner = web.AppRunner(app, auto_decompress=False, access_log=None)
    stack.push_async_callback(runner.cleanup)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}/"
