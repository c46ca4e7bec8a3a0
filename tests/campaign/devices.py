"""The campaign's devices: many in one process, killed and started again like everything else.

    python -m tests.campaign.devices '<JSON of Orders>'

* A device sends its oldest unacknowledged batch until it is answered, to any gateway, then makes the next.
* Now and then it sends an acknowledged batch again, however old, as a device does that lost the reply or was restored
  from a backup; the answer must be the one it had.
* Now and then it drops events before they are sent, or sends what is no batch and drops that when it is told to: both
  stand in its ledger.
* Once the file `stop` is there it makes no new batches, and leaves when everything it made is acknowledged.
"""

import asyncio
import gzip
import random
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
from msgspec import Struct

from tests.campaign.journal import Journal, Refused, Sent

_REQUEST_SECONDS: Final = 6.0
_DAY_MS: Final = 86_400_000
_RESENT_SHARE: Final = 0.1
_DROPPED_SHARE: Final = 0.05
_MALFORMED_SHARE: Final = 0.02
_OUT_OF_RANGE_SHARE: Final = 0.02


class Orders(Struct, frozen=True):
    """What to send, and where."""

    urls: list[str]
    app_key: str
    journal: str
    stop: str
    devices: int
    seed: int
    pause_seconds: float = 0.25


class Device:
    """One device, its clock wrong by up to days."""

    def __init__(self, number: int, orders: Orders, journal: Journal, session: aiohttp.ClientSession) -> None:
        self._orders = orders
        self._journal = journal
        self._session = session
        self.name = str(uuid.UUID(int=(orders.seed << 32) + number, version=4))
        self._dice = random.Random(f"{orders.seed}:{number}:{time.time_ns()}")  # noqa: S311 - drives a test
        self._newest = journal.newest(self.name)

    async def live(self, stop: Callable[[], bool], waiting: list[Sent]) -> None:
        for sent in waiting:
            await self._deliver(sent)
        while not stop():
            self._newest = self._made(self._newest)
            self._journal.add(self._newest, time.time())
            await self._deliver(self._newest)
            if self._dice.random() < _RESENT_SHARE:
                await self._resend(self._journal.one(self.name, self._dice.randint(1, self._newest.seq)))
            await asyncio.sleep(self._dice.uniform(0.0, 2 * self._orders.pause_seconds))

    async def _deliver(self, sent: Sent) -> None:
        while (refused := await self._post(sent)) is None:  # noqa: ASYNC110 - the answer comes from a server
            await asyncio.sleep(self._dice.uniform(0.05, 0.5))
        self._journal.acknowledge(sent.batch, refused, time.time())

    async def _resend(self, sent: Sent | None) -> None:
        if sent is not None and not sent.malformed and (refused := await self._post(sent)) is not None:
            self._journal.resent(sent.batch, same=refused == sent.refused)

    async def _post(self, sent: Sent) -> Refused | None:
        """Return which events were refused and why; None where no answer came that settles the batch."""
        url = self._dice.choice(self._orders.urls)
        headers = {
            "Authorization": f"Bearer {self._orders.app_key}",
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
        }
        try:
            async with self._session.post(f"{url}/v1/batches", data=sent.body, headers=headers) as answer:
                if answer.status != (400 if sent.malformed else 200):
                    return None
                reply = msgspec.json.decode(await answer.read())
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        return {refusal["index"]: refusal["reason"] for refusal in reply.get("refused", [])}

    def _made(self, before: Sent | None) -> Sent:
        """Return the next batch; a malformed one is in the ledger of the batch after it."""
        seq = before.seq + 1 if before else 1
        dropped = dict(before.dropped) if before else {}
        count = self._dice.randint(1, 20)
        lost = self._dice.randint(1, 5) if self._dice.random() < _DROPPED_SHARE else 0
        malformed = self._dice.random() < _MALFORMED_SHARE
        if lost:
            dropped["queue_full"] = dropped.get("queue_full", 0) + lost
        if malformed:
            dropped["malformed"] = dropped.get("malformed", 0) + count
        produced = (before.produced if before else 0) + count + lost
        now_ms = time.time_ns() // 1_000_000 + self._dice.choice([0, 0, 0, -_DAY_MS, 3 * _DAY_MS])
        batch = str(uuid.UUID(bytes=self._dice.randbytes(16), version=4))
        document = {
            "device": self.name,
            "batch": batch,
            "seq": "not a number" if malformed else seq,
            "sent_at": now_ms,
            "sdk": "2.3.0",
            "ledger": {"produced": produced, "dropped": dropped},
            "signals": {"upsell": ["battery_level", "charging"]},
            "events": [self._event(seq * 100 + number, now_ms) for number in range(count)],
        }
        return Sent(
            batch=batch,
            device=self.name,
            seq=seq,
            body=gzip.compress(msgspec.json.encode(document), 6),
            malformed=malformed,
            produced=produced,
            dropped=dropped,
        )

    def _event(self, number: int, now_ms: int) -> dict[str, object]:
        score = self._dice.random() * (100 if self._dice.random() < _OUT_OF_RANGE_SHARE else 1)
        signals = [round(self._dice.random(), 2), 1]
        common = {"type": "prediction", "id": number, "t": now_ms, "model": "upsell", "release": 1}
        told = {"source": "bundled", "score": round(score, 3), "decision": score > 0.5}
        return common | told | {"latency_us": self._dice.randint(1, 999), "signals": signals}


async def main(orders: Orders) -> None:
    journal = Journal(Path(orders.journal))
    waiting = journal.unacknowledged()
    timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as all_of_them:
        for number in range(orders.devices):
            device = Device(number, orders, journal, session)
            own = [sent for sent in waiting if sent.device == device.name]
            all_of_them.create_task(device.live(Path(orders.stop).exists, own))
    journal.close()


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Orders)))
