"""The other workers of this gateway: any one of them answers `/metrics` and `/readyz` for all.

* The kernel decides which worker a connection reaches, so an answer of one alone would be a part that looks whole.
* Each is asked on its own port, with `?of=worker`: of itself alone. Its samples get the label `worker`.
* One that does not answer in time is said not to, in `backhaul_worker_answers` and in the readiness of all: devices
  that were given to it wait meanwhile.
"""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import aiohttp
import msgspec
from prometheus_client import generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

OF_ONE: Final = {"of": "worker"}
_PATIENCE: Final = aiohttp.ClientTimeout(total=1.0)


class Fellows:
    """Every worker by its number; `ports` is empty where there is only this one."""

    def __init__(self, number: int, ports: Sequence[int]) -> None:
        self._number = number
        self._ports = ports

    def __bool__(self) -> bool:
        return bool(self._ports)

    async def metrics(self, own: bytes) -> bytes:
        """Return the metrics of all workers; `own` are this one's."""
        texts = await self._ask("/metrics")
        texts[self._number] = own
        # Parsing takes about a millisecond a worker, which is not the event loop's.
        return await asyncio.to_thread(_together, texts)

    async def trouble(self) -> dict[str, str]:
        """Return why other workers are not ready, by worker; of those that are, nothing."""
        answers = await self._ask("/readyz")
        found = {}
        for number, text in answers.items():
            answer: dict[str, Any] = (
                msgspec.json.decode(text) if text else {"ready": False, "trouble": {"it": "does not answer"}}
            )
            reasons = [f"{part}: {reason}" for part, reason in answer["trouble"].items() if reason]
            if not answer["ready"]:
                found[f"worker {number}"] = "; ".join(reasons)
        return found

    async def _ask(self, path: str) -> dict[int, bytes]:
        """Return the answers of all others; an empty one of those that gave none."""
        others = [number for number in range(1, len(self._ports) + 1) if number != self._number]
        async with aiohttp.ClientSession(timeout=_PATIENCE) as session:
            return dict(await asyncio.gather(*(self._answer(session, path, number) for number in others)))

    async def _answer(self, session: aiohttp.ClientSession, path: str, number: int) -> tuple[int, bytes]:
        url = f"http://127.0.0.1:{self._ports[number - 1]}{path}"
        try:
            async with session.get(url, params=OF_ONE) as reply:
                return number, await reply.read()
        except (aiohttp.ClientError, OSError):  # a timeout is an OSError
            return number, b""


class _Told:
    """A registry of what was told."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """Return the families."""
        return self._families


def _together(texts: dict[int, bytes]) -> bytes:
    families: dict[str, Metric] = {}
    answers = GaugeMetricFamily("backhaul_worker_answers", "whether a worker could be asked", labels=["worker"])
    for number, text in sorted(texts.items()):
        answers.add_metric([str(number)], float(bool(text)))
        for family in _of_worker(number, text):
            if family.name in families:
                families[family.name].samples.extend(family.samples)
            else:
                families[family.name] = family
    return generate_latest(_Told([*families.values(), answers]))


def _of_worker(number: int, text: bytes) -> Iterator[Metric]:
    for family in text_string_to_metric_families(text.decode()):
        labelled = [sample._replace(labels={**sample.labels, "worker": str(number)}) for sample in family.samples]
        family.samples = labelled
        yield family
