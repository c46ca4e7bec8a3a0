"""Carry one lane of the log into the warehouse, range by range; every failure ends in the same place, the newest plan.

* There is one way back: after a crash, an outage or a lost race, `resume` looks at the newest plan and finishes it.
* What the log has deleted before it was read is skipped, counted and said: it was acknowledged, and it is lost here.
* A retry never trusts what an earlier try reported: it asks every table what is missing and writes just that.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from typing import Final

from msgspec.structs import replace

from consumers.ending import until
from consumers.source import Source, SourceError
from consumers.warehouse.cargo import Cargo, Item
from consumers.warehouse.plans import Lane, Plan
from consumers.warehouse.ranges import Ranges
from consumers.warehouse.settings import Progress, WarehouseSettings
from consumers.warehouse.tables import Away, Rejected, Superseded, Tables, Unreadable

_log = logging.getLogger(__name__)

# How often a replay asks what is missing and writes it. Twice is enough unless rows vanish: they expire at once where
# the log is older than the warehouse's retention.
_REPLAY_TRIES: Final = 3
# Only the newest plan of a lane is ever asked for; some more are left for a person who asks what happened.
_PLANS_KEPT: Final = 100
_PRUNE_EVERY_RANGES: Final = 1000

Observer = Callable[[Progress], None]


class LogBehind(Exception):
    """The log ends before a range that was planned from it: it was restored from an older copy."""


class LaneConsumer:
    """One lane's consumer. `run` until stopped; the steps are methods of their own so that tests can stop between."""

    def __init__(
        self,
        lane: Lane,
        source: Source,
        tables: Tables,
        cargo: Cargo,
        settings: WarehouseSettings,
        observe: Observer,
    ) -> None:
        self._lane, self._source, self._tables, self._cargo = lane, source, tables, cargo
        self._settings, self._observe = settings, observe
        self._ranges = Ranges(lane, source, cargo, settings)
        self._safe = False
        self.progress = Progress(lane.topic, lane.partition, 0, 0)

    async def run(self, stop: asyncio.Event) -> None:
        """Take range after range until stopped; what fails is tried again for ever, later and later."""
        try:
            await self._keep_taking(stop)
        finally:
            await self._ranges.forget()
        self._tell(trouble="", broken="")  # whatever it is, it is another one's now

    async def _keep_taking(self, stop: asyncio.Event) -> None:
        failures = 0
        while not stop.is_set():
            try:
                await self._tables.begin()
                next_offset = await self.resume()
                await self._prune()
                while not stop.is_set():
                    first, started = next_offset, time.monotonic()
                    next_offset, full = await self.advance(first)
                    failures = 0
                    if next_offset > first and self.progress.ranges % _PRUNE_EVERY_RANGES == 0:
                        await self._prune()
                    if not full:
                        lingers = self._settings.linger_seconds if next_offset > first else 0.0
                        await self._pause(next_offset, started + lingers, stop)
            except Superseded as reason:
                _log.warning("%s: another consumer is further (%s)", self._lane, reason)
            except Unreadable as reason:
                _log.warning("%s: a document reads differently there, rendering the range anew: %s", self._lane, reason)
                self._safe = True
            except (Away, Rejected, SourceError, LogBehind) as reason:
                # Whatever a server rejects, rows rendered anew are the ones most likely to please it.
                self._safe = self._safe or isinstance(reason, Rejected)
                self._tables.suspect()
                failures += 1
                await self._wait(failures, reason, stop)

    async def _pause(self, next_offset: int, due: float, stop: asyncio.Event) -> None:
        """Wait until that time for company for a small range, but not once `range_records` are there.

        That is asked of a topic with one partition: of many it would be a question to Kafka for each, again and again.
        """
        topic, partition, poll_seconds = self._lane.topic, self._lane.partition, self._settings.poll_seconds
        asks = len(self._source.partitions(topic)) == 1
        await until(stop, poll_seconds)
        while (left := due - time.monotonic()) > 0 and not stop.is_set():
            if asks and await self._source.end(topic, partition) - next_offset >= self._settings.range_records:
                break
            await until(stop, min(left, poll_seconds))

    async def _wait(self, failures: int, reason: Exception, stop: asyncio.Event) -> None:
        longest = min(self._settings.backoff_seconds * 2.0 ** min(failures - 1, 30), self._settings.backoff_max_seconds)
        seconds = longest * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, guards nothing
        # Said once an outage: every lane of every consumer tries again every few seconds.
        level = logging.WARNING if failures == 1 else logging.DEBUG
        _log.log(level, "%s: trying again in %.1f s: %s", self._lane, seconds, reason)
        broken = "log" if isinstance(reason, (SourceError, LogBehind)) else "warehouse"
        self._tell(retries=self.progress.retries + 1, trouble=str(reason), broken=broken)
        await until(stop, seconds)

    async def resume(self) -> int:
        """Finish the newest plan if its position was not kept, and return the next offset to take."""
        await self._ranges.forget()
        plan = await self._tables.newest_plan(self._lane)
        position = await self._source.position(self._lane.topic, self._lane.partition)
        if plan is None:
            return position
        if await self._source.end(self._lane.topic, self._lane.partition) <= plan.last:
            raise LogBehind(f"the log ends before {plan.token}: was it restored from an older copy?")
        if position <= plan.last:
            await self.write(plan, await self._ranges.planned(plan, safe=self._safe), again=True)
            await self.commit(plan)
        return plan.last + 1

    async def advance(self, first: int) -> tuple[int, bool]:
        """Plan, write and commit the next range; return the next offset and whether the range was full."""
        taken = await self._ranges.take(first, safe=self._safe)
        if taken is None:
            await self._tell_lag(first)
            return first, False
        plan = await self._tables.claim(Plan(self._lane, first, taken.last))
        items = taken.items if plan.last == taken.last else await self._ranges.planned(plan, safe=self._safe)
        if taken.full:
            self._ranges.look_ahead(plan.last + 1, len(items))
        await self.write(plan, items, again=False)
        await self.commit(plan)
        return plan.last + 1, taken.full

    async def _prune(self) -> None:
        """Forget old plans. Nothing depends on it, so what fails is said and left for the next time."""
        try:
            await self._tables.prune(self._lane, _PLANS_KEPT)
        except (Away, Rejected) as reason:
            _log.warning("%s: old plans stay: %s", self._lane, reason)

    async def write(self, plan: Plan, items: Sequence[Item], *, again: bool) -> None:
        """Store what the tables do not have of the range; on return they have all of it, once."""
        resends = events = 0
        for tried in range(_REPLAY_TRIES if again else 1):
            rows, resends, events = await self._cargo.missing(self._tables, items, again)
            if not rows:
                break
            # A token that was answered and left nothing behind is spent; what is still missing needs another.
            token = f"{plan.token}+{tried}" if tried else plan.token
            await self._tables.insert(plan, self._cargo.table, self._cargo.structure, rows, token)
        else:
            if again:
                _log.error("%s: rows of %s do not stay: are they older than the retention?", self._lane, plan.token)
        self._safe = False
        skipped = plan.last - plan.first + 1 - len(items)
        if skipped:
            _log.error("%s: %d records of %s were deleted before they were read", self._lane, skipped, plan.token)
        self._tell(
            skipped=self.progress.skipped + skipped,
            records=self.progress.records + len(items),
            events=self.progress.events + events,
            resends=self.progress.resends + resends,
            unreadable=self.progress.unreadable + sum(item.unreadable for item in items),
            ranges=self.progress.ranges + 1,
        )

    async def commit(self, plan: Plan) -> None:
        """Keep the position after the range: the log may trim it now."""
        next_offset = plan.last + 1
        await self._source.commit(self._lane.topic, self._lane.partition, next_offset)
        await self._tell_lag(next_offset)

    async def _tell_lag(self, next_offset: int) -> None:
        end = await self._source.end(self._lane.topic, self._lane.partition)
        if self.progress.broken:
            _log.warning("%s: goes on", self._lane)
        self._tell(next_offset=next_offset, lag=max(end - next_offset, 0), trouble="", broken="")

    def _tell(self, **changes: int | str) -> None:
        self.progress = replace(self.progress, **changes)
        self._observe(self.progress)
