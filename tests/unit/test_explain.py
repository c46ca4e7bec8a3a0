"""An explanation tells the story of the decision, for every device and every rollout."""

from hashlib import sha256

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from gateway.releases.decide import decide
from gateway.releases.explain import explain
from gateway.releases.rules import ModelRules, model_rules
from schemas.releases import Arm, Catalogue, Download, Held, Reached, Release, Rollout, SignedCatalogue, Target
from schemas.wire import Envelope, Have


def release(number: int) -> Release:
    digest = sha256(b"%d" % number).hexdigest()
    download = Download("identity", f"artifacts/{digest}", 1)
    return Release(
        release=number, format="opaque", sha256=digest, size=1, sdk=f">={number}", inputs=["a"], downloads=[download]
    )


RULES = model_rules(
    SignedCatalogue(b"", []),
    Catalogue(
        app="shop", model="upsell", number=5, issued_at=0, expires_at=1, floor=0, releases=[*map(release, (1, 2, 3))]
    ),
    "/",
    {},
)
USES = st.sampled_from([1, 2, 3, 9, "bundled", "none"])
rollouts = st.builds(
    Rollout,
    rollout=st.just(1),
    revision=st.just(1),
    app=st.just("shop"),
    model=st.just("upsell"),
    state=st.sampled_from(["running", "paused", "rolled_back", "complete"]),
    salt=st.just("s"),
    arms=st.builds(
        lambda one, two: [Arm("one", one, 0.4), Arm("two", two, 0.4), Arm("baseline", "none", 0.2)], USES, USES
    ),
    exposure=st.sampled_from([0.0, 0.5, 1.0]),
    otherwise=USES,
    target=st.sampled_from([Target(), Target(os="iOS")]),
    held=st.none()
    | st.builds(
        Held,
        st.just("baseline"),
        st.just("h"),
        st.sampled_from([0.0, 0.5, 1.0]),
        st.sampled_from([[], [Reached(Target(), 0.7)], [Reached(Target(sdk=">=2"), 1.0)]]),
    ),
)


@given(
    st.none() | rollouts,
    st.uuids().map(str),
    st.integers(3, 6),
    USES,
    st.sampled_from(["1.0", "2.5", "4", "dev"]),
    st.sampled_from(["iOS 19", ""]),
    st.sampled_from([{}, {"upsell": ["a"]}, {"upsell": []}]),
)
def test_the_explanation_ends_in_the_decision(
    rollout: Rollout | None,
    device: str,
    seen: int,
    use: int | str,
    sdk: str,
    os: str,
    signals: dict[str, list[str]],
) -> None:
    have = msgspec.convert({"catalogue": seen, "use": use}, Have)
    said = Envelope(
        device=device, batch=device, seq=1, sent_at=0, sdk=sdk, os=os, have={"upsell": have}, signals=signals
    )
    rules: ModelRules = msgspec.structs.replace(RULES, rollout=rollout)
    found = explain(rules, "upsell", have, said)
    assert found.told == decide({"upsell": rules}, said).told["upsell"]
    assert found.reasons[0].rule == "catalogue"
    assert all(reason.text for reason in found.reasons)


def test_who_keeps_a_release_through_a_pause_is_told_so() -> None:
    paused = Rollout(
        rollout=1, revision=2, app="shop", model="upsell", state="paused", salt="s", arms=[Arm("two", 2, 1.0)],
        exposure=1.0, otherwise=1,
    )  # fmt: skip
    device = "6f1c2f60-3f6e-4b6e-9d0e-0a6a3f6c1d11"
    said = Envelope(device=device, batch=device, seq=1, sent_at=0, sdk="3")
    known = msgspec.structs.replace(RULES, rollout=paused)
    stays, waits = (explain(known, "upsell", Have(5, use), said).reasons for use in (2, 1))
    assert stays[-2].text.endswith("it stays on it, in no arm until the end of the pause")
    assert stays[-1].text == "use 2, as before the pause: which it runs already"
    assert waits[-2].text.endswith("it does not enter")
    assert waits[-1].text == "use 1, otherwise: which it runs already"
