"""The campaign's pure parts: a seed names its faults, and the verdict sees what is wrong."""

import asyncio
import base64
import gzip
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
import pytest

from schemas.reasons import ENVELOPE_INVALID
from tests.campaign import table
from tests.campaign.journal import Journal, Sent
from tests.campaign.plants import PLANTS, plant
from tests.campaign.proxy import Mode, Proxy
from tests.campaign.readback import promised_copies
from tests.campaign.schedule import Fault, Target, schedule
from tests.campaign.verdict import Content, Ledger, Letter, Stored, Unpacked, judge

ROOT = Path(__file__).resolve().parents[2]
TARGETS = [
    Target("devices", ("kill", "stop")),
    Target("way.A", ("refuse",)),
    Target("A.warehouse", ("stop",), zombie=True),
    Target("clock.A", ("clock_step",), clock_days=(10.0, 2.0)),
]


def event(number: int, score: float) -> dict[str, object]:
    return {"id": number, "score": score, "signals": [0.5, 1]}


def sent(batch: str, seq: int, scores: list[float], refused: dict[int, str] | None, **more: object) -> Sent:
    events = [event(100 * seq + n, score) for n, score in enumerate(scores)]
    body = gzip.compress(msgspec.json.encode({"events": events}), mtime=0)
    counts: dict[str, object] = {"produced": 10 * seq, "dropped": {"queue_full": seq}}
    return msgspec.convert(
        {"batch": batch, "device": "d", "seq": seq, "body": body, "refused": refused} | counts | more, Sent
    )


def content(number: int, score: float) -> Content:
    return ("d", number, score, 0.5)


B1 = sent("b1", 1, [0.1, 7.0, 0.3], {1: "score_out_of_range"})
B2 = sent("b2", 2, [0.4], {})
BAD = sent("b3", 3, [0.5], {}, malformed=True)
SENT = [B1, B2, BAD]
RESENDS = (5, 0)
LETTER = Letter("d", "score_out_of_range", msgspec.json.encode(event(101, 7.0)).decode())
BODY = (ENVELOPE_INVALID, base64.b64encode(BAD.body).decode())
WHOLE = {("b1", 0): content(100, 0.1), ("b1", 2): content(102, 0.3), ("b2", 0): content(200, 0.4)}
BATCHES = {"b1": ("d", 1, 2, 1), "b2": ("d", 2, 1, 0)}
LEDGER = Ledger(devices=1, produced=20, stored=3, refused=1, dropped=2)
UNPACKED = Unpacked(WHOLE, Counter(WHOLE.keys()), Counter(["b1", "b2"]))


def found(**changed: object) -> Stored:
    whole: dict[str, object] = {
        "events": WHOLE,
        "event_rows": Counter(WHOLE.keys()),
        "batches": BATCHES,
        "batch_rows": Counter(["b1", "b2"]),
        "letters": {("b1", 1): LETTER},
        "letter_rows": Counter([("b1", 1)]),
        "bodies": Counter([BODY]),
        "rollups_wrong": 0,
        "ledger": LEDGER,
        "unpacked": UNPACKED,
    }
    return Stored(**(whole | changed))  # type: ignore[arg-type]  # the field names are right above


def unpacked(**changed: object) -> Unpacked:
    return msgspec.structs.replace(UNPACKED, **changed)


def test_a_seed_names_its_faults_and_hits_every_target_in_each_way() -> None:
    assert schedule(TARGETS, 30, 7) == schedule(TARGETS, 30, 7) != schedule(TARGETS, 30, 8)
    ways = {(target.name, kind) for target in TARGETS for kind in target.kinds}
    assert {(fault.target, fault.kind) for fault in schedule(TARGETS, 5, 7)} == ways


def test_faults_come_alone_and_together_and_clocks_go_both_ways_within_their_bounds() -> None:
    planned = schedule(TARGETS, 300, 7)
    assert {fault.alone for fault in planned} == {True, False}
    assert any(fault.pause_seconds == 0 for fault in planned if not fault.alone)
    steps = [fault.clock_seconds for fault in planned if fault.kind == "clock_step"]
    assert (min(steps), max(steps)) == (-10 * 86_400, 2 * 86_400)


def test_the_table_tells_a_zombie_from_a_pause() -> None:
    stops = [Fault(0.0, "C.warehouse", "stop", seconds, alone=True) for seconds in (1.0, 8.0, 2.0)]
    assert list(table.faults(stops).columns[2].cells) == [
        "2 stop, 1 stop past its session",
        "stop",
        "stop past its session",
    ]


def test_everything_once_is_a_pass() -> None:
    verdict = judge(SENT, RESENDS, found())
    assert (verdict.good, verdict.wrong) == (True, {})


@pytest.mark.parametrize(
    ("wrong", "changed"),
    [
        ("lost", {"events": {place: said for place, said in WHOLE.items() if place != ("b1", 2)}}),
        ("lost", {"events": WHOLE | {("b1", 2): content(999, 0.3)}}),
        ("lost", {"events": WHOLE | {("b1", 2): content(102, 0.9)}}),
        ("lost", {"batches": {"b1": BATCHES["b1"]}}),
        ("lost", {"batches": BATCHES | {"b2": ("d", 2, 0, 1)}}),
        ("doubled", {"event_rows": Counter([*WHOLE, ("b2", 0)])}),
        ("doubled", {"batch_rows": Counter(["b1", "b2", "b2"])}),
        ("strange", {"events": WHOLE | {("b1", 1): content(101, 7.0)}}),
        ("strange", {"batches": BATCHES | {"b9": ("d", 9, 0, 0)}}),
        ("letters_lost", {"letters": {}}),
        ("letters_lost", {"letters": {("b1", 1): Letter("d", "id_wrong_type", LETTER.body)}}),
        ("letters_lost", {"letters": {("b1", 1): Letter("d", LETTER.reason, "{}")}}),
        ("letters_lost", {"bodies": Counter()}),
        ("letters_doubled", {"letter_rows": Counter([("b1", 1), ("b1", 1)])}),
        ("letters_doubled", {"bodies": Counter([BODY, BODY])}),
        ("letters_strange", {"letters": {("b1", 1): LETTER, ("b2", 0): LETTER}}),
        ("letters_strange", {"bodies": Counter([BODY, ("unreadable_record", "{}")])}),
        ("rollups_wrong", {"rollups_wrong": 1}),
        ("ledgers_wrong", {"ledger": msgspec.structs.replace(LEDGER, unexplained=1)}),
        ("ledgers_wrong", {"ledger": msgspec.structs.replace(LEDGER, produced=19)}),
        ("left", {"left": 1}),
        ("unpacked_lost", {"unpacked": unpacked(events={**WHOLE, ("b2", 0): content(200, 0.5)})}),
        ("unpacked_lost", {"unpacked": unpacked(promised=Counter(["b1", "b2", "b2"]))}),
        ("unpacked_doubled", {"unpacked": unpacked(rows=Counter([*WHOLE, ("b2", 0)]))}),
        ("unpacked_doubled", {"unpacked": unpacked(rows=Counter([*WHOLE, ("b1", 1)]))}),
    ],
)
def test_what_is_wrong_is_counted_and_fails(wrong: str, changed: dict[str, object]) -> None:
    verdict = judge(SENT, RESENDS, found(**changed))
    assert getattr(verdict, wrong) == 1
    assert not verdict.good


def test_an_event_that_was_refused_wrongly_or_not_refused_fails() -> None:
    assert judge([sent("b1", 1, [0.1], {0: "score_out_of_range"})], RESENDS, found()).wrongly_refused == 1
    assert judge([sent("b1", 1, [7.0], {})], RESENDS, found()).wrongly_refused == 1


def test_a_resend_that_is_answered_otherwise_fails() -> None:
    assert not judge(SENT, (5, 1), found()).good


def test_a_campaign_in_which_nothing_was_tried_proves_nothing() -> None:
    nothing = Stored({}, Counter(), {}, Counter(), {}, Counter(), Counter(), 0, Ledger())
    assert not judge([], RESENDS, nothing).good
    assert not judge(SENT, (0, 0), found()).good


def test_a_batch_without_an_answer_fails() -> None:
    assert not judge([*SENT, sent("b4", 4, [0.1], None)], RESENDS, found()).good


def test_a_batch_is_to_be_unpacked_again_only_past_the_window() -> None:
    partitions = [[(0, "a"), (3, "a"), (6, "a"), (10, "a")], [(0, "b")]]
    assert promised_copies(partitions, 3) == {"a": 2, "b": 1}


def test_the_journal_gives_back_what_it_was_given(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    unanswered = msgspec.structs.replace(B1, refused=None)
    journal.add(unanswered, 1.0)
    assert journal.unacknowledged() == [unanswered] == [journal.newest("d")]
    assert not journal.has_answers()
    journal.acknowledge("b1", {1: "score_out_of_range"}, 3.5)
    assert journal.all() == [msgspec.structs.replace(B1, waited_seconds=2.5)]
    assert (journal.unacknowledged(), journal.one("d", 2)) == ([], None)
    journal.add(msgspec.structs.replace(B2, refused=None), 4.0)
    journal.acknowledge("b2", {}, 5.0)
    assert journal.has_answers()
    assert not journal.has_all_kinds()
    for same in (*[True] * 7, False):
        journal.resent("b1", same=same)
    assert (journal.has_all_kinds(), journal.resends()) == (True, (8, 1))
    journal.close()


@asynccontextmanager
async def echo() -> AsyncIterator[tuple[Proxy, list[bytes]]]:
    """A server that sends back what it hears, and the proxy before it."""
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(100):
                heard.append(data)
                writer.write(data)
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        proxy = await Proxy.open(server.sockets[0].getsockname()[1])
        yield proxy, heard
        await proxy.close()


@pytest.mark.parametrize(("mode", "arrives"), [("refuse", []), ("lose_replies", [b"hello"])])
async def test_a_way_refuses_connections_or_loses_what_is_answered(mode: Mode, arrives: list[bytes]) -> None:
    async with echo() as (proxy, heard):
        proxy.become(mode)
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"hello")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(5)
        assert heard == arrives
        writer.close()


async def test_what_is_sent_into_a_black_hole_arrives_late() -> None:
    async with echo() as (proxy, heard):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        proxy.become("blackhole")
        writer.write(b"again")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(5), 0.1)
        assert heard == [b"hello"]
        proxy.become("pass")
        assert await reader.readexactly(5) == b"again"
        writer.close()


@pytest.mark.parametrize("name", sorted(PLANTS))
def test_every_planted_fault_still_finds_its_place(name: str, tmp_path: Path) -> None:
    planted = plant(name, ROOT, tmp_path)
    assert all((planted / each.file).read_text() != (ROOT / each.file).read_text() for each in PLANTS[name])
