"""The warehouse for commands: where it is, and a client that may only read."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

from gateway.cli.failures import CommandError, Unreachable

if TYPE_CHECKING:
    from clickhouse_connect.driver.asyncclient import AsyncClient

    from gateway.config import Config

T = TypeVar("T")

# A server that is not ours has no `reader`: there the query itself says that it only reads. 1, not 2, which lets table
# functions write files and read others. The client's own settings travel with it and are judged before it holds.
_READ_ONLY: Final = "1"


def ask(config: "Config", question: "Callable[[AsyncClient], Awaitable[T]]") -> T:
    """Connect as a reader, ask, disconnect. Raises `CommandError`."""
    import asyncio

    return asyncio.run(_ask(config, question))


def place_of(config: "Config") -> tuple[str, str, str]:
    """Return the URL, user and password with which to read. Raises `Unreachable`."""
    if config.clickhouse_url:
        return config.clickhouse_url, config.clickhouse_user, config.clickhouse_password
    from gateway.clickhouse_server import READER, password_of
    from gateway.supervisor import runfile

    run = runfile.read(config.directory)
    if run is None:
        raise Unreachable(
            f"nothing serves {config.directory}: start `backhaul serve`, or name its directory with --data"
        )
    if not run.embedded:
        raise Unreachable(f"what serves {config.directory} has its ClickHouse elsewhere: name it with clickhouse_url")
    return run.clickhouse_url, READER, password_of(config.directory / "clickhouse", READER)


async def _ask(config: "Config", question: "Callable[[AsyncClient], Awaitable[T]]") -> T:
    from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

    from gateway.clickhouse_server import ServerError, connect

    url, user, password = place_of(config)
    try:
        client = await connect(url, user, password, config.clickhouse_database, ca_file=config.clickhouse_ca_file)
    except ServerError as error:
        raise Unreachable(f"{error}; `backhaul doctor` tells more") from error
    try:
        if config.clickhouse_url:
            client.set_client_setting("readonly", _READ_ONLY)
        return await question(client)
    except OperationalError as error:
        raise Unreachable(f"ClickHouse at {url} went away: {_reason(error)}") from error
    except ClickHouseError as error:
        if "UNKNOWN_DATABASE" in str(error):
            raise Unreachable("the warehouse is not laid out yet: it is some seconds after the first start") from error
        raise CommandError(_reason(error)) from error
    finally:
        await client.close()


def _reason(error: Exception) -> str:
    """Return what the server said, without what the client put around it."""
    said = str(error).strip().partition("\n")[0].partition("DB::Exception: ")
    return (said[2] or said[0]).partition(" (version ")[0]
