"""Judge a gateway by HTTP alone: every rule of the wire contract that a client can see.

* What is sent goes to the app whose key is given, from devices with new random ids: give the kit an app of its own.
* Read only, nothing is sent that a gateway keeps: what it refuses without a trace, and what is asked with GET.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import aiohttp
import msgspec
from msgspec import Struct

from gateway.client.conformance.asked import Answer, Asked
from gateway.client.conformance.contract import ROWS
from gateway.client.conformance.results import Failed, Result, Row, Skipped
from gateway.client.verify import named_keys

_REQUEST_SECONDS: Final = 30.0


class Unreached(Exception):
    """The gateway does not answer at all."""


class KeyRefused(Exception):
    """The gateway does not know the app key, or it is revoked: every row would fail of that alone."""


class Target(Struct, frozen=True):
    """Which gateway, as which app, believing which keys."""

    url: str
    app_key: str
    model: str = "upsell"
    public_keys: Sequence[bytes] = ()
    revoked_key: str | None = None
    read_only: bool = False


async def judge(
    target: Target, *, only: Iterable[str] = (), watch: Callable[[Result], None] = lambda result: None
) -> list[Result]:
    """Judge a gateway by every row, or by those with these names. Raises `Unreached`, `KeyRefused`."""
    chosen = set(only)
    timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        asked = _Http(target, session)
        try:
            await asked.get("/healthz")
            # What is no JSON is refused without a trace, but for its key first.
            answer = await asked.send(b"", {"Content-Type": "text/plain"}, "known")
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreached(f"{target.url} does not answer: {error or 'it took too long'}") from error
        if answer.status in (401, 403):
            raise KeyRefused(f"the gateway refuses this app key: {answer.status}")
        results: list[Result] = []
        for row in ROWS.rows:
            if not chosen or row.name in chosen:
                results.append(await _run(row, asked))
                watch(results[-1])
        return results


class _Http(Asked):
    """Asks over one session."""

    def __init__(self, target: Target, session: aiohttp.ClientSession) -> None:
        keys = {"known": target.app_key, "unknown": f"{target.app_key}x"}
        if target.revoked_key is not None:
            keys["revoked"] = target.revoked_key
        super().__init__(target.app_key.partition(".")[0], target.model, named_keys(target.public_keys), keys)
        self.read_only = target.read_only
        self.url = target.url.rstrip("/")
        self._session = session

    async def get(self, path: str, **headers: str) -> Answer:
        url = path if "://" in path else self.url + path
        async with self._session.get(url, headers=headers) as response:
            return Answer(response.status, response.headers, await response.read())

    async def send(self, body: bytes, headers: Mapping[str, str], key: str | None) -> Answer:
        sent = dict(headers) if key is None else {**headers, "Authorization": f"Bearer {self.keys[key]}"}
        async with self._session.post(
            f"{self.url}/v1/batches", data=body, headers=sent, skip_auto_headers=["Content-Type"], allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await response.read())


async def _run(row: Row[Asked], asked: Asked) -> Result:
    if row.check is None:
        return Result(row.name, row.sentence, "skipped", row.skipped_because)
    try:
        await row.check(asked)
    except Failed as failed:
        return Result(row.name, row.sentence, "failed", str(failed))
    except Skipped as skipped:
        return Result(row.name, row.sentence, "skipped", str(skipped))
    except (aiohttp.ClientError, TimeoutError) as error:
        return Result(row.name, row.sentence, "failed", f"no answer: {error!r}")
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        return Result(row.name, row.sentence, "failed", f"the answer is not of the contract: {error!r}")
    return Result(row.name, row.sentence, "passed")
