"""Dead letters in a real warehouse: listed, shown, and brought back through the log, once."""

import asyncio
import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumers.dead_letters import Filters, kept
from consumers.loss import loss
from gateway.cli import main
from gateway.cli.replaying import Outcome, bring_back
from gateway.clickhouse_server import READER, password_of
from gateway.config import Config, load
from schemas.records import DeadLetter, Told, dead_letter_record

ONE, TWO = "6f1c0000-0000-4000-8000-000000000001", "6f1c0000-0000-4000-8000-000000000002"
FIRST, SECOND, THIRD = (f"01980000-0000-7000-8000-00000000000{n}" for n in (1, 2, 3))
NOW_MS = 1_795_334_401_000
GOOD = {
    "type": "prediction", "id": 1, "t": 1_000, "model": "upsell", "release": 42, "source": "ota", "score": 0.5,
    "decision": True, "signals": [0.4, 1],
}  # fmt: skip
# What a stricter gateway than today's might have refused.
STRICT = GOOD | {"id": 2}
BROKEN = GOOD | {"id": 3, "score": 7.3}


def letter(body: Any, index: int | None, *, batch: str | None = FIRST, reason: str, encoding: str = "json") -> Any:
    return dead_letter_record(
        DeadLetter(
            app="shop", received_at=NOW_MS, device=batch and ONE, batch=batch, index=index, reason=reason,
            encoding=encoding, body=body if isinstance(body, str) else json.dumps(body),
        )
    )  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load({"data": str(tmp_path)})


@pytest.fixture
async def told(log: Any, source: Any, warehouse_client: Any, make_batch: Any, drain: Any) -> Any:
    """One batch with two refused events, one whose predictions are all refused, and a body that was refused whole."""
    late = {
        "device": ONE, "batch": THIRD, "seq": 3, "sent_at": NOW_MS, "sdk": "2.3.0", "events": [STRICT | {"id": 9}],
        "signals": {"upsell": ["a", "b"]}, "ledger": {"produced": 5, "dropped": {"malformed": 1}},
    }  # fmt: skip
    about: dict[str, Any] = {"device": ONE, "received_at": NOW_MS, "sent_at": NOW_MS}
    await log.publish(
        [
            make_batch(
                events=[GOOD, STRICT, BROKEN], batch=FIRST, seq=1, refused=(1, 2), ledger={"produced": 3},
                have={"upsell": {"catalogue": 3, "use": 42, "previous": "bundled"}},
                offer={"upsell": Told(42, "challenger", 9)}, **about,
            ),
            letter(STRICT, 1, reason="signals_mismatch"),
            letter(BROKEN, 2, reason="score_out_of_range"),
            make_batch(events=[STRICT], batch=SECOND, seq=2, refused=(0,), ledger={"produced": 4}, **about),
            letter(STRICT, 0, batch=SECOND, reason="signals_mismatch"),
            letter(
                base64.b64encode(json.dumps(late).encode()).decode(), None, batch=None,
                reason="envelope_invalid", encoding="identity",
            ),
        ]
    )  # fmt: skip
    await drain(source, warehouse_client)
    return warehouse_client


async def replay(client: Any, config: Config, *, dry: bool = False) -> list[Outcome]:
    letters = await kept(client, Filters(app="shop"))
    outcomes = await bring_back(client, config, letters, dry=dry)
    return sorted(outcomes, key=lambda each: (each.outcome, each.digest))


async def test_what_is_acceptable_now_is_stored_once_and_what_is_not_is_named(
    told: Any, config: Config, source: Any, drain: Any, ask: Callable[..., Any]
) -> None:
    dry = await replay(told, config, dry=True)
    assert [each.outcome for each in dry] == ["acceptable"] * 3 + ["refused again"]
    await drain(source, told)
    assert await ask(told, "SELECT count() FROM events") == [(1,)]
    for _ in range(2):  # the second before the first is stored
        outcomes = await replay(told, config)
        assert [each.outcome for each in outcomes] == ["refused again"] + ["replayed"] * 3
        assert outcomes[0].detail == "score_out_of_range"
    await drain(source, told)
    assert [each.outcome for each in await replay(told, config)] == ["refused again"] + ["stored already"] * 3
    await drain(source, told)
    assert await ask(told, "SELECT id, signals, arm, sdk, offered FROM events ORDER BY ALL") == [
        (1, {"battery_level": 0.4, "charging": 1.0}, "challenger", "2.3.0", "42"),
        (2, {"battery_level": 0.4, "charging": 1.0}, "", "2.3.0", ""),
        (2, {"battery_level": 0.4, "charging": 1.0}, "challenger", "2.3.0", "42"),
        (9, {"a": 0.4, "b": 1.0}, "", "2.3.0", ""),
    ]
    assert await ask(told, "SELECT count(), uniqExact(batch) FROM batches") == [(5, 5)]
    found = await loss(told, "shop", days=36_000)
    assert (found.wrong, found.waiting) == ([], 0)
    assert [(day.produced, day.stored, day.refused, day.dropped, day.replayed) for day in found.days] == [
        (4, 1, 3, {}, 3)
    ]


async def test_a_device_that_goes_on_after_a_replay_still_adds_up(
    told: Any, log: Any, config: Config, source: Any, drain: Any, make_batch: Any
) -> None:
    await replay(told, config)
    ledger = {"produced": 6, "dropped": {"malformed": 1}}
    await log.publish([make_batch(events=[GOOD], device=ONE, seq=4, ledger=ledger, received_at=NOW_MS)])
    await drain(source, told)
    found = await loss(told, "shop", days=36_000)
    assert (found.wrong, found.waiting, found.missing) == ([], 0, 0)


async def test_a_refused_event_has_the_names_of_its_own_batch_whatever_others_have(
    told: Any, log: Any, source: Any, drain: Any, make_batch: Any, tmp_path: Path
) -> None:
    elsewhere = load({"data": str(tmp_path / "elsewhere")})
    await log.publish([make_batch(events=[GOOD], device=TWO, signals={"upsell": ["other", "names"]})])
    await drain(source, told)
    outcomes = await replay(told, elsewhere, dry=True)
    assert sorted(each.detail for each in outcomes) == ["", "", "", "score_out_of_range"]


async def test_signals_are_not_guessed_where_their_names_could_be_others(
    told: Any, log: Any, source: Any, drain: Any, make_batch: Any, tmp_path: Path
) -> None:
    elsewhere = load({"data": str(tmp_path / "elsewhere")})  # its log does not hold the batch any more
    # What stood in `batches` before it kept the names.
    await told.command("ALTER TABLE batches UPDATE signals = map() WHERE 1 SETTINGS mutations_sync = 1")
    assert sorted(each.detail for each in await replay(told, elsewhere, dry=True)) == ["", "", "", "score_out_of_range"]
    await log.publish([make_batch(events=[GOOD], device=TWO, signals={"upsell": ["other", "names"]})])
    await drain(source, told)
    outcomes = await replay(told, elsewhere, dry=True)
    assert sorted(each.detail for each in outcomes) == ["", "", "score_out_of_range", "signals_mismatch"]


@pytest.fixture
async def command(
    told: Any, clickhouse: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Any]:
    """Return a function that runs a command as one who may only read, and returns its exit code and what it printed."""
    monkeypatch.setenv("BACKHAUL_CLICKHOUSE_USER", READER)
    monkeypatch.setenv("BACKHAUL_CLICKHOUSE_PASSWORD", password_of(clickhouse.directory, READER))
    monkeypatch.setenv("BACKHAUL_CLICKHOUSE_DATABASE", told.database)
    monkeypatch.setenv("BACKHAUL_CLICKHOUSE_URL", clickhouse.url)

    async def run(*words: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(main, [*words, "--data", str(tmp_path)])
        return code, *capsys.readouterr()

    return run


async def test_they_are_listed_and_one_is_shown_whole(command: Callable[..., Any]) -> None:
    code, printed, _ = await command("dead-letters", "list", "--reason", "signals_mismatch", "--json")
    found = json.loads(printed)
    assert code == 0
    assert sorted((each["batch"], each["index"]) for each in found) == [(FIRST, 1), (SECOND, 0)]
    assert "body" not in found[0]
    code, printed, _ = await command("dead-letters", "show", found[0]["digest"][:16])
    assert code == 0
    assert json.dumps(STRICT) in printed
    assert (await command("dead-letters", "list", "--limit", "2", "--json"))[1].count('"digest"') == 2
    code, printed, said = await command("dead-letters", "list", "--app", "other")
    assert (code, printed, said) == (0, "", "no dead letters\n")


async def test_a_digest_that_is_none_or_several_is_refused_in_one_line(command: Callable[..., Any]) -> None:
    code, _, said = await command("dead-letters", "show", "abcdef123")
    assert (code, said.count("\n")) == (1, 1)
    assert "no dead letter begins with abcdef123" in said
    code, _, said = await command("dead-letters", "replay")
    assert (code, said) == (2, "backhaul: say which: digests, --app or --reason\n")


async def test_replaying_says_what_was_refused_again_and_exits_with_1(
    command: Callable[..., Any], told: Any, source: Any, drain: Any, ask: Callable[..., Any]
) -> None:
    code, printed, said = await command("dead-letters", "replay", "--app", "shop")
    assert code == 1
    assert "score_out_of_range" in printed
    assert said == "1 of 4 are refused by today's rules too\n"
    await drain(source, told)
    assert await ask(told, "SELECT count() FROM events") == [(4,)]
    ((digest,),) = await ask(told, "SELECT lower(hex(digest)) FROM dead_letters WHERE reason = 'envelope_invalid'")
    code, printed, _ = await command("dead-letters", "replay", digest, "--json")
    assert (code, json.loads(printed)[0]["outcome"]) == (0, "stored already")


async def test_the_loss_report_names_devices_and_reads_as_a_sum(
    command: Callable[..., Any], log: Any, told: Any, source: Any, drain: Any, make_batch: Any
) -> None:
    await log.publish([make_batch(events=[GOOD], device=TWO, seq=3, ledger={"produced": 8}, received_at=NOW_MS)])
    await drain(source, told)
    code, printed, _ = await command("report", "loss", "--app", "shop", "--days", "36000")
    assert code == 0
    assert ", 7 are missing\n" in printed
    assert "7 events are not here: lost, or yet to come with batch 1-2" in printed
    assert TWO in printed
    assert ONE not in printed
    code, printed, _ = await command("report", "loss", "--json", "--days", "36000")
    assert json.loads(printed)["missing"] == 7


async def test_a_log_that_takes_nothing_is_said_in_one_line(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKHAUL_KAFKA_BOOTSTRAP", "127.0.0.1:1")
    code, printed, said = await command("dead-letters", "replay", "--reason", "envelope_invalid")
    assert (code, printed, said.count("\n")) == (3, "", 1)
    assert "the log takes nothing now" in said
