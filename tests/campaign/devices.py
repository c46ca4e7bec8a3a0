"""The campaign's devices: many in one process, killed and started again like everything else.

    python -m tests.campaign.devices '<JSON of Orders>'

* A device sends its oldest unacknowledged batch until it is answered 200, to any gateway, then makes the next.
* Now and then it sends an acknowledged batch again, as a device does that lost the reply or was restored from a backup;
  the answer must be the one it had.
* SIGTERM: no new batches; it leaves once everything it made is acknowledged.
"""

import asyncio
import gzip
import random
import signal
import sys
import time
import uuid
from pathlib import Path
from typing import Final

import aiohttp
import msgspec
from msgspec import Struct

from tests.campaign.journal import Journal, Sent

_REQUEST_SECONDS: Final = 6.0
_DAY_MS: Final = 86_400_000


class Orders(Struct, frozen=True):
    """What to send, and where."""

    urls: list[str]
    app_key: str
    journal: str
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
        self._produced = 0
        self.done: list[Sent] = []

    async def live(self, stop: asyncio.Event, waiting: list[Sent]) -> None:
        for sent in waiting:
            await self._deliver(sent)
        while not stop.is_set():
            sent = self._made()
            self._journal.add(sent, time.time())
            await self._deliver(sent)
            if self.done and self._dice.random() < 0.1:
                await self._resend(self._dice.choice(self.done))
            await asyncio.sleep(self._dice.uniform(0.0, 2 * self._orders.pause_seconds))

    async def _deliver(self, sent: Sent) -> None:
        while (refused := await self._post(sent)) is None:  # noqa: ASYNC110 - the answer comes from a server
            await asyncio.sleep(self._dice.uniform(0.05, 0.5))
        self._journal.acknowledge(sent.batch, refused, time.time())
        self.done.append(msgspec.structs.replace(sent, refused=refused))

    async def _resend(self, sent: Sent) -> None:
        refused = await self._post(sent)
        if refused is not None:
            self._journal.resent(sent.batch, same=refused == sent.refused)

    async def _post(self, sent: Sent) -> list[int] | None:
        """Return which events were refused; None where no 200 came."""
        url = self._dice.choice(self._orders.urls)
        headers = {
            "Authorization": f"Bearer {self._orders.app_key}",
            "Content-Type": "application/json",
            "Content-Encoding": "gzip",
        }
        try:
            async with self._session.post(f"{url}/v1/batches", data=sent.body, headers=headers) as answer:
                if answer.status != 200:
                    return None
                reply = msgspec.json.decode(await answer.read())
        except (aiohttp.ClientError, TimeoutError, OSError):
            return None
        return [refusal["index"] for refusal in reply.get("refused", [])]

    def _made(self) -> Sent:
        seq = self._journal.next_seq(self.name)
        count = self._dice.randint(1, 20)
        now_ms = time.time_ns() // 1_000_000 + self._dice.choice([0, 0, 0, -_DAY_MS, 3 * _DAY_MS])
        ids = [seq * 100 + n for n in range(count)]
        events = [self._event(number, now_ms) for number in ids]
        self._produced += count
        batch = str(uuid.UUID(bytes=self._dice.randbytes(16), version=4))
        document = {
            "device": self.name,
            "batch": batch,
            "seq": seq,
            "sent_at": now_ms,
            "sdk": "2.3.0",
            "ledger": {"produced": self._produced},
            "signals": {"upsell": ["battery_level", "charging"]},
            "events": events,
        }
        return Sent(batch, self.name, seq, ids, gzip.compress(msgspec.json.encode(document), 6))

    def _event(self, number: int, now_ms: int) -> dict[str, object]:
        score = self._dice.random() * (100 if self._dice.random() < 0.02 else 1)
        signals = [round(self._dice.random(), 2), 1]
        common = {"type": "prediction", "id": number, "t": now_ms, "model": "upsell", "release": 1}
        return common | {"source": "bundled", "score": round(score, 3), "decision": score > 0.5, "signals": signals}


async def main(orders: Orders) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    journal = Journal(Path(orders.journal))
    waiting = journal.unacknowledged()
    timeout = aiohttp.ClientTimeout(total=_REQUEST_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as all_of_them:
        for number in range(orders.devices):
            device = Device(number, orders, journal, session)
            own = [sent for sent in waiting if sent.device == device.name]
            all_of_them.create_task(device.live(stop, own))
    journal.close()


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Orders)))
