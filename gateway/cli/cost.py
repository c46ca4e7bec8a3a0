"""`backhaul cost`: what a rollout costs, before it ships."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli.failures import CommandError, Misused
from gateway.cli.options import Nouns, add_command, configuration, whole
from gateway.cli.printing import note, show, show_table
from gateway.cli.storing import with_store

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.releases.costs import Prices
    from schemas.releases import Release

# Beside the code in an installed package, in deploy/ in a source tree, where operators keep it up to date.
_PLACES: Final = (
    Path(__file__).with_name("prices.json"),
    Path(__file__).resolve().parents[2] / "deploy" / "prices.json",
)


def register(nouns: Nouns) -> None:
    """Add the command."""
    command = add_command(nouns, "cost", _cost, "what it costs that devices download a release, by provider")
    command.add_argument("--devices", required=True, type=whole(1), metavar="N", help="how many devices download it")
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--bytes", type=whole(1), metavar="N", help="a download of so many bytes")
    what.add_argument("--release", type=whole(1), metavar="N", help="a release that is listed")
    command.add_argument("--from", dest="base", type=whole(1), metavar="N", help="the release that devices have now")
    command.add_argument("--app", metavar="A", help="whose release it is, where several have one of that number")
    command.add_argument("--model", metavar="M")
    command.add_argument("--prices", type=Path, metavar="FILE", help="another table of prices")


def _cost(arguments: Namespace) -> int:
    from gateway.releases.costs import bills

    if arguments.bytes and arguments.base:
        raise Misused("--from says what a patch is made on, and goes with --release")
    config, prices = configuration(arguments), read_prices(arguments.prices)
    ways = {"identity": arguments.bytes} if arguments.bytes else _ways(arguments, config)
    inline = not arguments.bytes and min(ways.values()) <= config.inline_bytes
    found = bills(prices, arguments.devices, ways, inline=inline)
    gigabytes = {way: arguments.devices * size / 1e9 for way, size in ways.items()}
    data = {"as_of": prices.as_of, "devices": arguments.devices, "bytes": ways, "gigabytes": gigabytes}
    if arguments.json:
        show(arguments, data | {"inline": inline, "providers": found}, "")
        return 0
    taken = ("in replies",) if inline else ()
    columns = ("provider", *taken, *(f"{way}, {gigabytes[way]:,.6g} GB" for way in ways), "note")
    rows = []
    for bill in found:
        dollars = [bill.usd] * len(taken) + [bill.by_way[way] for way in ways]
        rows.append((bill.provider, *(f"${usd:,.2f}" for usd in dollars), bill.note))
    show_table(arguments, columns, rows)
    note(f"prices as of {prices.as_of}; each of {arguments.devices:,} devices downloads once")
    if arguments.base and "zstd-patch" not in ways:
        note(f"no patch from release {arguments.base} is published: every device downloads the whole file")
    if inline:
        note(
            f"it rides in the replies (inline_bytes is {config.inline_bytes:,}), so no device downloads it; the other "
            "columns are for devices that live on plain files"
        )
    return 0


def read_prices(given: Path | None) -> "Prices":
    """Read a table of prices, the one that is shipped unless another is given. Raises `CommandError`."""
    import msgspec

    from gateway.releases.costs import Prices

    path = given or next((place for place in _PLACES if place.exists()), None)
    if path is None:
        raise CommandError("the table of prices is not installed: give one with --prices")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Prices)
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CommandError(f"{path} is no table of prices: {error}") from error


def _ways(arguments: Namespace, config: "Config") -> dict[str, int]:
    """Return the bytes of each way to get the release."""
    from gateway.releases.publish import list_releases

    catalogues = with_store(
        config, lambda store: list_releases(store, arguments.app, arguments.model), app=arguments.app
    )
    having = [each for each in catalogues if arguments.release in {release.release for release in each.releases}]
    if len(having) != 1:
        found = ", ".join(f"{each.app}/{each.model}" for each in having) or "no model"
        raise Misused(f"release {arguments.release} is listed by {found}: name one with --app and --model")
    listed = {release.release: release for release in having[0].releases}
    if arguments.base is not None and arguments.base not in listed:
        raise Misused(f"release {arguments.base} is not listed: listed are {', '.join(map(str, listed))}")
    return _sizes(listed[arguments.release], listed.get(arguments.base))


def _sizes(release: "Release", base: "Release | None") -> dict[str, int]:
    sizes: dict[str, int] = {each.encoding: each.size for each in release.downloads if each.encoding != "zstd-patch"}
    patches = [each.size for each in release.downloads if base is not None and each.base == base.sha256]
    return sizes | {"zstd-patch": min(patches)} if patches else sizes
