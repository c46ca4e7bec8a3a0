"""The object store for commands, with its errors turned into a command's."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gateway.cli.failures import CommandError, Unreachable

if TYPE_CHECKING:
    from gateway.config import Config
    from gateway.releases.store import Store


@contextmanager
def storing(config: "Config") -> "Iterator[Store]":
    """Open the configured store. Raises `CommandError` where the store or a rule refuses."""
    from gateway.releases.errors import ReleaseError
    from gateway.releases.store import AlreadyExists, NotFound, Store, StoreError

    try:
        yield Store.open(config.store_address)
    except ReleaseError as error:
        raise CommandError(str(error)) from error
    except AlreadyExists as error:
        raise CommandError(f"{error}: somebody was faster, try again") from error
    except NotFound as error:
        raise CommandError(f"{error}: it is not in the store {config.store_address}") from error
    except StoreError as error:
        raise Unreachable(f"{error}: check store_url ({config.store_address}) and its credentials") from error
    except (ValueError, OSError) as error:
        raise CommandError(str(error)) from error
