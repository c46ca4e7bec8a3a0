"""Kill -9 of the log's writer at random moments: what was acknowledged is there, in order, once."""

import asyncio
import random
import signal
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

from consumers.source import EmbeddedSource
from schemas.records import StoredRecord
from schemas.topics import BATCHES, DEAD_LETTERS, TOPICS

# Each call stores one batch and one dead letter of the same name, and the name is printed once it was acknowledged.
WRITER = """
import asyncio, os, sys
from pathlib import Path
from gateway.publish.embedded import EmbeddedLog
from schemas.records import Record

async def main():
    log = await EmbeddedLog.open(Path(sys.argv[1]), max_bytes=10**9, max_pending_bytes=10**9)
    async def publisher(lane):
        number = 0
        while True:
            key, name = b"%s-%d" % (sys.argv[2].encode(), lane), b"%d" % number
            filler = (("filler", b"x" * 3000),)
            await log.publish([Record("batches", key, name, filler), Record("dead_letters", key, name)])
            os.write(1, key + b" " + name + b"\\n")
            number += 1
    await asyncio.gather(*map(publisher, range(12)))

asyncio.run(main())
"""


class Follower:
    """Reads on and commits as it goes, so that the log is trimmed while its writer is being killed."""

    def __init__(self, source: EmbeddedSource) -> None:
        self._source = source
        self.read: dict[str, list[StoredRecord]] = {topic: [] for topic in TOPICS}

    async def catch_up(self) -> None:
        for topic, found in self.read.items():
            first = len(found)
            while more := await self._source.read(topic, 0, first, max_records=300, max_bytes=1 << 20):
                found += more
                first = more[-1].offset + 1
                await self._source.commit(topic, 0, first)


async def run_and_kill(directory: Path, life: int, acknowledgements: int, follower: Follower) -> list[bytes]:
    """Let a writer live until it has acknowledged so many, kill it, and return all that it acknowledged."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(directory), f"life-{life}", stdout=PIPE
    )
    assert child.stdout is not None
    acknowledged: list[bytes] = []
    while len(acknowledged) < acknowledgements:
        acknowledged.append((await child.stdout.readline()).strip())
        if len(acknowledged) % 50 == 0:
            await follower.catch_up()
    child.kill()
    rest = await child.stdout.read()
    assert await child.wait() == -signal.SIGKILL
    return acknowledged + rest.splitlines()


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_killed_writer_loses_nothing_it_acknowledged_and_doubles_nothing(seed: int, tmp_path: Path) -> None:
    dice = random.Random(seed)  # noqa: S311 - chooses when to kill
    first = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, str(tmp_path), "life-0", stdout=PIPE)
    source = await EmbeddedSource.open(tmp_path, "follower")
    first.kill()
    acknowledged = (await first.communicate())[0].splitlines()
    follower = Follower(source)
    for life in range(1, 6):
        acknowledged += await run_and_kill(tmp_path, life, dice.randint(1, 900), follower)
    await source.close()
    follower = await finish(tmp_path, follower)
    for topic in TOPICS:
        assert [record.offset for record in follower.read[topic]] == list(range(len(follower.read[topic])))
    batches, letters = (names(follower.read[topic]) for topic in (BATCHES, DEAD_LETTERS))
    assert len(set(batches)) == len(batches)
    assert set(acknowledged) <= set(batches)
    assert batches == letters  # a call's records are there together or not at all
    assert all_in_order(batches)


async def finish(directory: Path, follower: Follower) -> Follower:
    """Read the rest through a source of its own, with no writer alive to help."""
    source = await EmbeddedSource.open(directory, "follower")
    last = Follower(source)
    last.read = follower.read
    await last.catch_up()
    (oldest,) = await source.read(BATCHES, 0, 0, max_records=1, max_bytes=1)
    assert oldest.offset > 0  # the log was trimmed while its writers died
    await source.close()
    return last


def names(records: list[StoredRecord]) -> list[bytes]:
    return [record.key + b" " + record.value for record in records]


def all_in_order(stored: list[bytes]) -> bool:
    """Say whether each lane's numbers run 0, 1, 2... without a gap."""
    lanes: dict[bytes, list[int]] = {}
    for name in stored:
        lane, number = name.split()
        lanes.setdefault(lane, []).append(int(number))
    return all(numbers == list(range(len(numbers))) for numbers in lanes.values())
