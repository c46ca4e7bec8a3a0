"""`backhaul serve`: the whole system on one data directory."""

from argparse import Namespace

from gateway.cli.failures import CommandError, Misused
from gateway.cli.options import Nouns, add_clickhouse, add_command, add_kafka, check_files, configuration
from gateway.cli.printing import show


def register(nouns: Nouns) -> None:
    """Add the command."""
    command = add_command(nouns, "serve", _serve, "run the gateway, the log, the warehouse and ClickHouse")
    command.add_argument("--listen", metavar="HOST:PORT", help="where the gateway listens (default: 127.0.0.1:8080)")
    command.add_argument("--workers", metavar="N", help="gateway processes behind the one address (default: 1)")
    add_kafka(command)
    add_clickhouse(command)


def _serve(arguments: Namespace) -> int:
    import asyncio
    from contextlib import ExitStack

    from gateway.supervisor.lock import AlreadyServed, DirectoryLock
    from gateway.supervisor.log import LeftBehind, check_nothing_is_left_behind
    from gateway.supervisor.ports import CannotListen, free_port, listen
    from gateway.supervisor.supervise import Supervisor, runs_clickhouse
    from gateway.supervisor.workers import Workers

    config = configuration(arguments)
    check_files(config)
    if runs_clickhouse(config):
        _check_engine()
    directory = config.directory

    def ready(url: str) -> None:
        data = {"event": "ready", "url": url, "data": str(directory)}
        show(arguments, data, f"backhaul is ready at {url} (data in {directory})")

    async def supervise(lock: DirectoryLock) -> int:
        with ExitStack() as sockets:
            workers, numbers = sockets.enter_context(Workers.listen(*config.address, config.workers)), None
            if config.warehouse == "on" and config.consumer_listen:
                numbers = sockets.enter_context(listen(*config.consumer_address, key="consumer_listen"))
            port = config.clickhouse_port or free_port()
            return await Supervisor(config, lock, workers, port, numbers).run(ready)

    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = DirectoryLock.take(directory, wait_seconds=config.grace_seconds)
        check_nothing_is_left_behind(config)
        return asyncio.run(supervise(lock))
    except (AlreadyServed, CannotListen, LeftBehind) as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(f"cannot use the data directory {directory}: {error.strerror or error}") from error


def _check_engine() -> None:
    from importlib.util import find_spec

    if find_spec("chdb") is None:
        raise Misused(
            "the embedded ClickHouse is not installed: pip install 'backhaul[embedded]', or set clickhouse_url"
        )
