"""The embedded ClickHouse: a real server run as a child process from the chdb-core wheel, and how to reach any server.

* The wheel holds clickhouse-local, which can `SYSTEM START LISTEN`: this module starts the listener and keeps one query
  running for as long as the server shall live. Everything else talks to it over HTTP, exactly as to a server elsewhere.
* Passwords are made here, kept in files of mode 0600 and never stand in an argument or the environment.
* clickhouse-local logs in as `default` without a password, and cannot do otherwise. So that user may do nothing but
  listen and sleep, once each; and over HTTP only who shows one of the passwords is let through to a query at all. Any
  process of the machine could stop the listener otherwise.
* A server leaves with status 0 on SIGTERM and when its lifeline closes, so it never outlives its supervisor.
* One server a directory: the second is refused before it touches anything.
"""

import base64
import errno
import fcntl
import hashlib
import os
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal
from xml.sax.saxutils import escape

import aiohttp
import clickhouse_connect
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError

ADMIN: Final = "backhaul"
READER: Final = "reader"
HOST: Final = "127.0.0.1"
_PASSWORD_FILES: Final = {ADMIN: "password", READER: "reader-password"}

# An idle connection holds the listener's stop up: the server drops one after 3 seconds, the client before that.
_SERVER_KEEP_ALIVE_SECONDS: Final = 3
_CLIENT_KEEP_ALIVE_SECONDS: Final = 2.0
_STOP_SECONDS: Final = 10.0
_BEAT_SECONDS: Final = 1.0
# Where a disk is full to the last byte, the engine (26.9) takes failed writes of a merge for done: the merged part is
# empty files, and the rows are gone. With less than this left it begins no write and no merge; consumers then wait.
_KEEP_FREE_BYTES: Final = 128 * 1024 * 1024
_TAG: Final = "backhaul-clickhouse-lifetime"
_SERVE: Final = (
    "SYSTEM START LISTEN HTTP; "  # noqa: S608 - constants
    f"SELECT count() FROM system.numbers WHERE NOT ignore('{_TAG}') AND sleepEachRow(0.25) "
    "SETTINGS max_block_size = 1, max_threads = 1, function_sleep_max_microseconds_per_block = 0, log_queries = 0"
)

_CONFIG: Final = """<clickhouse>
  <listen_host>{host}</listen_host>
  <http_port>{port}</http_port>
  <keep_alive_timeout>{keep_alive_seconds}</keep_alive_timeout>
  <users_config>users.xml</users_config>
  <mark_cache_size>134217728</mark_cache_size>
  <storage_configuration>
    <disks><default><keep_free_space_bytes>{keep_free_bytes}</keep_free_space_bytes></default></disks>
  </storage_configuration>
  <max_server_memory_usage_to_ram_ratio>0.5</max_server_memory_usage_to_ram_ratio>
  <http_handlers>
    <rule><url>/ping</url><methods>GET,HEAD</methods><handler><type>ping</type></handler></rule>
    {entrances}
    <rule>
      <methods>GET,HEAD,POST</methods>
      <handler>
        <type>static</type><status>403</status><content_type>text/plain</content_type>
        <response_content>Code: 516. DB::Exception: Authentication failed</response_content>
      </handler>
    </rule>
  </http_handlers>
</clickhouse>
"""

# `twice` counts over 66 years, the longest interval that the engine takes, and anew in each life of the server.
_ENTRANCE: Final = """<rule>
      <headers><Authorization>{authorization}</Authorization></headers>
      <handler><type>dynamic_query_handler</type><query_param_name>query</query_param_name></handler>
    </rule>"""

_USERS: Final = """<clickhouse>
  <profiles><default/><readonly><readonly>1</readonly></readonly></profiles>
  <quotas>
    <default/>
    <twice><interval><duration>2100000000</duration><queries>2</queries></interval></twice>
  </quotas>
  <users>
    <default>
      <password/>
      <networks><ip>127.0.0.1</ip><ip>::1</ip></networks>
      <profile>default</profile>
      <quota>twice</quota>
      <grants><query>GRANT SYSTEM LISTEN ON *.*</query><query>GRANT SELECT ON system.numbers</query></grants>
    </default>
    <{admin}>
      <password_sha256_hex>{admin_sha256}</password_sha256_hex>
      <networks><ip>127.0.0.1</ip><ip>::1</ip></networks>
      <profile>default</profile>
      <quota>default</quota>
      <access_management>1</access_management>
    </{admin}>
    <{reader}>
      <password_sha256_hex>{reader_sha256}</password_sha256_hex>
      <networks><ip>127.0.0.1</ip><ip>::1</ip></networks>
      <profile>readonly</profile>
      <quota>default</quota>
      <grants><query>GRANT SELECT ON *.*</query><query>GRANT SHOW ON *.*</query></grants>
    </{reader}>
  </users>
</clickhouse>
"""


class ServerError(Exception):
    """The server cannot be started or reached; the text says what to do."""


def url_of(port: int) -> str:
    """Return where an embedded server with that port answers."""
    return f"http://{HOST}:{port}"


def password_of(directory: Path, user: Literal["backhaul", "reader"] = ADMIN) -> str:
    """Return a user's password, made at the first call; `directory` is the server's own."""
    path = directory / _PASSWORD_FILES[user]
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    if not path.exists():
        _write_private(fresh, secrets.token_urlsafe(24))
        try:
            os.link(fresh, path)  # unlike a rename, never replaces one that somebody else made meanwhile
        except FileExistsError:
            pass
        finally:
            fresh.unlink()
    return path.read_text()


def wait_until_ready(url: str, timeout_seconds: float) -> None:
    """Return when the server answers. Raises `ServerError` after the timeout."""
    end = time.monotonic() + timeout_seconds
    while not _answers(url):
        if time.monotonic() > end:
            raise ServerError(f"ClickHouse at {url} does not answer after {timeout_seconds:g} s")
        time.sleep(0.05)


async def connect(
    url: str, user: str = ADMIN, password: str = "", database: str = "default", *, ca_file: str = ""
) -> AsyncClient:
    """Return a client of the server at `url`, embedded or not, whose queries run in `database`.

    The database need not exist yet: the warehouse's migrations create it. Raises `ServerError`.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServerError(f"not an http or https URL of a ClickHouse server: {url!r}")
    secure = parts.scheme == "https"
    try:
        client = await clickhouse_connect.get_async_client(
            host=parts.hostname,
            port=parts.port or (8443 if secure else 8123),
            secure=secure,
            username=user,
            password=password,
            ca_cert=ca_file or None,
            keepalive_timeout=_CLIENT_KEEP_ALIVE_SECONDS,
            autogenerate_session_id=False,  # sessions serialise queries; these run side by side
        )
    except (ClickHouseError, aiohttp.ClientError, OSError) as error:
        raise ServerError(f"ClickHouse at {url} {_why(str(error), user, ca_file)}") from error
    client.database = database
    # The client's default makes the server keep each answer back on its disk, and a server without room there was seen
    # to answer 200 with nothing in it: no rows, no version, no plan. Errors amid an answer are told apart without it.
    client.set_client_setting("wait_end_of_query", "0")
    return client


def _why(said: str, user: str, ca_file: str) -> str:
    """Say what a failure to connect means, and which key to look at; the client hands on texts only."""
    if "Authentication failed" in said:
        return f"refuses the user {user!r}: check clickhouse_user and clickhouse_password"
    if "CERTIFICATE_VERIFY_FAILED" in said:
        reason = said.partition("certificate verify failed: ")[2].partition(" (_ssl")[0]
        return f"shows a certificate that is not believed ({reason}): check clickhouse_ca_file, and the host's name"
    if "WRONG_VERSION_NUMBER" in said:
        return "speaks no TLS there: check whether clickhouse_url begins with http or https, and its port"
    if "Server disconnected" in said:
        return "hangs up: check whether clickhouse_url begins with http or https, and its port"
    if ca_file and not os.access(ca_file, os.R_OK):
        return f"was not asked, since clickhouse_ca_file cannot be read: {ca_file}"
    return f"cannot be reached: {said.splitlines()[0]}"


def serve(directory: Path, port: int, lifeline: int | None = None, beat: Callable[[], None] | None = None) -> int:
    """Run the server in `directory` until SIGTERM, SIGINT or the end of the lifeline's file; return the exit status.

    `beat` is called every second in which the server answers: one that does not may have to be started again.
    Call it in the main thread of a process of its own: it changes directory and takes the signals.
    """
    directory = directory.resolve()
    try:
        with _alone(directory):
            return _serve(directory, port, lifeline, beat)
    except ServerError as error:
        print(f"clickhouse: {error}", file=sys.stderr, flush=True)  # noqa: T201 - the child's only way to say why
        return 1


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServerError(f"another server already runs on {directory}; stop it first") from None
        yield


def _serve(directory: Path, port: int, lifeline: int | None, beat: Callable[[], None] | None) -> int:
    # chdb reads ./config.xml while it is imported, so the import stands before the change of directory.
    try:
        import chdb._chdb as engine
    except ImportError as error:
        raise ServerError(
            f"the embedded ClickHouse is not installed ({error}): pip install 'backhaul[embedded]'"
        ) from error
    _check_port(port)
    _configure(directory / "run", port, {user: password_of(directory, user) for user in (ADMIN, READER)})
    os.chdir(directory / "run")
    stop_reader, stop_writer = os.pipe()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os.write(stop_writer, b"s"))
    failures: list[str] = []
    query: Callable[..., object] = vars(engine)["query"]  # a compiled module, of which type checkers see nothing

    def run() -> None:
        try:
            query(_SERVE, "TabSeparated", path=str(directory / "data"))
        except Exception as error:  # the boundary: whatever the engine raises ends the server
            failures.append(str(error))
        os.write(stop_writer, b"e")

    thread = threading.Thread(target=run, name="clickhouse", daemon=True)
    thread.start()
    if beat is not None:
        threading.Thread(target=_keep_beating, args=(url_of(port), beat), name="pulse", daemon=True).start()
    reason = _wait_for_end(stop_reader, lifeline)
    if reason != b"e":
        with _speechless():
            _stop(url_of(port), password_of(directory), thread)
        if thread.is_alive():
            # The interpreter cannot end around a running engine; what was answered is on disk.
            print(f"clickhouse: still busy after {_STOP_SECONDS:g} s, left", file=sys.stderr, flush=True)  # noqa: T201
            os._exit(1)
        return 0
    raise ServerError(f"the engine ended by itself: {failures[0].strip() if failures else 'no reason given'}")


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ServerError(f"port {port} is taken; choose another") from None
            raise ServerError(f"cannot listen on {HOST}:{port}: {error}") from error


def _configure(run_directory: Path, port: int, passwords: dict[str, str]) -> None:
    run_directory.mkdir(exist_ok=True, mode=0o700)
    entrances = "".join(_ENTRANCE.format(authorization=_authorization(*each)) for each in passwords.items())
    config = _CONFIG.format(
        host=HOST,
        port=port,
        keep_alive_seconds=_SERVER_KEEP_ALIVE_SECONDS,
        keep_free_bytes=_KEEP_FREE_BYTES,
        entrances=entrances,
    )
    digests = {user: hashlib.sha256(password.encode()).hexdigest() for user, password in passwords.items()}
    users = _USERS.format(
        admin=escape(ADMIN), admin_sha256=digests[ADMIN], reader=escape(READER), reader_sha256=digests[READER]
    )
    _write_private(run_directory / "config.xml", config)
    _write_private(run_directory / "users.xml", users)


def _authorization(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


def _write_private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123 - opener by mode
        file.write(text)


def _wait_for_end(stop: int, lifeline: int | None) -> bytes:
    """Return b"s" for a signal, b"e" when the engine ended, b"" when the lifeline closed."""
    with selectors.DefaultSelector() as selector:
        for descriptor in (stop, lifeline):
            if descriptor is not None:
                selector.register(descriptor, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                data = os.read(key.fd, 1)
                if key.fd == stop or not data:
                    return data


@contextmanager
def _speechless() -> Iterator[None]:
    """Keep from stderr what the engine says of the query that a stop ends: it is no error."""
    kept, nowhere = os.dup(sys.stderr.fileno()), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stderr.fileno())
    try:
        yield
    finally:
        os.dup2(kept, sys.stderr.fileno())
        os.close(nowhere)
        os.close(kept)


def _stop(url: str, password: str, thread: threading.Thread) -> None:
    """End the query that keeps the server alive; a server that is still starting is asked again until it listens."""
    end = time.monotonic() + _STOP_SECONDS
    while thread.is_alive() and time.monotonic() < end:
        request = urllib.request.Request(  # noqa: S310 - our own loopback URL
            url,
            data=f"KILL QUERY WHERE query LIKE '%{_TAG}%' AND query NOT LIKE 'KILL%' ASYNC".encode(),
            headers={"Authorization": _authorization(ADMIN, password), "Connection": "close"},
        )
        with suppress(OSError):
            urllib.request.urlopen(request, timeout=2).close()  # noqa: S310 - as above
        thread.join(0.5)


def _keep_beating(url: str, beat: Callable[[], None]) -> None:
    while True:
        if _answers(url):
            beat()
        time.sleep(_BEAT_SECONDS)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ping", timeout=2) as reply:  # noqa: S310 - the configured server
            status: int = reply.status
            return status == 200
    except (OSError, ValueError):
        return False
