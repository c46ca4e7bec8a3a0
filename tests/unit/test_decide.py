"""The laws of who runs what: sticky, monotone, fair, and never what a device cannot run."""

from hashlib import sha256
from typing import Any, Final

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.releases.decide import arm_for, arm_of, bucket, decide, offer_for, place_of, targets
from gateway.releases.errors import BadDocument
from gateway.releases.rules import (
    LARGEST_DOCUMENT_BYTES,
    ModelRules,
    model_rules,
    read_catalogue,
    read_rollout,
)
from gateway.releases.transitions import Change, Plan, complete, start
from schemas.releases import Arm, Catalogue, Download, Held, Release, Rollout, SignedCatalogue, Target
from schemas.versions import os_target, satisfies
from schemas.wire import Envelope, Have, Signature, Use

SDKS: Final = ("", ">=1", ">=2", ">=2,<3", ">=3", "<2")
SIGNALS: Final = ("a", "b", "c")
DEVICES: Final = st.uuids().map(str)
EXPOSURES: Final = st.floats(0.0, 1.0)
USES: Final = st.sampled_from([*range(8), "bundled", "none"])


def release(number: int, sdk: str = "", inputs: tuple[str, ...] = ()) -> Release:
    hashed = sha256(b"%d" % number).hexdigest()
    download = Download(encoding="identity", path=f"artifacts/{hashed}", size=1)
    return Release(
        release=number, format="opaque", sha256=hashed, size=1, sdk=sdk, inputs=[*inputs], downloads=[download]
    )


def rules(releases: list[Release], rollout: Rollout | None = None, floor: int = 0) -> ModelRules:
    catalogue = Catalogue(
        app="shop", model="upsell", number=5, issued_at=0, expires_at=1, floor=floor, releases=releases
    )
    ready = model_rules(SignedCatalogue(b"", []), catalogue, "/", {each.sha256: b"x" for each in releases})
    return msgspec.structs.replace(ready, rollout=rollout)


def three_arms() -> list[Arm]:
    return [Arm("champion", 1, 0.45), Arm("challenger", 2, 0.45), Arm("baseline", "none", 0.1)]


def rollout(**changes: Any) -> Rollout:
    plain = Rollout(
        rollout=9, revision=1, app="shop", model="upsell", state="running", salt="s", arms=three_arms(), exposure=0.5,
        otherwise=1,
    )  # fmt: skip
    return msgspec.structs.replace(plain, **changes)


def envelope(device: str, use: Use = "bundled", **said: Any) -> Envelope:
    have = {"upsell": Have(5, use)}
    return Envelope(device=device, batch=device, seq=1, sent_at=0, have=have, **{"sdk": "2.0", **said})


def device(number: int) -> str:
    digits = sha256(b"%d" % number).hexdigest()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:32]))


releases = st.builds(
    release,
    st.integers(1, 7),
    st.sampled_from(SDKS),
    st.lists(st.sampled_from(SIGNALS), unique=True).map(tuple),
)
catalogued = st.lists(releases, max_size=5, unique_by=lambda each: each.release)
arms = st.lists(st.tuples(USES, st.integers(0, 10)), min_size=1, max_size=4).map(
    lambda drawn: [
        Arm(f"arm{i}", use, weight / (sum(w for _, w in drawn) or 1)) for i, (use, weight) in enumerate(drawn)
    ]
)
rollouts = st.builds(
    rollout,
    state=st.sampled_from(["running", "paused", "rolled_back", "complete"]),
    salt=st.text(max_size=8),
    arms=arms,
    exposure=EXPOSURES,
    otherwise=USES,
)
envelopes = st.builds(
    envelope,
    DEVICES,
    USES,
    sdk=st.sampled_from(["1.0", "2.0", "2.9", "3.1", "dev"]),
    signals=st.dictionaries(st.just("upsell"), st.lists(st.sampled_from(SIGNALS), unique=True)),
)


@given(st.text(max_size=20), DEVICES, EXPOSURES, EXPOSURES)
def test_raising_the_exposure_never_moves_a_device_out_or_to_another_arm(
    salt: str, device: str, one: float, other: float
) -> None:
    narrow, wide = (rollout(salt=salt, exposure=exposure) for exposure in sorted((one, other)))
    known = [release(1), release(2)]
    before = offer_for(rules(known, narrow), "upsell", Have(5, 1), envelope(device))
    after = offer_for(rules(known, wide), "upsell", Have(5, 1), envelope(device))
    assert before.arm in ("", after.arm)
    if before.arm:
        assert before == after


@given(catalogued, st.none() | rollouts, st.integers(0, 8), envelopes)
def test_a_release_that_does_not_fit_is_never_offered(
    listed: list[Release], running: Rollout | None, floor: int, said: Envelope
) -> None:
    told = decide({"upsell": rules(listed, running, floor)}, said).told["upsell"]
    if isinstance(told.use, str):
        return
    offered = next(each for each in listed if each.release == told.use)
    assert offered.release >= floor
    assert satisfies(said.sdk, offered.sdk)
    assert set(offered.inputs) <= set(said.signals.get("upsell", SIGNALS))


@given(catalogued, rollouts, envelopes)
def test_nobody_is_left_on_an_arms_release_after_a_rollback(
    listed: list[Release], running: Rollout, said: Envelope
) -> None:
    back = msgspec.structs.replace(running, state="rolled_back")
    told = decide({"upsell": rules(listed, back)}, said).told["upsell"]
    assert told.arm == ""
    assert told.use == back.otherwise or told.use not in {arm.use for arm in back.arms} or told.use == "bundled"


@given(catalogued, rollouts, envelopes)
def test_nothing_newer_than_what_was_named_is_handed_out(
    listed: list[Release], running: Rollout, said: Envelope
) -> None:
    told = decide({"upsell": rules(listed, running)}, said).told["upsell"]
    named = [use for use in (running.otherwise, *(arm.use for arm in running.arms)) if not isinstance(use, str)]
    assert isinstance(told.use, str) or told.use <= max(named)


@given(catalogued, st.none() | rollouts, envelopes)
def test_a_reply_says_only_what_is_news(listed: list[Release], running: Rollout | None, said: Envelope) -> None:
    decision = decide({"upsell": rules(listed, running)}, said)
    told, have = decision.told["upsell"], said.have["upsell"]
    assert decision.use == ({} if told.use == have.use else {"upsell": told.use})
    assert decision.catalogues == {}
    assert bool(decision.inline) == (told.use != have.use and not isinstance(told.use, str))


@given(rollouts, envelopes)
def test_a_paused_rollout_lets_nobody_in(running: Rollout, said: Envelope) -> None:
    paused = msgspec.structs.replace(running, state="paused")
    told = decide({"upsell": rules([release(n) for n in range(1, 8)], paused)}, said).told["upsell"]
    tried = {arm.use for arm in running.arms if isinstance(arm.use, int)} - {running.otherwise}
    assert told.use == said.have["upsell"].use or told.use not in tried


def test_in_a_pause_no_arm_gains_or_loses_devices_against_another() -> None:
    known = rules([release(1), release(2)], rollout(state="paused"))
    told = [
        decide({"upsell": known}, envelope(device(number), use=use)).told["upsell"]
        for number in range(300)
        for use in ("bundled", "none", 1, 2)
    ]
    assert {each.arm for each in told} == {""}, "champions that came in the pause look like those of before"
    assert {each.use for each in told} == {1, 2, "none"}, "those that were in keep what they run"


@pytest.mark.parametrize("state", ["running", "paused", "rolled_back", "complete"])
def test_the_baseline_that_is_held_out_is_the_same_devices_in_every_state(state: str) -> None:
    steered = rollout(state=state, held=Held("baseline", "model", 0.5), exposure=0.01)
    for number in range(500):
        for use in ("bundled", "none", 2):
            told = decide({"upsell": rules([release(1), release(2)], steered)}, envelope(device(number), use=use))
            found = told.told["upsell"]
            out = place_of("model", device(number)) < 0.1 and bucket("model", device(number)) < 0.5
            assert (found.arm == "baseline") is out
            assert (found.use == "none") is out


@given(st.text(max_size=8), st.text(max_size=8), DEVICES, EXPOSURES, EXPOSURES, st.floats(0.0, 0.99))
def test_a_held_out_baseline_lasts_across_rollouts_and_keeps_to_itself(
    salt: str, next_salt: str, device: str, one: float, other: float, share: float
) -> None:
    low, high = sorted((one, other))
    first, second = (
        rollout(salt=s, exposure=e, arms=held_arms(share), held=Held("baseline", "model", reached))
        for s, e, reached in ((salt, one, low), (next_salt, other, high))
    )
    before, after = arm_for(first, envelope(device)), arm_for(second, envelope(device))
    if before is not None and before.name == "baseline":
        assert after == before
        assert arm_for(msgspec.structs.replace(second, state="complete"), envelope(device)) == before
        assert arm_for(msgspec.structs.replace(second, state="rolled_back"), envelope(device)) == before
    if after is not None and after.name == "baseline":
        assert before is None or before.name == "baseline"


def held_arms(share: float) -> list[Arm]:
    rest = (1.0 - share) / 2
    return [Arm("champion", 1, rest), Arm("challenger", 2, rest), Arm("baseline", "none", share)]


@given(DEVICES, EXPOSURES, st.sampled_from(["iOS", "Android", "iOS >=17"]), st.sampled_from(["iOS 16", "iOS 19"]))
def test_who_is_held_out_stays_so_whatever_the_next_target_is(
    device: str, reached: float, next_os: str, os: str
) -> None:
    plan = Plan(app="shop", model="upsell", challenger=2, champion=1, baseline=0.5, stages=(0.01 + 0.98 * reached, 1.0))
    change = Change("ann", "because", 1)
    first = start(None, plan, change)
    narrower = msgspec.structs.replace(plan, challenger=3, champion=None, target=Target(os=next_os), stages=(0.01,))
    second = start(complete(first, change), narrower, change)
    said = msgspec.structs.replace(envelope(device), os=os)
    before, after = (
        offer_for(rules([release(1), release(2), release(3)], each), "upsell", said.have["upsell"], said)
        for each in (first, second)
    )
    if before.arm == "baseline":
        assert after.use == "none"
        assert after.arm == ("baseline" if targets(second.target, said) else "")
    elif after.use == "none":
        assert bucket("shop/upsell/baseline", device) < 0.01


def test_arms_beside_a_held_out_baseline_are_filled_by_weight() -> None:
    running = rollout(exposure=0.5, held=Held("baseline", "model", 0.5))
    counts = dict.fromkeys(("champion", "challenger", "baseline"), 0)
    for number in range(60_000):
        arm = arm_for(running, envelope(device(number)))
        if arm is not None:
            counts[arm.name] += 1
    shares = {arm.name: arm.weight * 30_000 for arm in three_arms()}
    # 13.82 is the 99.9th percentile of chi-square with 2 degrees of freedom.
    assert sum((counts[arm] - share) ** 2 / share for arm, share in shares.items()) < 13.82


def test_a_complete_rollout_leaves_all_but_the_baseline_on_otherwise() -> None:
    done = rollout(state="complete", otherwise=2, held=Held("baseline", "model", 1.0))
    told = [decide({"upsell": rules([release(1), release(2)], done)}, envelope(device(n))) for n in range(300)]
    assert {(each.told["upsell"].use, each.told["upsell"].arm) for each in told} == {(2, ""), ("none", "baseline")}
    assert not any(each.on_trial for each in told)


@pytest.mark.parametrize(
    ("state", "trial"), [("running", True), ("paused", True), ("rolled_back", False), ("complete", False)]
)
def test_who_is_in_a_rollout_that_may_be_stopped_is_on_trial(state: str, trial: bool) -> None:
    running = rollout(state=state, exposure=1.0, arms=[Arm("challenger", 2, 1.0)])
    known = rules([release(1), release(2)], running)
    assert decide({"upsell": known}, envelope(device(1), use=2)).on_trial is trial
    outside = rules([release(1), release(2)], msgspec.structs.replace(running, exposure=0.0))
    assert not decide({"upsell": outside}, envelope(device(1), use=2)).on_trial


def test_a_device_that_lacks_the_key_list_gets_it_even_when_it_claims_a_later_catalogue() -> None:
    known = msgspec.structs.replace(rules([release(1)]), keys=2)
    for seen, keys, sent in ((5, 2, False), (5, 1, True), (5, 0, True), (2**53 - 1, 1, True), (2**53 - 1, 2, False)):
        said = msgspec.structs.replace(envelope(device(1)), have={"upsell": Have(seen, "bundled")}, keys=keys)
        assert ("upsell" in decide({"upsell": known}, said).catalogues) is sent


def test_buckets_are_spread_evenly() -> None:
    tenths = [0] * 10
    for number in range(50_000):
        tenths[int(bucket("salt", device(number)) * 10)] += 1
    # 27.88 is the 99.9th percentile of chi-square with 9 degrees of freedom; hashes do not flicker.
    assert sum((n - 5_000) ** 2 / 5_000 for n in tenths) < 27.88


def test_arms_are_filled_by_weight_at_every_exposure() -> None:
    # 13.82 is the 99.9th percentile of chi-square with 2 degrees of freedom.
    for low, high in ((0.0, 0.05), (0.05, 0.25), (0.25, 1.0)):
        counts = dict.fromkeys(("champion", "challenger", "baseline"), 0)
        for name in map(device, range(50_000)):
            if low <= bucket("salt", name) < high:
                counts[arm_of("salt", name, three_arms()).name] += 1
        total = sum(counts.values())
        shares = {arm.name: arm.weight * total for arm in three_arms()}
        assert sum((counts[arm] - share) ** 2 / share for arm, share in shares.items()) < 13.82


def test_another_salt_deals_anew() -> None:
    both = sum(bucket("one", device(n)) < 0.5 and bucket("two", device(n)) < 0.5 for n in range(20_000))
    assert 4_750 < both < 5_250


def test_a_model_is_answered_only_when_the_device_names_it() -> None:
    decision = decide({"churn": rules([release(1)])}, envelope(device(1)))
    assert (decision.told, decision.use, decision.catalogues, decision.inline) == ({}, {}, {}, {})


@given(st.text(max_size=64), st.text(max_size=64), st.text(max_size=64), st.text(max_size=64))
def test_whatever_a_device_says_of_itself_never_raises(sdk: str, app_version: str, os: str, locale: str) -> None:
    everything = Target(sdk=">=2", app_version=">=5", os="iOS >=17", locale=["de_AT"])
    said = envelope(device(1), sdk=sdk, app_version=app_version, os=os, locale=locale)
    assert targets(everything, said) in (True, False)


@pytest.mark.parametrize(
    ("text", "split"),
    [
        ("iOS >=17", ("ios", ">=17")),
        ("iOS>=17,<19", ("ios", ">=17,<19")),
        ("Wear OS", ("wear os", "")),
        (">=17", ("", ">=17")),
        ("", ("", "")),
    ],
)
def test_a_systems_name_and_specifier_are_told_apart(text: str, split: tuple[str, str]) -> None:
    assert os_target(text) == split


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"model": "churn"}, "wrong place"),
        ({"app": "other"}, "wrong place"),
        ({"arms": []}, "add up to 0"),
        ({"arms": [Arm("a", 1, 0.5), Arm("b", 2, 0.4)]}, "add up to 0.9"),
        ({"arms": [Arm("a", 1, 0.5), Arm("a", 2, 0.5)]}, "each another"),
        ({"arms": [Arm("", 1, 1.0)]}, "need names"),
        ({"target": Target(sdk="newest")}, "not a rollout"),
        ({"target": Target(app_version="5")}, "not a rollout"),
        ({"target": Target(os="iOS >=seventeen")}, "not a rollout"),
        ({"held": Held("nobody", "s", 0.5)}, "holds out the arm 'nobody'"),
        ({"held": Held("all", "s", 0.5), "arms": [Arm("all", "none", 1.0)]}, "or all of them"),
        ({"exposure": 1.5}, "exposure"),
        ({"state": "walking"}, "state"),
    ],
)
def test_a_rollout_that_cannot_be_obeyed_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(BadDocument, match=why):
        read_rollout(msgspec.json.encode(rollout(**changes)), "shop", "upsell")


def test_a_catalogue_in_the_wrong_place_is_refused() -> None:
    catalogue = Catalogue(app="shop", model="upsell", number=5, issued_at=0, expires_at=1, floor=0, releases=[])
    stored = msgspec.json.encode(SignedCatalogue(msgspec.json.encode(catalogue), []))
    assert read_catalogue(stored, "shop", "upsell", 5)[1] == catalogue
    for place in (("other", "upsell", 5), ("shop", "churn", 5), ("shop", "upsell", 6)):
        with pytest.raises(BadDocument, match="wrong place"):
            read_catalogue(stored, *place)


def test_a_catalogue_with_an_unreadable_specifier_is_refused() -> None:
    catalogue = Catalogue(
        app="shop", model="upsell", number=5, issued_at=0, expires_at=1, floor=0, releases=[release(1, sdk="newest")]
    )
    stored = msgspec.json.encode(SignedCatalogue(msgspec.json.encode(catalogue), []))
    with pytest.raises(BadDocument, match="not a comparison"):
        read_catalogue(stored, "shop", "upsell", 5)


def many_models(document_bytes: int, artifact_bytes: int) -> dict[str, ModelRules]:
    def one(number: int) -> ModelRules:
        listed = release(number)
        catalogue = Catalogue(app="shop", model="m", number=5, issued_at=0, expires_at=1, floor=0, releases=[listed])
        signed = SignedCatalogue(bytes(document_bytes), [Signature("r1", bytes(64))])
        return model_rules(signed, catalogue, "https://cdn.example/", {listed.sha256: bytes(artifact_bytes)})

    return {f"model-{number}": one(number) for number in range(1, 17)}


@pytest.mark.parametrize(
    ("document_bytes", "artifact_bytes"), [(5_000, 1 << 20), (LARGEST_DOCUMENT_BYTES, 1 << 20), (500_000, 8192)]
)
def test_news_that_no_reply_has_room_for_come_one_reply_after_another(document_bytes: int, artifact_bytes: int) -> None:
    models = many_models(document_bytes, artifact_bytes)
    have = dict.fromkeys(models, Have(0, "bundled"))
    for _ in models:
        said = Envelope(device=device(1), batch=device(1), seq=1, sent_at=0, sdk="2.0", have=have)
        decision = decide(models, said)
        reply = (decision.catalogues, decision.use, decision.inline)
        assert len(msgspec.json.encode(reply)) < 3 * 1024 * 1024
        assert decision.told.keys() == models.keys()
        assert decision.use.keys() == decision.catalogues.keys()
        have = have | {model: Have(5, use) for model, use in decision.use.items()}
    assert all(each.catalogue == 5 for each in have.values())


def test_a_document_that_no_reply_could_carry_is_refused() -> None:
    signed = msgspec.json.encode(SignedCatalogue(bytes(LARGEST_DOCUMENT_BYTES + 1), []))
    with pytest.raises(BadDocument, match="no reply could carry it"):
        read_catalogue(signed, "shop", "upsell", 1)
