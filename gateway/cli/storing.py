"""The object store for commands, with its errors turned into a command's."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from gateway.cli.failures import CommandError, Unreachable

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.releases.store import Store

T = TypeVar("T")


def with_store(config: "Config", action: "Callable[[Store], Awaitable[T]]") -> T:
    """Open the configured store and act on it. Raises `CommandError` where the store or a rule refuses."""
    import asyncio

    from gateway.releases.errors import ReleaseError
    from gateway.releases.store import AlreadyExists, NotFound, Store, StoreError

    async def act() -> T:
        return await action(Store.open(config.store_address))

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
