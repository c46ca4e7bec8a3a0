"""Check everything that a running system needs, and say of each part whether it is well and what to do if not.

* Looks, never changes: no directory is made, nothing is started. The fsync probe removes its own file.
* Works when nothing runs: what is not running is a warning, what should answer and does not is a failure.
* No check can hang: each waits a bounded time.
"""

import asyncio
import importlib.metadata
import os
import platform
import re
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final, Literal

import aiohttp
import msgspec
from msgspec import Struct

from consumers.lag import Lag
from gateway.config import KEYS, Config, shown_value
from gateway.config_kafka import unusable
from gateway.quiet import quiet
from gateway.supervisor import behind, runfile
from gateway.supervisor.lock import holder, is_alive, is_locked
from schemas.versions import satisfies

State = Literal["ok", "warn", "fail"]

_PATIENCE_SECONDS: Final = 5.0
_MIB: Final = 1024 * 1024
_GIB: Final = 1024 * _MIB
# What they would log is the finding.
_NOISY: Final = ("aiokafka", "gateway.releases.snapshot")
_LOW_DISK_BYTES: Final = 2 * _GIB
_FSYNCS: Final = 5
# Every acknowledgement waits for one: past this a device's request is mostly waiting for the disk.
_SLOW_FSYNC_MS: Final = 25.0
# The HTTP date has whole seconds; below two there is nothing to say.
_CLOCK_SLACK_MS: Final = 2000
# The oldest server whose deduplication across materialized views is the one that the warehouse counts on.
_OLDEST_CLICKHOUSE: Final = ">=24.8"
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*([<>=!~0-9.,\s]*)(?:;(.*))?")


class Finding(Struct, frozen=True):
    """One line of the examination; `advice` says what to do where it is not ok, `items` what the text only counts, and
    `lags` how far a consumer is behind on each partition."""

    part: str
    state: State
    text: str
    advice: str = ""
    items: list[str] = []
    lags: list[Lag] = []


Check = Callable[[Config], Awaitable[Finding]]


async def examine(config: Config) -> AsyncIterator[Finding]:
    """Yield a finding for each part, in the order in which one would look."""
    for check in (
        _settings,
        _python,
        _packages,
        _directory,
        _disk,
        _fsync,
        _lock,
        _store,
        _kafka,
        _gateway,
        _clickhouse,
        _asking,
        _spool,
        _warehouse,
        _unpack,
        _retention,
    ):
        try:
            with quiet(*_NOISY):
                finding = await asyncio.wait_for(check(config), 4 * _PATIENCE_SECONDS)
        except Exception as error:  # the boundary: a check that breaks is a finding like any other
            finding = Finding(check.__name__.strip("_"), "fail", f"the check itself failed: {error!r}", "report this")
        yield finding


async def _settings(config: Config) -> Finding:
    changed = [
        f"{key}={shown_value(config, key)}" for key, field in KEYS.items() if getattr(config, key) != field.default
    ]
    return Finding("configuration", "ok", ", ".join(changed) or "all defaults")


async def _python(_: Config) -> Finding:
    return Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


async def _packages(config: Config) -> Finding:
    found, wrong = [], []
    for line in importlib.metadata.requires("backhaul") or []:
        match = _REQUIREMENT.match(line)
        name, bounds, marker = match.groups() if match else (line, "", "")
        if "extra" in (marker or "") and not ("embedded" in marker and not config.clickhouse_url):
            continue
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if not marker or "extra" in marker:  # other markers ask for a package only on some platforms
                wrong.append(f"{name} is missing")
            continue
        found.append(f"{name} {version}")
        if not satisfies(version, bounds):
            wrong.append(f"{name} {version} is not {bounds}")
    if wrong:
        return Finding("packages", "fail", "; ".join(wrong), "install again: pip install 'backhaul[embedded]'")
    return Finding("packages", "ok", f"{len(found)}, all as required", items=found)


async def _directory(config: Config) -> Finding:
    directory = config.directory
    if not directory.exists():
        parent = _existing(directory)
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            return Finding("data", "fail", f"{directory} cannot be made in {parent}", "choose another with --data")
        return Finding("data", "warn", f"{directory} does not exist yet", "`backhaul serve` makes it")
    if not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        return Finding("data", "fail", f"{directory} is not a writable directory", "choose another with --data")
    return Finding("data", "ok", f"{directory} is writable")


async def _disk(config: Config) -> Finding:
    free = shutil.disk_usage(_existing(config.directory)).free
    taker, most_bytes = ("spool", config.spool_max_bytes) if config.kafka_bootstrap else ("log", config.log_max_bytes)
    text = f"{free / _GIB:.1f} GiB free, of which the {taker} may take {most_bytes / _GIB:.1f} GiB"
    if free <= config.disk_reserve_bytes:  # a log that was emptied fills its file again, and no more
        text = f"{text}; no more than disk_reserve_bytes is left"
        return Finding("disk", "fail", text, "free some space: the log's file cannot grow, and full it answers 503")
    held = sum(file.stat().st_size for file in (config.directory / taker).glob("log.db"))
    if free < _LOW_DISK_BYTES or free + held < most_bytes:
        return Finding("disk", "warn", text, f"free some space, or lower {taker}_max_bytes and retention_days")
    return Finding("disk", "ok", text)


async def _fsync(config: Config) -> Finding:
    directory = _existing(config.directory)
    try:
        median_ms = await asyncio.to_thread(_fsync_ms, directory)
    except OSError as error:
        return Finding("fsync", "fail", f"cannot be measured in {directory}: {error.strerror}", "see data and disk")
    text = f"{median_ms:.1f} ms (median of {_FSYNCS})"
    if median_ms > _SLOW_FSYNC_MS:
        return Finding("fsync", "warn", text, "put the data directory on a faster disk: every answer waits for one")
    return Finding("fsync", "ok", text)


async def _lock(config: Config) -> Finding:
    if not is_locked(config.directory):
        return Finding("supervisor", "warn", "nothing serves this directory", "start `backhaul serve`")
    pid = holder(config.directory)
    if pid is None or not is_alive(pid):
        return Finding("supervisor", "warn", f"process {pid} is gone, its children still leave", "wait some seconds")
    run = runfile.read(config.directory)
    children = ", ".join(f"{name} {child}" for name, child in (run.children if run else {}).items())
    return Finding("supervisor", "ok", f"process {pid} serves this directory; children: {children or 'none'}")


async def _store(config: Config) -> Finding:
    from gateway.releases.snapshot import SnapshotKeeper
    from gateway.releases.store import Store, StoreError

    address = config.store_address
    if not config.store_url and not (config.directory / "store").exists():
        return Finding("store", "warn", f"{address} does not exist yet", "`backhaul serve` or `app create` makes it")
    try:
        store = Store.open(address)
        apps = await asyncio.wait_for(store.names("apps"), _PATIENCE_SECONDS)
        keeper = SnapshotKeeper(store, inline_bytes=0)
        await asyncio.wait_for(keeper.refresh(), 2 * _PATIENCE_SECONDS)
    except (StoreError, TimeoutError) as error:
        return Finding(
            "store", "fail", f"{address}: {str(error) or 'no answer'}", "check store_url and its credentials"
        )
    if trouble := keeper.trouble():
        return Finding("store", "fail", f"{address}: {trouble}", "check store_url and its credentials")
    if damaged := [f"{path} {reason}" for path, reason in sorted(keeper.damaged.items())]:
        text = f"{address} holds {len(damaged)} damaged documents, the first: {damaged[0]}"
        return Finding("store", "fail", text, "restore them from a copy: backhaul release verify", damaged)
    if not apps:
        return Finding("store", "warn", f"{address} answers and holds no app", "make one: backhaul app create NAME")
    from gateway.releases.audit import SOON_MS

    rules = {f"{app}/{model}": each for app, models in keeper.current.apps.items() for model, each in models.items()}
    ending = sorted(name for name, each in rules.items() if each.expires_at <= time.time() * 1000 + SOON_MS)
    if ending:
        text = f"{address} answers; catalogues or key lists end soon, or have: {', '.join(ending)}"
        return Finding("store", "warn", text, "`backhaul release verify` says when; sign them again in time", ending)
    return Finding("store", "ok", f"{address} answers")


async def _kafka(config: Config) -> Finding:
    from aiokafka.errors import KafkaError

    from gateway.publish.kafka_refusal import Refused
    from gateway.publish.kafka_topics import examine_topics
    from schemas.topics import TOPICS

    kafka = config.kafka
    if kafka is None:
        run = runfile.read(config.directory)
        if run is not None and run.kafka:
            text = f"not looked at: what serves this directory uses {run.kafka}"
            return Finding("kafka", "warn", text, f"say --kafka {run.kafka}, as `backhaul serve` was told")
        return Finding("kafka", "ok", "not used: the log is a file in the data directory")
    if wrong := unusable(kafka):
        return Finding("kafka", "fail", wrong, "check kafka_ca_file, kafka_certificate_file and kafka_key_file")
    try:
        report = await asyncio.wait_for(examine_topics(kafka, config.topics, TOPICS), 2 * _PATIENCE_SECONDS)
    except (KafkaError, OSError) as error:  # a timeout is an OSError
        kept = "batches go to the spool meanwhile" if config.spool == "on" else "batches are answered 503 meanwhile"
        text = str(error) if isinstance(error, Refused) else f"{kafka.bootstrap}: {str(error) or 'no answer'}"
        return Finding("kafka", "fail", text, f"look at the keys kafka_*; {kept}")
    if report.faults:
        advice = "no gateway writes such topics; kafka-configs.sh --alter --entity-type topics changes them"
        text = f"{kafka.bootstrap} answers; records would be lost: " + "; ".join(report.faults)
        return Finding("kafka", "fail", text, advice)
    if report.unmakeable:
        text = f"{kafka.bootstrap} answers; {'; '.join(report.differences)}, and cannot be made: {report.unmakeable}"
        return Finding("kafka", "fail", text, "start more brokers, or set kafka_replication to what there is")
    if report.differences:
        advice = "a gateway makes what is missing; change what differs there or in the configuration"
        return Finding("kafka", "warn", f"{kafka.bootstrap} answers; " + "; ".join(report.differences), advice)
    return Finding("kafka", "ok", f"{kafka.bootstrap} answers, and the topics are as configured")


async def _gateway(config: Config) -> Finding:
    run = runfile.read(config.directory)
    if run is None:
        return Finding("gateway", "warn", "not running here", "start `backhaul serve`")
    try:
        sent_at = time.time()
        timeout = aiohttp.ClientTimeout(total=_PATIENCE_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{run.gateway_url}/readyz") as reply:
            text = (await reply.text()).strip()
            status, date = reply.status, reply.headers.get("Date", "")
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        reason = str(error) or "no answer"
        return Finding("gateway", "fail", f"{run.gateway_url} does not answer: {reason}", "look at what serve prints")
    if status != 200:
        return Finding("gateway", "fail", f"{run.gateway_url} is not ready: {text}", "see store, disk and data")
    trouble = msgspec.json.decode(text)["trouble"].get("snapshots")
    if trouble:
        return Finding("gateway", "warn", f"{run.gateway_url} goes by its last good snapshot: {trouble}", "see store")
    ahead_ms = (parsedate_to_datetime(date).replace(tzinfo=UTC).timestamp() - sent_at) * 1000 if date else 0.0
    return _clock_finding("gateway", f"{run.gateway_url} is ready", ahead_ms)


async def _clickhouse(config: Config) -> Finding:
    from gateway.cli.failures import Unreachable
    from gateway.cli.warehouse import place_of
    from gateway.clickhouse_server import ServerError, connect

    try:
        url, user, password = place_of(config)
    except Unreachable:
        return Finding("clickhouse", "warn", "not running here", "`backhaul serve` starts it")
    try:
        client = await asyncio.wait_for(
            connect(url, user, password, ca_file=config.clickhouse_ca_file), _PATIENCE_SECONDS
        )
    except (ServerError, TimeoutError) as error:
        advice = (
            "look at the keys clickhouse_*; the log keeps what comes meanwhile"
            if config.clickhouse_url
            else ("it may still be starting; look at what serve prints")
        )
        return Finding("clickhouse", "fail", str(error) or f"{url} does not answer", advice)
    try:
        asked_at_ms = time.time() * 1000
        answer = await client.query("SELECT version(), toUnixTimestamp64Milli(now64(3))")
        (version, server_ms), answered_at_ms = answer.result_rows[0], time.time() * 1000
    finally:
        await client.close()
    if not satisfies(".".join(version.split(".")[:2]), _OLDEST_CLICKHOUSE):  # vendors append words to the rest
        return Finding("clickhouse", "fail", f"{url} is version {version}", f"use a server {_OLDEST_CLICKHOUSE}")
    return _clock_finding("clickhouse", f"{url} is version {version}", server_ms - (asked_at_ms + answered_at_ms) / 2)


async def _asking(config: Config) -> Finding:
    """Look at what whoever asks the warehouse (`backhaul sql`, reports) might do to it besides."""
    from gateway.cli.warehouse import place_of
    from gateway.clickhouse_server import ServerError, connect

    if not config.clickhouse_url:
        return Finding("sql", "ok", "the embedded server's own reader asks, who may not write")
    url, user, password = place_of(config)
    try:
        client = await asyncio.wait_for(
            connect(url, user, password, ca_file=config.clickhouse_ca_file), _PATIENCE_SECONDS
        )
    except (ServerError, TimeoutError):
        return Finding("sql", "warn", "not looked at: clickhouse does not answer", "see clickhouse")
    try:
        answer = await client.query("SELECT value FROM system.settings WHERE name = 'readonly'")
    finally:
        await client.close()
    if answer.result_rows[0][0] == "0":
        text = f"{user} asks, who may write: only backhaul itself keeps `backhaul sql` to reading"
        return Finding("sql", "warn", text, "where people ask, set clickhouse_user to one with the profile readonly")
    return Finding("sql", "ok", f"{user} asks, who may not write")


async def _spool(config: Config) -> Finding:
    return _behind("spool", await behind.spool_behind(config))


async def _warehouse(config: Config) -> Finding:
    return _behind("warehouse", await behind.warehouse_behind(config))


async def _unpack(config: Config) -> Finding:
    return _behind("unpack", await behind.unpack_behind(config))


def _behind(part: str, found: behind.Behind) -> Finding:
    return Finding(part, found.state, found.text, found.advice, lags=found.lags)


async def _retention(config: Config) -> Finding:
    """Look at what is forgotten before all that could come has come."""
    from gateway.client.limits import Limits

    resend_days = Limits().batch_days
    kept = f"rows stay for {config.retention_days} days"
    hours = config.kafka_batches_retention_hours
    if config.kafka is not None:
        kept += f", Kafka keeps batches for {hours} h"
    if config.retention_days < resend_days:
        text = f"{kept}; a device sends a batch again for up to {resend_days} days, and by then it is not recognised"
        return Finding("retention", "warn", text, f"set retention_days to {resend_days} or more")
    if config.kafka is not None and hours > 24 * config.retention_days:
        advice = "set retention_days above kafka_batches_retention_hours"
        return Finding("retention", "warn", f"{kept}: what a consumer finds late expires as it is written", advice)
    return Finding("retention", "ok", kept)


def _clock_finding(part: str, text: str, ahead_ms: float) -> Finding:
    if abs(ahead_ms) > _CLOCK_SLACK_MS:
        return Finding(
            part, "warn", f"{text}, its clock is {ahead_ms / 1000:+.1f} s from ours", "run an NTP client on both"
        )
    return Finding(part, "ok", f"{text}, its clock agrees with ours")


def _existing(path: Path) -> Path:
    """Return the path, or its nearest parent that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def _fsync_ms(directory: Path) -> float:
    taken = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(_FSYNCS):
            file.write(b"x" * 4096)
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken)
