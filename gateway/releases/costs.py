"""What a rollout costs to download, by provider: pure arithmetic over a table of prices with a date.

* Every device downloads once. GB are 10^9 bytes, as providers bill them.
* A device takes the smallest way that it can; whole, packed and patched stand side by side.
* What rides in the gateway's replies is downloaded from nobody, and costs no provider's dollar.
"""

from typing import Annotated

from msgspec import Meta, Struct

Dollars = Annotated[float, Meta(ge=0)]
_GB = 1e9
_MILLION = 1e6


class Price(Struct, frozen=True):
    """What one provider charges; what is free is per month."""

    provider: str
    name: str
    usd_per_gb: Dollars
    usd_per_million_requests: Dollars
    free_gb: Dollars = 0.0
    free_million_requests: Dollars = 0.0
    minimum_usd: Dollars = 0.0
    note: str = ""


class Prices(Struct, frozen=True):
    """A table of prices and the day on which it was right."""

    as_of: str
    providers: list[Price]
    about: str = ""


class Bill(Struct, frozen=True):
    """What one provider would charge: `usd` for the way that devices take, `by_way` for each, were it downloaded."""

    provider: str
    usd: float
    by_way: dict[str, float]
    note: str


def dollars(price: Price, devices: int, size_bytes: int) -> float:
    """Return what it costs that so many devices download so many bytes each, once."""
    gb = max(0.0, devices * size_bytes / _GB - price.free_gb)
    requests = max(0.0, devices / _MILLION - price.free_million_requests)
    usd = gb * price.usd_per_gb + requests * price.usd_per_million_requests
    return round(max(usd, price.minimum_usd), 2)


def bills(prices: Prices, devices: int, ways: dict[str, int], *, inline: bool = False) -> list[Bill]:
    """Return every provider's bill for ways of so many bytes each; `inline`: they ride in the replies."""
    taken = min(ways, key=lambda way: ways[way])
    found = []
    for price in prices.providers:
        by_way = {way: dollars(price, devices, size_bytes) for way, size_bytes in ways.items()}
        found.append(Bill(price.provider, 0.0 if inline else by_way[taken], by_way, price.note))
    return found
