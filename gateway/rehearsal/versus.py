"""The client beside the sample that the field copies: the same phones, sessions and incidents, and what each costs."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from math import inf
from pathlib import Path
from random import Random
from typing import Final

import aiohttp
import numpy as np
from msgspec import Struct

from gateway.client.fleet.blog import BlogTally
from gateway.client.fleet.shoppers import Moment, first_moment, next_moment
from gateway.client.fleet.simulation.workload import Workload, draw_lives
from gateway.rehearsal.incidents import RIGHT, World
from gateway.rehearsal.installs import DEATHS, CopiedInstall, Install, Network, OurInstall
from gateway.rehearsal.script import Session, sessions_of
from gateway.releases.costs import Prices, dollars

DAYS: Final = 7.0
# The fleet and the model of the published bill: five million devices, a megabyte.
BILLED_DEVICES: Final = 5_000_000
BILLED_BYTES: Final = 1_000_000

Watch = Callable[[int, int], None]


class Way(Struct, frozen=True, kw_only=True):
    """What one of the two did with all its phones.

    * `news_requests` only ask for news; ours come with the events. `kilobytes` are downloads.
    * `wrong_models`, `fallbacks` (to the bundle) and `unanswered` are decisions, once another release was right.
    * `crashes` are processes that a model killed, `most_crashes` those of the phone that had most.
    * `dollars` by provider: what the downloads of five million such devices cost, were the model a megabyte.
    """

    decisions: int
    news_requests: int
    downloads: int
    downloads_per_device: float
    kilobytes: float
    wrong_models: int
    fallbacks: int
    unanswered: int
    crashes: int
    most_crashes: int
    dollars: dict[str, float]


class Versus(Struct, frozen=True, kw_only=True):
    """Both, beside each other."""

    devices: int
    days: float
    launches: int
    killed: int
    client: Way
    sample: Way


@dataclass(frozen=True)
class _Phone:
    """The two installs on one phone."""

    client: Install
    sample: Install
    client_tally: BlogTally
    sample_tally: BlogTally


async def compare(devices: int, seed: int, directory: Path, prices: Prices, watch: Watch) -> Versus:
    """Live a week of so many phones twice, session by session in the order of time."""
    async with AsyncExitStack() as stack:
        world = await World.open(directory, stack)
        connector = await stack.enter_async_context(aiohttp.TCPConnector(limit=4))
        phones = [await _phone(world, directory, connector, stack, f"{seed} {number}") for number in range(devices)]
        lives = draw_lives(Workload(days=DAYS), devices, np.random.default_rng([seed, 0, 6]))
        sessions = [(session, number) for number in range(devices) for session in sessions_of(lives, number)]
        sessions.sort(key=lambda each: each[0].launched)
        dice, killed = Random(f"versus {seed}"), 0  # noqa: S311 - a seeded draw
        for done, (session, number) in enumerate(sessions):
            await world.advance(session.launched)
            dies = dice.uniform(session.launched, session.left) if dice.random() < DEATHS else inf
            killed += dies < inf
            moments = _moments(session, dice)
            await phones[number].client.live(session, moments, dies)
            await phones[number].sample.live(session, moments, dies)
            watch(done + 1, len(sessions))
        return Versus(
            devices=devices,
            days=DAYS,
            launches=len(sessions),
            killed=killed,
            client=_way(world, "client", [phone.client_tally for phone in phones], prices),
            sample=_way(world, "sample", [phone.sample_tally for phone in phones], prices),
        )


async def _phone(
    world: World, directory: Path, connector: aiohttp.BaseConnector, stack: AsyncExitStack, seed: str
) -> _Phone:
    client_tally, sample_tally = BlogTally(), BlogTally()
    networks = [Network(connector, f"{which} {seed}") for which in ("client", "sample")]
    for network in networks:
        stack.push_async_callback(network.session.close)
    place = directory / "phones" / seed.replace(" ", "-")
    return _Phone(
        client=OurInstall(world, place / "client", networks[0], client_tally, f"client {seed}"),
        sample=CopiedInstall(world, place / "sample", networks[1], sample_tally, f"sample {seed}"),
        client_tally=client_tally,
        sample_tally=sample_tally,
    )


def _moments(session: Session, dice: Random) -> list[Moment]:
    moments = [first_moment(dice)]
    while len(moments) < len(session.decided):
        moments.append(next_moment(moments[-1], dice))
    return moments[: len(session.decided)]


def _way(world: World, whose: str, tallies: list[BlogTally], prices: Prices) -> Way:
    downloads, sent = world.downloads[whose], world.bytes[whose]
    # A download's share of the whole file, were it a megabyte: ours are packed.
    billed = max(1, round(BILLED_BYTES * sent / max(1, downloads) / len(world.artifacts[RIGHT])))
    times = round(BILLED_DEVICES * downloads / len(tallies))
    return Way(
        decisions=sum(tally.predictions for tally in tallies),
        news_requests=sum(tally.polls for tally in tallies),
        downloads=downloads,
        downloads_per_device=downloads / len(tallies),
        kilobytes=sent / 1000,
        wrong_models=sum(tally.wrong_models for tally in tallies),
        fallbacks=sum(tally.fallbacks for tally in tallies),
        unanswered=sum(tally.unanswered for tally in tallies),
        crashes=sum(tally.crashes for tally in tallies),
        most_crashes=max(tally.crashes for tally in tallies),
        dollars={price.provider: dollars(price, times, billed) for price in prices.providers},
    )
