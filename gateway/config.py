"""The configuration of every process: one frozen object, read in one place.

* A flag beats a `BACKHAUL_*` variable, which beats the TOML file, which beats the default.
* An unknown key or a value out of bounds stops the start with one line: its name, where it came from, what is allowed.
* Values are checked wherever they are given, also where a stronger place overrides them.
* A secret is never printed. `python -m gateway.config` prints the table of keys of deploy/configuration.md.
"""

import difflib
import re
import socket
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta
from msgspec.structs import FieldInfo, fields

from gateway import log_bounds
from gateway.config_kafka import KafkaKeys, contradiction
from gateway.config_table import allowed, is_secret, markdown_table

PREFIX: Final = "BACKHAUL_"
FILE_VARIABLE: Final = "BACKHAUL_CONFIG"
KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

# What Kubernetes puts into every pod for a service whose name begins with "backhaul" (its documentation, "Service",
# "Environment variables"): names that no key has, and addresses under names that a key may have.
_KUBERNETES_NAME: Final = re.compile(
    r".*(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_KUBERNETES_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://\S+")

_PORT: Final = "([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"


def _text(description: str, allowed: str, pattern: str, *, secret: bool = False) -> Meta:
    return Meta(description=description, pattern=rf"\A({pattern})\Z", extra={"allowed": allowed, "secret": secret})


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line for the operator."""


class Config(KafkaKeys, frozen=True, kw_only=True):
    """Every key with its bounds, its default and its description."""

    data: Annotated[str, _text("the directory that holds everything that is kept", "a path", r"[^\0]+")] = (
        "backhaul-data"
    )
    listen: Annotated[
        str,
        _text(
            "where the gateway listens; port 0 takes any free one",
            "HOST:PORT",
            rf"(\[[0-9a-fA-F:.]+\]|[^:\s]+):{_PORT}",
        ),
    ] = "127.0.0.1:8080"
    workers: Annotated[
        int,
        Meta(
            ge=1,
            le=64,
            description="gateway processes behind the one address: one per core that is free for them; what is bounded "
            "in memory is bounded in each",
        ),
    ] = 1
    consumer_listen: Annotated[
        str,
        _text(
            "where a consumer shows /metrics and /readyz; port 0 takes any free one; empty: nowhere",
            "HOST:PORT",
            rf"|(\[[0-9a-fA-F:.]+\]|[^:\s]+):{_PORT}",
        ),
    ] = "127.0.0.1:0"
    store_url: Annotated[
        str,
        _text(
            "the object store of apps, catalogues and artifacts; empty: the directory `store` under `data`",
            "a URL: file, s3, gs, az, abfs or https",
            r"|(file|s3|gs|az|azure|abfs|abfss|https)://\S+",
        ),
    ] = ""
    artifact_base_url: Annotated[
        str,
        _text(
            "what devices resolve artifact paths against: a CDN's URL, or `/` for the gateway itself",
            "a URL or path that ends in /",
            r"/(\S*/)?|https?://\S+/",
        ),
    ] = "/"
    gateway_name: Annotated[
        str,
        _text("this gateway's name in records; empty: the host's name", "up to 64 visible characters", r"[!-~]{0,64}"),
    ] = ""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="the least severe messages that are printed")
    ] = "info"

    body_max_bytes: Annotated[
        int, Meta(ge=KIB, le=64 * MIB, description="the largest body as sent; larger ones are answered 413")
    ] = MIB
    inflated_max_bytes: Annotated[
        int, Meta(ge=KIB, le=64 * MIB, description="the largest body after inflating; larger ones are answered 413")
    ] = 8 * MIB
    batch_max_events: Annotated[
        int, Meta(ge=1, le=100_000, description="the most events in a batch; more are answered 413")
    ] = 1000
    inflight_max_bytes: Annotated[
        int,
        Meta(
            ge=64 * KIB,
            le=64 * GIB,
            description="the bytes of requests in work before new ones are answered 429; a quarter as many of "
            "update checks may be answered and not on the log yet",
        ),
    ] = 64 * MIB

    flush_events: Annotated[int, Meta(ge=1, le=100_000, description="devices flush when this many events wait")] = 50
    flush_seconds: Annotated[
        int, Meta(ge=1, le=7 * 86_400, description="devices flush when their oldest event is this old")
    ] = 600
    lease_seconds: Annotated[
        int, Meta(ge=1, le=90 * 86_400, description="devices ask for news at a launch after this long without contact")
    ] = 21_600
    rollout_lease_seconds: Annotated[
        int,
        Meta(
            ge=1,
            le=90 * 86_400,
            description="the lease of devices in a rollout that may be stopped any moment, where it is the shorter one",
        ),
    ] = 3600
    flush_budget_requests_per_second: Annotated[
        float,
        Meta(
            ge=0,
            le=1e6,
            description="what this gateway holds its devices to, by longer intervals and at last by 429; 0: no budget",
        ),
    ] = 0.0
    refresh_seconds: Annotated[
        float, Meta(ge=0.05, le=3600, description="how soon a gateway obeys new apps, catalogues and rollouts")
    ] = 2.0
    inline_bytes: Annotated[
        int, Meta(ge=0, le=MIB, description="artifact downloads up to this size travel inside the reply; 0: none do")
    ] = 8192

    gateway_nice: Annotated[
        int,
        Meta(
            ge=0,
            le=19,
            description="how far gateway processes stand back, as nice(1) counts, for the consumer and ClickHouse that "
            "`serve` runs beside their embedded log: no more is then taken in for long than is stored; 0: not at all",
        ),
    ] = 3

    log_max_bytes: Annotated[
        int, Meta(ge=MIB, le=2**50, description="how much the embedded log keeps before batches are answered 503")
    ] = 8 * GIB
    log_pending_max_bytes: Annotated[
        int,
        Meta(ge=64 * KIB, le=16 * GIB, description="bytes that may wait for a commit before batches are answered 503"),
    ] = 64 * MIB

    disk_reserve_bytes: Annotated[
        int,
        Meta(
            ge=0,
            le=2**50,
            description="how much of its disk the embedded log, or the spool, leaves free: with less, batches are "
            "answered 503, and what waits can still be drained; at least 128 MiB of it are ClickHouse's, beside one",
        ),
    ] = 192 * MIB

    clickhouse_url: Annotated[
        str,
        _text(
            "the ClickHouse server's HTTP address; empty: one is run under `data`",
            "a URL: http or https, no user or password in it",
            r"|https?://[^\s@]+",
        ),
    ] = ""
    clickhouse_user: Annotated[
        str, _text("the user at `clickhouse_url`; not used with the embedded server", "a name", r"[^\0\r\n]{1,256}")
    ] = "default"
    clickhouse_password: Annotated[
        str, _text("the password at `clickhouse_url`", "one line", r"[^\0\r\n]{0,1024}", secret=True)
    ] = ""
    clickhouse_ca_file: Annotated[
        str,
        _text(
            "PEM file of the authorities that sign the certificate of an https `clickhouse_url`", "a path", r"[^\0]*"
        ),
    ] = ""
    clickhouse_database: Annotated[
        str, _text("the database of the warehouse", "letters, digits and _", r"[A-Za-z_][A-Za-z0-9_]{0,63}")
    ] = "backhaul"
    clickhouse_cluster: Annotated[
        str,
        _text(
            "the cluster, by its name in the server's remote_servers, over which rows are spread; empty: one server",
            "a name",
            r"|[A-Za-z_][A-Za-z0-9_.-]{0,63}",
        ),
    ] = ""
    clickhouse_port: Annotated[
        int, Meta(ge=0, le=65_535, description="the embedded server's port on 127.0.0.1; 0: any free one")
    ] = 0

    warehouse_range_records: Annotated[int, Meta(ge=1, le=100_000, description="the most records in one insert")] = 4000
    warehouse_range_events: Annotated[int, Meta(ge=1, le=1_000_000, description="the most events in one insert")] = (
        200_000
    )
    warehouse_range_bytes: Annotated[
        int, Meta(ge=64 * KIB, le=GIB, description="the most bytes in one insert, as read and inflated")
    ] = 32 * MIB
    warehouse_poll_seconds: Annotated[
        float, Meta(ge=0.01, le=60, description="how long the warehouse consumer waits when the log has nothing new")
    ] = 0.2
    clickhouse_timeout_seconds: Annotated[
        float, Meta(ge=1, le=3600, description="how long a question or an insert of the consumer's may take")
    ] = 60.0
    lag_warn_seconds: Annotated[
        float, Meta(ge=1, le=1e7, description="records that wait longer for a consumer are a warning of `doctor`")
    ] = 300.0
    retention_days: Annotated[
        int,
        Meta(
            ge=1,
            le=36_500,
            description="rows leave the warehouse this long after they were received; below 30, a batch that comes "
            "again a month later is not recognised",
        ),
    ] = 90

    grace_seconds: Annotated[
        float, Meta(ge=1, le=3600, description="how long a stop may take before what still runs is killed")
    ] = 15.0

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={shown_value(self, key)!r}" for key in self.__struct_fields__)
        return f"Config({shown})"

    @property
    def directory(self) -> Path:
        """`data`, absolute."""
        return Path(self.data).absolute()

    @property
    def store_address(self) -> str:
        """The object store's URL, the default one filled in."""
        return self.store_url or (self.directory / "store").as_uri()

    @property
    def name(self) -> str:
        """This gateway's name, the default one filled in."""
        return self.gateway_name or socket.gethostname()[:64]

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        return _split(self.listen)

    @property
    def consumer_address(self) -> tuple[str, int]:
        """Host and port of `consumer_listen`, where it is not empty."""
        return _split(self.consumer_listen)


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


_KAFKA: Final = {field.name: field for field in fields(KafkaKeys)}
KEYS: Final[Mapping[str, FieldInfo]] = {
    field.name: field for field in fields(Config) if field.name not in _KAFKA
} | _KAFKA
# Flags that are shorter than their keys.
_FLAGS: Final = {"kafka_bootstrap": "kafka", "clickhouse_url": "clickhouse"}


def load(
    flags: Mapping[str, object | None] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> Config:
    """Read the configuration; a flag that is None was not given. Raises `ConfigError`."""
    environ = environ or {}
    path = file or (Path(environ[FILE_VARIABLE]) if environ.get(FILE_VARIABLE) else None)
    values: dict[str, Any] = {}
    for key, value, origin in _given(flags or {}, environ, path):
        values[key] = _checked(key, value, origin)
    config = Config(**values)
    _check_together(config)
    return config


def to_environment(config: Config) -> dict[str, str]:
    """Render the whole configuration as variables, for a child process."""
    return {variable(key): str(getattr(config, key)) for key in KEYS} | {variable("data"): str(config.directory)}


def variable(key: str) -> str:
    """Name the key's environment variable."""
    return PREFIX + key.upper()


def shown_value(config: Config, key: str) -> object:
    """Return the key's value as it may be printed."""
    value = getattr(config, key)
    return "***" if is_secret(KEYS[key]) and value else value


def _given(
    flags: Mapping[str, object | None], environ: Mapping[str, str], path: Path | None
) -> Iterator[tuple[str, object, str]]:
    """Yield (key, value, where it came from), the weakest place first. Raises `ConfigError`."""
    if path is not None:
        for key, value in _read_file(path).items():
            yield key, value, f"in {path}"
    for name, text in sorted(environ.items()):
        if name.startswith(PREFIX) and name != FILE_VARIABLE and not _is_of_kubernetes(name, text):
            yield name.removeprefix(PREFIX).lower(), text, f"from the variable {name}"
    for key, flag in flags.items():
        if flag is not None:
            yield key, flag, f"from the flag --{_FLAGS.get(key, key).replace('_', '-')}"


def _is_of_kubernetes(name: str, text: str) -> bool:
    if _KUBERNETES_NAME.fullmatch(name.removeprefix(PREFIX)):
        return True
    return name.endswith("PORT") and _KUBERNETES_ADDRESS.fullmatch(text) is not None


def _read_file(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except ValueError as error:  # TOML's and UTF-8's errors are ValueErrors
        raise ConfigError(f"the configuration file {path} is not valid TOML: {error}") from error


def _checked(key: str, value: object, origin: str) -> object:
    field = KEYS.get(key)
    if field is None:
        near = difflib.get_close_matches(key, KEYS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"the keys are {', '.join(KEYS)}"
        raise ConfigError(f"unknown key {key!r} {origin}: {hint}")
    try:
        # Variables and flags are text, so "12" is a number there; in TOML it is a string and stays one.
        return msgspec.convert(value, field.type, strict=not isinstance(value, str) or origin.startswith("in "))
    except msgspec.ValidationError:
        shown = "the value given" if is_secret(field) else repr(value)
        raise ConfigError(f"{key} {origin}: {shown} is not allowed; it must be {allowed(field)}") from None


def _check_together(config: Config) -> None:
    """Refuse values that only contradict each other. Raises `ConfigError`."""
    if config.clickhouse_cluster and not config.clickhouse_url:
        raise ConfigError("clickhouse_cluster needs clickhouse_url: the embedded server stands alone")
    for smaller, larger in (
        ("flush_events", "batch_max_events"),
        ("body_max_bytes", "inflated_max_bytes"),
        ("inflated_max_bytes", "inflight_max_bytes"),
    ):
        low, high = getattr(config, smaller), getattr(config, larger)
        if low > high:
            raise ConfigError(f"{smaller} ({low}) must not be above {larger} ({high})")
    if small := log_bounds.contradiction(config):
        raise ConfigError(small)
    if wrong := contradiction(config, config):
        raise ConfigError(wrong)


if __name__ == "__main__":
    sys.stdout.write(markdown_table(KEYS, variable))
