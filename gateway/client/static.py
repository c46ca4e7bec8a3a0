"""Live without a gateway: catalogues and artifacts as plain files, with the same checks.

* What the file says is judged like what a reply says; it is only ever a choice among what a believed key has listed.
* There is no server's time here: what the device's clock says is checked only against what was signed and built.
"""

import logging
from collections.abc import Mapping
from typing import Final
from urllib.parse import urljoin

import aiohttp
import msgspec
from msgspec import UnsetType

from gateway.client.slot import Slot
from gateway.client.transport import read_at_most
from gateway.client.updates import Updates
from schemas.wire import CatalogueNews, Flush, Reply, StaticNews, Use

logger = logging.getLogger(__name__)

_NO_POLICY: Final = Flush(events=1, seconds=1, lease_seconds=1)  # of files, which nobody reads
_news: Final = msgspec.json.Decoder(StaticNews)


class StaticSource:
    """The plain files of one app at a URL."""

    def __init__(self, session: aiohttp.ClientSession, url: str, app: str, *, seconds: float, most_bytes: int) -> None:
        self._session = session
        self._url = f"{url.rstrip('/')}/catalogues/{app}/"
        self._timeout = aiohttp.ClientTimeout(total=seconds)
        self._most_bytes = most_bytes

    async def update(self, slots: Mapping[str, Slot], updates: Updates) -> bool:
        """Follow the files; say whether every one could be read."""
        found = {model: await self._read(model) for model in slots}
        news = {model: each for model, each in found.items() if each is not None}
        updates.apply(_reply(catalogues={model: _plain(each) for model, each in news.items()}), timed=False)
        use = {model: _choice(slots[model], each) for model, each in news.items()}
        updates.apply(
            _reply(use={model: each for model, each in use.items() if each != slots[model].use()}), timed=False
        )
        while (wanted := updates.wanted()) is not None:
            await updates.install(await updates.fetch(wanted))
        return len(news) == len(found)

    async def _read(self, model: str) -> StaticNews | None:
        url = f"{self._url}{model}.json"
        try:
            async with self._session.get(url, timeout=self._timeout) as response:
                if response.status != 200:
                    logger.info("%s: status %d", url, response.status)
                    return None
                news = _news.decode(await read_at_most(response, self._most_bytes))
        except (aiohttp.ClientError, OSError, ValueError, RecursionError) as error:
            logger.info("%s cannot be read: %r", url, error)
            return None
        return msgspec.structs.replace(news, base_url=urljoin(url, news.base_url))


def _plain(news: StaticNews) -> CatalogueNews:
    return CatalogueNews(news.document, news.signatures, news.base_url, news.keys)


def _choice(slot: Slot, news: StaticNews) -> Use:
    """Return what to run: what the file says, or the newest that fits, is not newer than that and not just being tried.

    The rule is the gateway's, `releases.decide`.
    """
    catalogue, floor = slot.kept.catalogue, slot.kept.floor
    listed = [] if catalogue is None else [each for each in catalogue.releases if each.release >= floor]
    fitting = sorted((each.release for each in listed if slot.unsupported(each) is None), reverse=True)
    if isinstance(news.use, UnsetType):
        return fitting[0] if fitting else "bundled"
    if isinstance(news.use, str):
        return news.use
    most, never = news.use, news.never or ()
    return next((each for each in fitting if each == most or (each < most and each not in never)), "bundled")


def _reply(*, catalogues: dict[str, CatalogueNews] | None = None, use: dict[str, Use] | None = None) -> Reply:
    return Reply(batch="", accepted=0, server_time=0, flush=_NO_POLICY, catalogues=catalogues or {}, use=use or {})
