"""`backhaul explain`: the decision replayed from the store's history, beside what the warehouse recorded."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from clickhouse_connect.driver.asyncclient import AsyncClient
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from gateway.cli import main
from gateway.publish.embedded import EmbeddedLog
from gateway.releases import transitions
from gateway.releases.apps import create_app
from gateway.releases.publish import publish_release
from gateway.releases.rollouts import change
from gateway.releases.store import Store
from gateway.releases.transitions import Change, Plan
from schemas.records import Told

MODELS: Final = Path(__file__).resolve().parents[1] / "models"
DEVICE: Final = "6f1c2f60-3f6e-4b6e-9d0e-0a6a3f6c1d11"
OTHER: Final = "6f1c2f60-3f6e-4b6e-9d0e-0a6a3f6c1d12"
HOUR_MS: Final = 3_600_000
DAY_ONE_MS: Final = 1_795_334_400_000
SIGNALS: Final = ["battery_level", "charging", "session_seconds", "items_viewed"]


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Hour 0: release 1; hour 1: release 2, with a rollout to all; hour 2: rolled back."""
    monkeypatch.chdir(tmp_path)
    store = Store.open((tmp_path / "backhaul-data/store").as_uri())
    await create_app(store, "shop", DAY_ONE_MS)
    key = Ed25519PrivateKey.generate()
    for hour, name in enumerate(("upsell-1.mlmodel", "upsell-2.mlmodel")):
        at = DAY_ONE_MS + hour * HOUR_MS
        file = MODELS / name
        await publish_release(store, app="shop", model="upsell", file=file, sdk=">=2.3", signing_key=key, now_ms=at)
    plan = Plan(app="shop", model="upsell", challenger=2, champion=1, stages=[1.0])
    begun = Change("ann", "new trees", DAY_ONE_MS + HOUR_MS)
    only = transitions.start(None, plan, begun)
    arms = [replace(arm, weight=float(arm.name == "challenger")) for arm in only.arms]
    await change(store, "shop", "upsell", lambda last: replace(only, arms=arms))
    ended = Change("bob", "worse", DAY_ONE_MS + 2 * HOUR_MS)
    await change(store, "shop", "upsell", lambda last: transitions.roll_back(last, ended), stops=True)
    return store


def explain(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    shown = ["explain", "--app", "shop", "--model", "upsell", "--device", DEVICE, *map(str, words), "--json"]
    assert main(shown) == 0
    return json.loads(capsys.readouterr().out)


def rules_of(found: Any) -> dict[str, str]:
    return {reason["rule"]: reason["text"] for reason in found["reasons"]}


@pytest.mark.parametrize(("hours", "use", "arm"), [(0.5, 1, None), (1.5, 2, "challenger"), (2.5, 1, None)])
async def test_the_decision_of_each_hour_is_replayed(
    store: Store, capsys: pytest.CaptureFixture[str], hours: float, use: int, arm: str | None
) -> None:
    at = DAY_ONE_MS + round(hours * HOUR_MS)
    words = ("--at", at, "--sdk", "2.3.0", "--signals", ",".join(SIGNALS), "--use", 1)
    found = await asyncio.to_thread(explain, capsys, *words)
    assert (found["told"]["use"], found["told"].get("arm")) == (use, arm)
    assert found["at"] == at
    assert 0 < found["decision_us"] < 1000


async def test_every_rule_that_applied_is_told(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    at = DAY_ONE_MS + 3 * HOUR_MS // 2
    words = ("--at", at, "--sdk", "2.3.0", "--signals", "battery_level,charging", "--use", 1)
    found = rules_of(await asyncio.to_thread(explain, capsys, *words))
    assert list(found) == ["catalogue", "fits", "rollout", "target", "exposure", "arm", "told"]
    assert "new trees (ann)" in found["rollout"]
    assert "is inside the exposure 1" in found["exposure"]
    assert found["told"] == "use 1, in arm challenger, in place of 2, which does not fit: which it runs already"


async def test_a_time_before_everything_says_so(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--app", "shop", "--model", "upsell", "--device", DEVICE, "--at", "2020-01-01T00:00:00Z", "--sdk", "2"]
    assert await asyncio.to_thread(main, ["explain", *words]) == 1
    assert "nothing was published for shop/upsell by 2020-01-01" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("app", "model", "device", "said"),
    [
        ("shops", "upsell", DEVICE, "there is no app 'shops'"),
        ("shop", "upsel", DEVICE, "nothing is published for a model 'upsel' of shop: its models are upsell"),
        ("shop", "upsell", "phone-7", "'phone-7' is no device's id"),
        ("shop", "upsell", DEVICE, f"no batch of device {DEVICE} for shop is known by then: describe the device"),
    ],
)
async def test_whatever_is_unknown_is_named(
    store: Store, capsys: pytest.CaptureFixture[str], app: str, model: str, device: str, said: str
) -> None:
    assert await asyncio.to_thread(main, ["explain", "--app", app, "--model", model, "--device", device]) == 1
    assert said in capsys.readouterr().err.splitlines()[-1]


def find_warehouse(monkeypatch: pytest.MonkeyPatch, clickhouse: Any, database: str) -> None:
    from gateway import clickhouse_server

    monkeypatch.setenv("BACKHAUL_CLICKHOUSE_URL", clickhouse.url)
    monkeypatch.setenv("BACKHAUL_CLICKHOUSE_USER", clickhouse_server.ADMIN)
    monkeypatch.setenv("BACKHAUL_CLICKHOUSE_PASSWORD", clickhouse_server.password_of(clickhouse.directory))
    monkeypatch.setenv("BACKHAUL_CLICKHOUSE_DATABASE", database)


async def test_the_warehouse_says_what_the_device_was_and_what_it_was_told(
    store: Store,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    clickhouse: Any,
    warehouse_client: AsyncClient,
    log: EmbeddedLog,
    source: Any,
    make_batch: Callable[..., Any],
    drain: Callable[..., Any],
) -> None:
    received_at = DAY_ONE_MS + 3 * HOUR_MS // 2
    told = {"upsell": Told(2, "challenger", 1)}
    have = {"upsell": {"catalogue": 2, "use": 1}}
    events = [
        {"type": "prediction", "id": 1, "t": received_at, "model": "upsell", "release": 1, "source": "ota",
         "score": 0.5, "decision": True, "signals": [0.5] * 4},
    ]  # fmt: skip
    about = {"received_at": received_at, "have": have, "signals": {"upsell": SIGNALS}}
    batch = make_batch(device=DEVICE, events=events, offer=told, **about)
    # An update check of an app that carried less then: what it named is known of itself, not by what followed.
    check = make_batch(
        device=DEVICE, events=[], received_at=received_at - 1000, offer={"upsell": Told(1, "challenger", 1)}, have=have
    )
    other = make_batch(device=OTHER, events=[], offer={"upsell": Told(1)}, **about)
    await log.publish([check, batch, other])
    await drain(source, warehouse_client)
    find_warehouse(monkeypatch, clickhouse, str(warehouse_client.database))

    then = await asyncio.to_thread(explain, capsys, "--at", received_at + HOUR_MS)
    assert then["at"] == received_at, "the decision was made when the batch came"
    assert (then["told"]["use"], then["told"]["arm"]) == (2, "challenger")
    assert then["recorded"] == {"use": "2", "arm": "challenger", "rollout": 1}
    assert then["said"]["sdk"] == "2.3.0"
    assert then["said"]["signals"] == SIGNALS
    assert [(each["type"], each["release"]) for each in then["reported"]] == [("prediction", 1)]
    assert then["agrees"] is True
    before = await asyncio.to_thread(explain, capsys, "--at", received_at - 500)
    assert (before["said"]["signals"], before["told"]["use"], before["agrees"]) == (SIGNALS[:2], 1, True)
    now = await asyncio.to_thread(explain, capsys)
    assert (now["told"]["use"], now["agrees"]) == (1, None), "by now it is rolled back"
    odd = await asyncio.to_thread(explain, capsys, "--at", received_at, "--device", OTHER)
    assert (odd["told"]["use"], odd["recorded"]["use"], odd["agrees"]) == (2, "1", False)
    words = ("explain", "--app", "shop", "--model", "upsell", "--device", OTHER, "--at", str(received_at))
    assert await asyncio.to_thread(main, [*words]) == 0
    told_of = capsys.readouterr().err
    assert "told to use 1, without a rollout" in told_of
    assert "the record and the replay differ" in told_of
