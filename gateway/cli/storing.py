"""The object store for commands, with its errors turned into a command's."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

from gateway.cli.failures import CommandError, Misused, Unreachable
from gateway.cli.printing import note

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.releases.store import Store

T = TypeVar("T")


def change_store(
    config: "Config", action: "Callable[[Store], Awaitable[T]]", *, app: str | None = None, makes: bool = False
) -> T:
    """Do what `with_store` does for an action that writes, and say where no gateway here reads what was written.

    With `makes`, the store may be made for it.
    """
    done = with_store(config, action, app=app, makes=makes)
    if not config.store_url and not _is_served(config):
        note(f"nothing serves {config.data} now: a gateway on another directory does not see this (--data names it)")
    return done


def with_store(
    config: "Config", action: "Callable[[Store], Awaitable[T]]", *, app: str | None = None, makes: bool = False
) -> T:
    """Open the configured store and act on it. Raises `CommandError` where the store or a rule refuses.

    With `app`, that app must be there: a name that is misspelt is not an app without releases. Without `makes`, so must
    the store: a directory that is misspelt is not an empty store.
    """
    import asyncio

    from gateway.releases.apps import load_app
    from gateway.releases.errors import BadDocument, ReleaseError
    from gateway.releases.store import AlreadyExists, NotFound, Store, StoreError

    if not makes:
        _check_there(config)

    async def act() -> T:
        store = Store.open(config.store_address)
        if app:
            with suppress(BadDocument):  # it is there; whoever reads it says what is wrong with it
                await load_app(store, app)
        return await action(store)

    try:
        return asyncio.run(act())
    except ReleaseError as error:
        raise CommandError(str(error)) from error
    except AlreadyExists as error:
        raise CommandError(f"{error}: somebody was faster, try again") from error
    except NotFound as error:
        raise CommandError(f"{error}: it is not in the store {config.store_address}") from error
    except StoreError as error:
        raise Unreachable(f"{error}: check store_url ({config.store_address}) and its credentials") from error


def _check_there(config: "Config") -> None:
    """Refuse a store in a directory that is not there, before it is made by looking. Raises `Misused`."""
    place = urlsplit(config.store_address)
    if place.scheme == "file" and not Path(unquote(place.path)).is_dir():
        named = "store_url names another" if config.store_url else "--data names the directory that it is in"
        raise Misused(
            f"there is no store {config.store_address}: `backhaul serve` or `app create` makes one, and {named}"
        )


def _is_served(config: "Config") -> bool:
    from gateway.supervisor.lock import holder, is_alive

    # Not by trying the lock: a server that starts at this moment would find it taken.
    pid = holder(config.directory)
    return pid is not None and is_alive(pid)
