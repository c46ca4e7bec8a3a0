"""The sample client that the field copies, so that a fleet and the conformance kit can show what it costs beside ours.

A fair copy of the published iOS sample in Python, with its order of file operations and its file names: it polls a JSON
file for a URL, downloads what that names, compiles it and uses the newest file it finds. Nothing is made worse and
nothing is mended. What follows from it:

* "Already downloaded" compares the name in the URL with the names on disk; what is saved keeps the temporary name of
  the download. So every check downloads and compiles again.
* The HTTP status is not looked at: the page of a 404 is saved as a model. It fails to compile, stays, and hides the
  good one whenever its random name sorts higher.
* Killed between moving the compiled model in and removing the download, "X.tmp" sorts above "X.mlmodelc": the app falls
  back to the bundle. Killed before the outdated models are deleted, the highest random name wins, old or new.
* Two checks at once delete each other's model: none is left.
* Any downloaded model beats the bundle, a newer one of an app update too.
* A model is loaded at every prediction; one that crashes on load crashes every launch. An error of a prediction has no
  answer. There is no checksum, no signature, no previous release and no backoff.
"""

import asyncio
import json
import random
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final
from urllib.parse import urljoin

import aiohttp

from gateway.client.runtimes import BadModel, Model, PredictionFailed, Runtime

# A compiled Core ML model is a directory; what stands in for its files has this name.
_COMPILED: Final = "model"


async def _let_others_on(_: str) -> None:
    await asyncio.sleep(0)


@dataclass
class BlogTally:
    """What one or many of these clients did. `wrong_models` are predictions of something else than `right_sha256`;
    `fallbacks` those of the bundle where something else was right; `unanswered` had no answer at all."""

    polls: int = 0
    downloads: int = 0
    bytes: int = 0
    predictions: int = 0
    wrong_models: int = 0
    fallbacks: int = 0
    unanswered: int = 0
    crashes: int = 0


@dataclass
class BlogClient:
    """One install. A launch of the app makes a new one on the same directory.

    * `between` is awaited with the name of the step that was just done ("saved", "moved", "removed"); what it raises is
      the death of the process. By default it lets other checks on, as threads and extensions do on a phone.
    * `right_sha256` is what an observer knows should run; the client itself does not look at it.
    """

    poll_url: str
    directory: Path
    bundled: bytes
    runtime: Runtime
    session: aiohttp.ClientSession
    label: str = "Purchased"
    tally: BlogTally = field(default_factory=BlogTally)
    right_sha256: str | None = None
    dice: random.Random = field(default_factory=random.Random)
    between: Callable[[str], Awaitable[None]] = _let_others_on

    async def check(self) -> None:
        """Poll for a model and download it. Raises `aiohttp.ClientError`, and ValueError for a poll that is no JSON."""
        url = await self._poll()
        if url.rpartition("/")[2] in self._names():
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        saved = self.directory / f"CFNetworkDownload_{self.dice.getrandbits(24):06x}.tmp"
        saved.write_bytes(await self._download(url))
        await self.between("saved")
        content = saved.read_bytes()
        try:
            self._load(content)
        except BadModel:
            return
        compiled = saved.with_suffix(".mlmodelc")
        _move_in(content, compiled)
        await self.between("moved")
        saved.unlink(missing_ok=True)
        await self.between("removed")
        self._delete_outdated(compiled)

    def predict(self, inputs: Sequence[float]) -> float | None:
        """Return the score of the newest model, None where it gave none. A crash of the runtime is raised."""
        model, digest = self._newest()
        self._observe(digest)
        try:
            return model.predict(inputs)[self.label]
        except PredictionFailed:
            self.tally.unanswered += 1
            return None

    async def _poll(self) -> str:
        self.tally.polls += 1
        async with self.session.get(self.poll_url) as response:
            told = json.loads(await response.read())
        return urljoin(self.poll_url, str(told["url"]))

    async def _download(self, url: str) -> bytes:
        self.tally.downloads += 1
        async with self.session.get(url) as response:
            content = await response.read()
        self.tally.bytes += len(content)
        return content

    def _newest(self) -> tuple[Model, str]:
        """Return what the highest name holds, or else the bundle."""
        names = self._names()
        if names:
            try:
                content = (self.directory / names[-1] / _COMPILED).read_bytes()
                return self._load(content), sha256(content).hexdigest()
            except (OSError, BadModel):
                pass
        return self._load(self.bundled), sha256(self.bundled).hexdigest()

    def _load(self, content: bytes) -> Model:
        try:
            return self.runtime.load(content)
        except BadModel:
            raise
        except BaseException:  # counted, not caught: the sample knows nothing against it
            self.tally.crashes += 1
            raise

    def _observe(self, digest: str) -> None:
        self.tally.predictions += 1
        if self.right_sha256 not in (None, digest):
            is_bundle = digest == sha256(self.bundled).hexdigest()
            self.tally.fallbacks += is_bundle
            self.tally.wrong_models += not is_bundle

    def _names(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir()) if self.directory.exists() else []

    def _delete_outdated(self, newest: Path) -> None:
        for path in list(self.directory.iterdir()):
            if path == newest:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _move_in(content: bytes, compiled: Path) -> None:
    """Put a compiled model in its place in one step, as moveItem does."""
    made = compiled.parent.parent / f".{compiled.parent.name}-{compiled.name}"
    made.mkdir(parents=True)
    (made / _COMPILED).write_bytes(content)
    made.replace(compiled)
