"""`backhaul serve` as an operator meets it: real processes, a real ClickHouse, real signals."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("chdb", reason="the embedded ClickHouse is an extra")

BACKHAUL = [sys.executable, "-P", "-m", "gateway.cli"]
GRACE_SECONDS = 15.0
ENVIRON = {name: value for name, value in os.environ.items() if not name.startswith("BACKHAUL_")} | {
    "BACKHAUL_REFRESH_SECONDS": "0.1",
    "BACKHAUL_WAREHOUSE_POLL_SECONDS": "0.05",
}


class Served:
    """One `backhaul serve`, from outside."""

    def __init__(self, data: Path, *words: str, **environ: str) -> None:
        self.data = data
        self.printed = data.parent / f"{data.name}.{uuid.uuid4().hex[:6]}.stderr"
        with self.printed.open("w") as stderr:
            self.process = subprocess.Popen(
                [*BACKHAUL, "serve", "--data", str(data), "--listen", "127.0.0.1:0", "--json", *words],
                env=ENVIRON | environ,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.printed.read_text()
        self.ready = json.loads(line)
        self.url: str = self.ready["url"]

    def pids(self) -> dict[str, int]:
        children: dict[str, int] = json.loads((self.data / "run.json").read_text())["children"]
        return children

    def stands_back(self) -> dict[str, int]:
        """Return by how much the children's priority is below our own."""
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        return {name: os.getpriority(os.PRIO_PROCESS, pid) - ours for name, pid in self.pids().items()}

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(GRACE_SECONDS)
        assert "Traceback" not in self.printed.read_text()
        return code


def backhaul(*words: object, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [*BACKHAUL, *map(str, words)]
    return subprocess.run(command, env=ENVIRON | environ, capture_output=True, text=True, timeout=120, check=False)


def rows(data: Path, query: str) -> list[dict[str, Any]] | None:
    """Ask the warehouse; None while it cannot answer."""
    asked = backhaul("sql", query, "--data", data, "--json")
    return json.loads(asked.stdout) if asked.returncode == 0 else None


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def body_of(number: int, device: str = "6f1c2f60-3f6e-4b6e-9d0e-0a6a3f6c1d11") -> bytes:
    prediction = {"type": "prediction", "t": 1795334400000, "model": "upsell", "release": 1, "source": "bundled"}
    events = [prediction | {"id": 2 * number + i, "score": 0.5, "decision": True} for i in range(2)]
    about = {"device": device, "batch": str(uuid.UUID(int=number)), "seq": number, "sent_at": 1795334400123}
    return json.dumps(about | {"sdk": "2.3.0", "events": events}).encode()


def send(url: str, key: str, body: bytes) -> int:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/batches", data=body, headers=headers)  # noqa: S310 - our own gateway
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:  # noqa: S310 - as above
            return int(reply.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def numbers(url: str) -> str:
    """Return what /metrics shows."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as reply:  # noqa: S310 - our own gateway
        text: str = reply.read().decode()
    return text


def send_until_taken(url: str, key: str, body: bytes) -> None:
    """Send as a device does: the same bytes again until they are acknowledged."""

    def taken() -> bool:
        try:
            return send(url, key, body) == 200
        except OSError:
            return False

    until(taken)


def new_key(data: Path) -> str:
    made = backhaul("app", "create", "shop", "--data", data)
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # a zombie waits for a parent in the container that may never reap it


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    served: list[Served] = []

    def _serve(*words: str, **environ: str) -> Served:
        served.append(Served(tmp_path / "data", *words, **environ))
        return served[-1]

    yield _serve
    for one in served:
        one.process.kill()
        one.process.communicate()


def test_a_batch_is_in_the_warehouse_and_sigterm_ends_with_0(serve: Callable[..., Served]) -> None:
    served = serve()
    assert set(served.pids()) == {"clickhouse", "gateway", "warehouse"}
    assert served.stands_back() == {"clickhouse": 0, "gateway": 3, "warehouse": 0}
    key = new_key(served.data)
    until(lambda: send(served.url, key, body_of(1)) == 200)
    until(lambda: rows(served.data, "SELECT type, model, id FROM events ORDER BY id"))
    assert rows(served.data, "SELECT type, model, id FROM events ORDER BY id") == [
        {"type": "prediction", "model": "upsell", "id": 2},
        {"type": "prediction", "model": "upsell", "id": 3},
    ]
    refused = backhaul("sql", "INSERT INTO events (app) VALUES ('x')", "--data", served.data)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.count("\n") == 1
    doctor = backhaul("doctor", "--data", served.data, "--json")
    assert doctor.returncode == 0, doctor.stdout
    states = {finding["part"]: finding["state"] for finding in json.loads(doctor.stdout)}
    assert {states[part] for part in ("supervisor", "store", "gateway", "clickhouse", "warehouse")} == {"ok"}
    until(lambda: 'backhaul_consumer_lag_records{consumer="warehouse",' in numbers(served.url))
    found = numbers(served.url).splitlines()
    assert 'backhaul_consumer_events_total{consumer="warehouse",topic="batches"} 2.0' in found
    assert 'backhaul_consumer_trouble{consumer="warehouse",part="warehouse"} 0.0' in found
    assert 'backhaul_events_total{outcome="accepted",reason=""} 2.0' in found
    pids = served.pids()
    assert served.stop() == 0
    assert not (served.data / "run.json").exists()
    assert not any(map(alive, pids.values()))
    assert "killing it" not in served.printed.read_text()


@pytest.mark.parametrize("name", ["gateway", "warehouse", "clickhouse"])
def test_a_killed_child_comes_back_and_nothing_is_lost_or_doubled(serve: Callable[..., Served], name: str) -> None:
    served = serve()
    key = new_key(served.data)
    until(lambda: send(served.url, key, body_of(1)) == 200)
    until(lambda: rows(served.data, "SELECT 1 FROM events LIMIT 1"))
    stop, last = threading.Event(), [1]

    def device() -> None:
        while not stop.is_set():
            send_until_taken(served.url, key, body_of(last[0] + 1))
            last[0] += 1

    phone = threading.Thread(target=device)
    phone.start()
    try:
        until(lambda: last[0] > 50)
        before = served.pids()[name]
        os.kill(before, signal.SIGKILL)
        until(lambda: served.pids().get(name) not in (None, before))
        seen = last[0]
        until(lambda: last[0] > seen + 50)
    finally:
        stop.set()
        phone.join()
    counted = "SELECT count() AS n, uniqExact(id) AS ids, uniqExact(batch) AS batches FROM events"
    everything = [{"n": 2 * last[0], "ids": 2 * last[0], "batches": last[0]}]
    until(lambda: (rows(served.data, counted) or [{"n": 0}])[0]["n"] >= 2 * last[0])
    assert rows(served.data, counted) == everything
    assert served.process.poll() is None
    assert served.stop() == 0


def test_a_second_instance_on_the_same_data_is_refused(serve: Callable[..., Served]) -> None:
    served = serve()
    second = backhaul("serve", "--data", served.data, "--listen", "127.0.0.1:0")
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr.count("\n") == 1
    assert f"already served by process {served.process.pid}" in second.stderr
    assert served.stop(signal.SIGINT) == 0


def test_killing_the_supervisor_ends_the_children_and_a_new_start_works(serve: Callable[..., Served]) -> None:
    served = serve()
    key = new_key(served.data)
    until(lambda: send(served.url, key, body_of(1)) == 200)
    pids = served.pids()
    served.process.kill()
    served.process.wait()
    again = serve()  # waits for what is left of the first
    assert not any(map(alive, pids.values()))
    send_until_taken(again.url, key, body_of(2))
    until(lambda: (rows(again.data, "SELECT count() AS n FROM events") or [{"n": 0}])[0]["n"] == 4)
    assert again.stop() == 0


def test_a_request_in_work_at_sigterm_gets_its_answer(serve: Callable[..., Served]) -> None:
    served = serve()
    key, body = new_key(served.data), body_of(1)
    until(lambda: send(served.url, key, body) == 200)
    slow = body_of(2)
    head = (
        f"POST /v1/batches HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(slow)}\r\n\r\n"
    )
    host, _, port = served.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode() + slow[:10])
        until(lambda: f"in_flight_bytes {len(slow[:10])}" in metrics(served.url))
        served.process.send_signal(signal.SIGTERM)
        until(lambda: refuses(host, int(port)))
        connection.sendall(slow[10:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK")
    assert served.process.wait(GRACE_SECONDS) == 0
    again = serve()
    until(lambda: (rows(again.data, "SELECT count() AS n FROM events") or [{"n": 0}])[0]["n"] == 4)
    assert again.stop() == 0


def test_what_was_taken_is_in_the_warehouse_when_the_stop_is_over(serve: Callable[..., Served]) -> None:
    served = serve()
    key = new_key(served.data)
    until(lambda: send(served.url, key, body_of(1)) == 200)
    until(lambda: rows(served.data, "SELECT 1 FROM events LIMIT 1"))
    for number in range(2, 102):
        assert send(served.url, key, body_of(number)) == 200
    assert served.stop() == 0
    positions = json.loads((served.data / "log" / "positions" / "warehouse.json").read_text())["positions"]
    end = serve()
    assert rows_soon(end.data, "SELECT count() AS n FROM events") == [{"n": 202}]
    assert json.loads((end.data / "log" / "positions" / "warehouse.json").read_text())["positions"] == positions
    assert end.stop() == 0


def test_batches_are_taken_while_clickhouse_cannot_be_reached(serve: Callable[..., Served]) -> None:
    served = serve(BACKHAUL_CLICKHOUSE_URL="http://127.0.0.1:1", BACKHAUL_CLICKHOUSE_PASSWORD="hunter2")
    assert served.stands_back() == {"gateway": 0, "warehouse": 0}  # ClickHouse has a machine of its own
    key = new_key(served.data)
    until(lambda: send(served.url, key, body_of(1)) == 200)
    assert backhaul("doctor", "--data", served.data, BACKHAUL_CLICKHOUSE_URL="http://127.0.0.1:1").returncode == 1
    assert served.stop() == 0
    assert "hunter2" not in served.printed.read_text()


def test_a_taken_port_is_refused_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = backhaul("serve", "--data", tmp_path / "data", "--listen", listen)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith(f"backhaul: cannot listen on {listen}")
    assert refused.stderr.count("\n") == 1


def test_a_wrong_configuration_stops_the_start_with_exit_code_2(tmp_path: Path) -> None:
    refused = backhaul("serve", "--data", tmp_path / "data", BACKHAUL_GRACE_SECONDS="0")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "grace_seconds from the variable BACKHAUL_GRACE_SECONDS: '0' is not allowed" in refused.stderr
    assert not (tmp_path / "data").exists()


def rows_soon(data: Path, query: str) -> list[dict[str, Any]] | None:
    """Ask as soon as ClickHouse answers."""
    until(lambda: rows(data, query) is not None)
    return rows(data, query)


def metrics(url: str) -> str:
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as reply:  # noqa: S310 - our own gateway
        text: str = reply.read().decode()
        return text


def refuses(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False
