"""Changing rollouts in a real store: two operators at once, a second pair of eyes, damage, and a store that lags."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec.structs import replace

from gateway.releases import transitions
from gateway.releases.apps import create_app, load_app
from gateway.releases.catalogues import amended, attach
from gateway.releases.errors import BadName, BadPlan, NotAllowed, NotNow, SomeoneWroteInBetween, UnknownApp
from gateway.releases.keys import public_bytes, sign
from gateway.releases.publish import prepare_release, publish_release
from gateway.releases.rollouts import Changed, approve, change, history, set_two_person_rule, standing
from gateway.releases.snapshot import SnapshotKeeper
from gateway.releases.store import Store, StoreError
from gateway.releases.transitions import Change, Plan
from schemas.releases import Rollout
from schemas.wire import Use

MODELS: Final = Path(__file__).resolve().parents[1] / "models"
KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
ANN: Final = Change("ann", "because", 1_000)
BOB: Final = Change("bob", "seen", 2_000)


@pytest.fixture(params=["memory", "file"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    opened = Store.open("memory://" if request.param == "memory" else (tmp_path / "store").as_uri())
    await create_app(opened, "shop", 1)
    for name in ("upsell-1.mlmodel", "upsell-2.mlmodel"):
        file = MODELS / name
        await publish_release(opened, app="shop", model="upsell", file=file, sdk="", signing_key=KEY, now_ms=1)
    return opened


def start(last: Rollout | None, *, challenger: Use = 2, champion: Use = 1, by: Change = ANN) -> Rollout:
    plan = Plan(app="shop", model="upsell", challenger=challenger, champion=champion)
    return transitions.start(last, plan, by)


async def begun(store: Store) -> Changed:
    return await change(store, "shop", "upsell", start)


async def test_every_change_is_the_next_document_and_the_snapshot_follows(store: Store) -> None:
    keeper = SnapshotKeeper(store)
    await begun(store)
    await change(store, "shop", "upsell", lambda last: transitions.advance(last, BOB))
    await change(store, "shop", "upsell", lambda last: transitions.roll_back(last, ANN), stops=True)
    entries = await history(store, "shop", "upsell")
    assert [(e.number, e.rollout.state, e.rollout.author) for e in entries if e.rollout] == [
        (1, "running", "ann"),
        (2, "running", "bob"),
        (3, "rolled_back", "ann"),
    ]
    await keeper.refresh()
    assert keeper.current.apps["shop"]["upsell"].rollout == entries[2].rollout


async def test_of_two_operators_at_once_one_is_told_and_history_stays_in_line(store: Store) -> None:
    await begun(store)
    steps = [partial(transitions.advance, change=who) for who in (ANN, BOB)]
    both = await asyncio.gather(*(change(store, "shop", "upsell", step) for step in steps), return_exceptions=True)
    lost = [each for each in both if isinstance(each, SomeoneWroteInBetween)]
    assert len(lost) == 1
    assert "someone else wrote rollouts/shop/upsell/0000000002.json" in str(lost[0])
    assert [entry.number for entry in await history(store, "shop", "upsell")] == [1, 2]


async def test_who_looked_at_an_older_document_is_told(store: Store) -> None:
    await begun(store)
    await change(store, "shop", "upsell", lambda last: transitions.advance(last, BOB), seen=1)
    with pytest.raises(SomeoneWroteInBetween, match="you looked at document 1, but 2 is the newest"):
        await change(store, "shop", "upsell", lambda last: transitions.advance(last, ANN), seen=1)


async def test_of_two_operators_who_name_the_same_stage_the_second_is_told_who_was_first(store: Store) -> None:
    await begun(store)
    steps = [partial(transitions.advance_to, change=who, to=0.05) for who in (BOB, ANN)]
    assert (await change(store, "shop", "upsell", steps[0])).rollout.exposure == 0.05
    with pytest.raises(BadPlan, match="rollout 1 stands at 5 %, by bob, and only rises"):
        await change(store, "shop", "upsell", steps[1])
    assert len(await history(store, "shop", "upsell")) == 2


async def test_a_listing_that_lags_overwrites_nothing(store: Store) -> None:
    class Lagging(Store):
        async def names(self, prefix: str) -> list[str]:
            return [name for name in await super().names(prefix) if not name.endswith("0000000002.json")]

    await begun(store)
    await change(store, "shop", "upsell", lambda last: transitions.advance(last, BOB))
    lagging = Lagging(store.url, store._objects)
    with pytest.raises(SomeoneWroteInBetween, match="0000000002"):
        await change(lagging, "shop", "upsell", lambda last: transitions.pause(last, ANN))
    assert len(await history(store, "shop", "upsell")) == 2


async def test_a_write_that_fails_changes_nothing(store: Store) -> None:
    class Dying(Store):
        async def put_new(self, path: str, data: bytes) -> None:
            raise StoreError("the machine went away")

    await begun(store)
    with pytest.raises(StoreError, match="went away"):
        await change(Dying(store.url, store._objects), "shop", "upsell", lambda last: transitions.pause(last, ANN))
    assert len(await history(store, "shop", "upsell")) == 1


async def test_a_damaged_document_is_passed_over_and_can_be_rolled_back(store: Store) -> None:
    await begun(store)
    await store.put_new("rollouts/shop/upsell/0000000002.json", b"{")
    now = await standing(store, "shop", "upsell")
    assert now.number == 2
    assert now.rollout is not None
    assert now.rollout.state == "running"
    await change(store, "shop", "upsell", lambda last: transitions.roll_back(last, ANN), stops=True)
    numbered = {entry.number: entry for entry in await history(store, "shop", "upsell")}
    assert "not a rollout" in numbered[2].damage
    third = numbered[3].rollout
    assert third is not None
    assert third.state == "rolled_back"


@pytest.mark.parametrize("challenger", [3, 99])
async def test_a_release_that_is_not_listed_cannot_be_rolled_out(store: Store, challenger: int) -> None:
    with pytest.raises(BadPlan, match=rf"release {challenger} .* listed are 1, 2"):
        await change(store, "shop", "upsell", lambda last: start(last, challenger=challenger))


async def test_a_release_below_the_floor_cannot_be_rolled_out_but_a_rollback_never_asks(store: Store) -> None:
    await begun(store)
    await publish_release(
        store, app="shop", model="upsell", file=MODELS / "upsell-2.mlmodel", sdk="", signing_key=KEY, now_ms=1, floor=3
    )
    with pytest.raises(BadPlan, match=r"release 2 .* listed are 3"):
        await change(store, "shop", "upsell", lambda last: transitions.complete(last, ANN))
    await change(store, "shop", "upsell", lambda last: transitions.roll_back(last, ANN), stops=True)
    with pytest.raises(BadPlan, match=r"release 1 .* listed are 3"):
        await change(store, "shop", "upsell", lambda last: start(last, challenger=3))
    with pytest.raises(BadPlan, match=r"release 4 .* listed are 3"):
        await change(store, "shop", "upsell", lambda last: start(last, challenger=4, champion="bundled"))
    assert (
        await change(store, "shop", "upsell", lambda last: start(last, challenger=3, champion="bundled"))
    ).number == 3


async def test_no_rollout_starts_on_a_catalogue_that_has_expired(store: Store) -> None:
    late = replace(ANN, at_ms=91 * 86_400_000)
    plan = Plan(app="shop", model="upsell", challenger=2, champion=1)
    with pytest.raises(BadPlan, match=r"catalogue 2 of shop/upsell has expired.*'release renew'"):
        await change(store, "shop", "upsell", lambda last: transitions.start(last, plan, late))
    await begun(store)
    back = await change(store, "shop", "upsell", lambda last: transitions.roll_back(last, late), stops=True)
    assert back.rollout.state == "rolled_back", "a stop never asks"


async def test_what_does_not_exist_says_so(store: Store) -> None:
    with pytest.raises(UnknownApp, match="no app 'nobody'"):
        await change(store, "nobody", "upsell", start)
    with pytest.raises(BadName):
        await change(store, "shop", "../x", start)
    plan = Plan(app="shop", model="churn", challenger=2, champion=1)
    with pytest.raises(BadPlan, match="nothing is published"):
        await change(store, "shop", "churn", lambda last: transitions.start(last, plan, ANN))
    assert await history(store, "shop", "churn") == []


async def test_under_the_two_person_rule_a_change_waits_and_a_stop_does_not(store: Store) -> None:
    await set_two_person_rule(store, "shop", ANN, on=True)
    proposed = await begun(store)
    assert (proposed.waits, proposed.number) == (True, 1)
    assert await history(store, "shop", "upsell") == []
    with pytest.raises(NotAllowed, match="ann proposed this change"):
        await approve(store, "shop", "upsell", "ann", 3_000, proposal=1)
    written = await approve(store, "shop", "upsell", "bob", 3_000, proposal=1)
    assert (written.rollout.author, written.rollout.approved_by, written.rollout.at) == ("ann", "bob", 3_000)
    with pytest.raises(NotNow, match="nothing waits"):
        await approve(store, "shop", "upsell", "bob", 3_000, proposal=1)
    stopped = await change(store, "shop", "upsell", lambda last: transitions.pause(last, ANN), stops=True)
    assert not stopped.waits
    assert stopped.rollout.approved_by == ""


async def publish(store: Store, model: str = "upsell") -> None:
    file = MODELS / "upsell-2.mlmodel"
    await publish_release(store, app="shop", model=model, file=file, sdk="", signing_key=KEY, now_ms=1)


async def test_under_the_two_person_rule_nobody_publishes_to_everyone_alone(store: Store) -> None:
    await set_two_person_rule(store, "shop", ANN, on=True)
    artifacts = await store.names("artifacts")
    for model in ("upsell", "churn"):
        with pytest.raises(NotAllowed, match="'rollout hold --use bundled' first"):
            await publish(store, model)
        waits = await change(store, "shop", model, partial(held, model=model))
        assert waits.waits
        with pytest.raises(NotAllowed, match=f"shop/{model} has no rollout"):
            await publish(store, model)
        assert await store.names("artifacts") == artifacts
        await approve(store, "shop", model, "bob", 3_000, proposal=1)
        await publish(store, model)


def held(last: Rollout | None, *, model: str) -> Rollout:
    return transitions.hold(last, "shop", model, "bundled", ANN)


async def test_what_was_prepared_before_the_two_person_rule_does_not_pass_it(store: Store) -> None:
    trusted = [public_bytes(KEY)]
    file = MODELS / "upsell-2.mlmodel"
    new = await prepare_release(store, app="shop", model="upsell", file=file, sdk="", trusted=trusted, now_ms=1)
    renewed = await amended(store, "shop", "upsell", trusted=trusted, expires_in_days=9, now_ms=1)
    await set_two_person_rule(store, "shop", ANN, on=True)
    with pytest.raises(NotAllowed, match="a second operator approves it"):
        await attach(store, new, sign(KEY, new), public_bytes(KEY))
    assert (await attach(store, renewed, sign(KEY, renewed), public_bytes(KEY))).number == 3


async def test_under_the_two_person_rule_only_what_is_under_way_is_taken_back_by_one(store: Store) -> None:
    back = partial(change, store, "shop", "upsell", lambda last: transitions.roll_back(last, ANN), stops=True)
    await begun(store)
    await change(store, "shop", "upsell", lambda last: transitions.complete(last, ANN))
    await set_two_person_rule(store, "shop", ANN, on=True)
    proposed = await back()
    assert proposed.waits
    assert (await standing(store, "shop", "upsell")).number == 2
    assert (await approve(store, "shop", "upsell", "bob", 3_000, proposal=1)).rollout.state == "rolled_back"
    await begun(store)
    await approve(store, "shop", "upsell", "bob", 3_000, proposal=2)
    assert not (await back()).waits


async def test_a_proposal_is_overtaken_by_whatever_is_written_before_its_approval(store: Store) -> None:
    await begun(store)
    await set_two_person_rule(store, "shop", ANN, on=True)
    await change(store, "shop", "upsell", lambda last: transitions.advance(last, ANN))
    await change(store, "shop", "upsell", lambda last: transitions.roll_back(last, BOB), stops=True)
    with pytest.raises(NotNow, match="overtaken"):
        await approve(store, "shop", "upsell", "bob", 3_000, proposal=1)
    assert (await standing(store, "shop", "upsell")).proposal is None


async def test_who_approves_approves_what_was_looked_at(store: Store) -> None:
    await begun(store)
    await set_two_person_rule(store, "shop", ANN, on=True)
    await change(store, "shop", "upsell", lambda last: transitions.advance(last, ANN))
    await change(store, "shop", "upsell", lambda last: transitions.advance(last, ANN, to=1.0))
    with pytest.raises(SomeoneWroteInBetween, match="you looked at proposal 1, but 2 is the newest"):
        await approve(store, "shop", "upsell", "bob", 3_000, proposal=1)
    assert (await approve(store, "shop", "upsell", "bob", 3_000, proposal=2)).rollout.exposure == 1.0


async def test_the_two_person_rule_takes_two_persons_to_end(store: Store) -> None:
    with pytest.raises(NotNow, match="off already"):
        await set_two_person_rule(store, "shop", ANN, on=False)
    await set_two_person_rule(store, "shop", ANN, on=True)
    with pytest.raises(NotNow, match="on already"):
        await set_two_person_rule(store, "shop", BOB, on=True)
    await set_two_person_rule(store, "shop", ANN, on=False)
    assert (await begun(store)).waits
    with pytest.raises(NotAllowed, match="ann asked for the end"):
        await set_two_person_rule(store, "shop", ANN, on=False)
    await set_two_person_rule(store, "shop", BOB, on=False)
    assert (await load_app(store, "shop")).two_person is None
    assert not (await begun(store)).waits


async def test_a_damaged_proposal_is_none(store: Store) -> None:
    await begun(store)
    await store.put_new("proposals/shop/upsell/0000000001.json", b"{")
    assert (await standing(store, "shop", "upsell")).proposal is None
    await set_two_person_rule(store, "shop", ANN, on=True)
    assert (await change(store, "shop", "upsell", lambda last: transitions.advance(last, ANN))).number == 2


def test_a_document_without_the_new_fields_is_still_read() -> None:
    text = b"""{"rollout":9,"revision":3,"app":"a","model":"m","state":"running","salt":"s",
    "arms":[{"name":"a","use":1,"weight":1.0}],"exposure":0.5,"otherwise":1,"guardrails":[1]}"""
    read = msgspec.json.decode(text, type=Rollout)
    assert (read.held, read.approved_by, read.target.hardware) == (None, "", [])
