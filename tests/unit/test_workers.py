"""Several workers of one gateway: their sockets, their shares, and one answer for all of them."""

import asyncio
import socket
from pathlib import Path

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from gateway.config import Config
from gateway.fellows import Fellows
from gateway.log_bounds import least_log_bytes
from gateway.supervisor.ports import CannotListen
from gateway.supervisor.supervise import stands_back_by
from gateway.supervisor.workers import Workers, share_of, spool_of, spools


def test_every_worker_listens_on_the_one_address_and_knows_where_to_ask_the_others() -> None:
    with Workers.listen("127.0.0.1", 0, 3) as workers:
        assert len({each.getsockname() for each in workers.listening}) == 1
        places = list(workers.places())
        assert [place.number for place in places] == [1, 2, 3]
        assert len({place.socket_fd for place in places} | {place.inner_fd for place in places}) == 6
        (ports,) = {tuple(place.inner_ports) for place in places}
        assert len(set(ports)) == 3


def test_one_worker_has_nobody_to_ask() -> None:
    with Workers.listen("127.0.0.1", 0, 1) as workers:
        (place,) = workers.places()
        assert place.inner() is None
        assert not Fellows(place.number, place.inner_ports)


@pytest.mark.parametrize("reuse", [False, True])
def test_an_address_that_others_have_is_refused_also_where_they_would_share_it(reuse: bool) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=reuse) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CannotListen, match=f"cannot listen on 127.0.0.1:{port}: Address already in use; choose"):
            Workers.listen("127.0.0.1", port, 2)


def test_what_the_whole_is_bounded_by_is_divided_and_never_below_what_one_batch_takes() -> None:
    whole = Config(workers=4, flush_budget_requests_per_second=100.0)
    share = share_of(whole)
    assert share.flush_budget_requests_per_second == 25.0
    assert share.spool_max_bytes == whole.spool_max_bytes // 4
    assert share.spool_drain_records_per_second == 500
    least = share_of(Config(workers=64, spool_max_bytes=least_log_bytes(Config()), spool_drain_records_per_second=10))
    assert (least.spool_max_bytes, least.spool_drain_records_per_second) == (least_log_bytes(Config()), 10)


def test_a_gateway_stands_back_for_a_warehouse_that_fills_on_its_own_machine_from_its_own_log_alone() -> None:
    assert stands_back_by(Config()) == Config().gateway_nice > 0
    assert stands_back_by(Config(gateway_nice=0)) == 0
    for elsewhere in (
        Config(kafka_bootstrap="127.0.0.1:9092"),
        Config(clickhouse_url="http://127.0.0.1:8123"),
        Config(warehouse="off"),
    ):
        assert stands_back_by(elsewhere) == 0


def test_every_worker_has_a_spool_of_its_own_and_all_are_found_again(tmp_path: Path) -> None:
    for worker in (1, 2, 10):
        spool_of(tmp_path, worker).mkdir()
    (tmp_path / "spool-of-wool").mkdir()
    assert spools(tmp_path) == {1: tmp_path / "spool", 2: tmp_path / "spool-2", 10: tmp_path / "spool-10"}


def own(batches: int) -> bytes:
    return b'# HELP batches_total batches\n# TYPE batches_total counter\nbatches_total{code="a b"} %d\n' % batches


class Others:
    """Two other workers: 2 answers, and 3 is away."""

    def __init__(self, ready: str) -> None:
        self._ready = ready

    async def __aenter__(self) -> Fellows:
        app = web.Application()
        app.add_routes([web.get("/metrics", self._metrics), web.get("/readyz", self._readyz)])
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        listening, self._away = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
        away = self._away.getsockname()[1]
        self._away.close()
        await web.SockSite(self._runner, listening).start()
        return Fellows(1, (9, listening.getsockname()[1], away))

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _metrics(self, request: web.Request) -> web.Response:
        assert request.query == {"of": "worker"}
        return web.Response(body=own(7))

    async def _readyz(self, request: web.Request) -> web.Response:
        assert request.query == {"of": "worker"}
        return web.Response(text=self._ready, status=503)


async def test_the_metrics_of_all_workers_stand_in_one_answer_and_who_is_silent_is_named() -> None:
    async with Others("") as fellows:
        text = (await fellows.metrics(own(5))).decode()
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples == {
        ("batches_total", ("code", "a b"), ("worker", "1")): 5,
        ("batches_total", ("code", "a b"), ("worker", "2")): 7,
        ("backhaul_worker_answers", ("worker", "1")): 1,
        ("backhaul_worker_answers", ("worker", "2")): 1,
        ("backhaul_worker_answers", ("worker", "3")): 0,
    }
    assert text.count("# TYPE batches_total") == 1


async def test_trouble_of_any_worker_is_trouble_of_all() -> None:
    async with Others('{"ready": false, "trouble": {"sink": "the disk is full", "snapshots": null}}') as fellows:
        assert await fellows.trouble() == {"worker 2": "sink: the disk is full", "worker 3": "it: does not answer"}


async def test_a_worker_that_goes_by_its_last_good_snapshot_is_ready() -> None:
    async with Others('{"ready": true, "trouble": {"sink": null, "snapshots": "the store is away"}}') as fellows:
        assert list(await fellows.trouble()) == ["worker 3"]


async def test_a_worker_that_hangs_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as hangs:
        async with asyncio.timeout(10):
            assert list(await Fellows(1, (9, hangs.getsockname()[1])).trouble()) == ["worker 2"]
