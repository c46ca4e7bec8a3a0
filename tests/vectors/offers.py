"""Write `schemas/vectors/offers.json`: what the gateway tells which device.

* `python -m tests.vectors.offers` writes the file again; a test compares it with what this makes.
* Offers are stated here by hand, never taken from the code that they judge.
"""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, Final

from tests.vectors.buckets import (
    BASELINE,
    BESIDE_HELD,
    CHALLENGER,
    CHAMPION,
    DIRECTORY,
    HELD,
    HELD_LATER,
    OUTSIDE,
    Json,
    rendered,
    three_arms,
)


def release(number: int, sdk: str, inputs: list[str], **more: str) -> Json:
    artifact, packed = (sha256(f"{kind} of release {number}".encode()).hexdigest() for kind in ("artifact", "xz"))
    return {
        "release": number,
        "format": "mlmodel",
        "sha256": artifact,
        "size": 7671,
        "sdk": sdk,
        **more,
        "inputs": inputs,
        "parameters": {"threshold": 0.6, "explore": 0.05},
        "downloads": [
            {"encoding": "identity", "path": f"artifacts/{artifact}", "size": 7671},
            {"encoding": "xz", "path": f"artifacts/{packed}", "size": 1980},
        ],
    }


BOTH: Final = ["battery_level", "charging"]
CATALOGUE: Final[Json] = {
    "type": "catalogue/v1",
    "app": "shop",
    "model": "upsell",
    "number": 17,
    "issued_at": 1_795_334_400_000,
    "expires_at": 1_803_110_400_000,
    "floor": 40,
    "releases": [
        release(39, "", []),
        release(40, "", ["battery_level"]),
        release(41, ">=2.3", BOTH),
        release(42, ">=2.3,<4", BOTH),
        release(43, ">=3", [*BOTH, "items_viewed"]),
        release(44, ">=3.5,<4", BOTH, os="iOS >=18"),
    ],
}
PATCH: Final[Json] = {
    "encoding": "zstd-patch",
    "from": CATALOGUE["releases"][4]["sha256"],
    "path": f"artifacts/{sha256(b'patch from 43 to 44').hexdigest()}",
    "size": 310,
}
CATALOGUE["releases"][5]["downloads"].append(PATCH)
HELD_OUT: Final[Json] = {"arm": "baseline", "salt": "shop/upsell/baseline", "exposure": 0.05}


def rollout(**changes: Any) -> Json:
    whole: Json = {
        "rollout": 9,
        "revision": 3,
        "app": "shop",
        "model": "upsell",
        "state": "running",
        "salt": "upsell-9",
        "arms": three_arms(0.45, 0.45, 0.1),
        "exposure": 0.05,
        "otherwise": 41,
    }
    return {**whole, **changes}


def offer(
    name: str, expect: Json, *, rollout: Json | None = None, signals: list[str] | None = BOTH, **device: Any
) -> Json:
    """One case. `device` overrides what the device says; `use`, `previous` and `seen` are its `have`."""
    have = {"catalogue": device.pop("seen", 17), "use": device.pop("use", 41)}
    if "previous" in device:
        have["previous"] = device.pop("previous")
    said: Json = {"device": OUTSIDE, "sdk": "2.3.0", "app_version": "5.1.0", "os": "iOS 19.1", "locale": "de_AT"}
    said |= {"hardware": "iPhone15,3", **device}
    said |= {"have": {"upsell": have}} | ({"signals": {"upsell": signals}} if signals is not None else {})
    return {"name": name, "rollout": rollout, "device": said, "expect": expect}


def told(
    use: int | str, arm: str = "", rollout: int = 0, *, news: bool = False, inline: int = 0, said: bool = True
) -> Json:
    """What is expected: `use` in the reply where `said`, the catalogue where `news`, the bytes of release `inline`."""
    expect: Json = {"told": {"use": use, "arm": arm, "rollout": rollout}, "catalogue": news}
    if said:
        expect["use"] = use
    packed = [d["path"][10:] for r in CATALOGUE["releases"] if r["release"] == inline for d in r["downloads"]][1:2]
    return {**expect, "inline": packed}


def plain_offers() -> Iterator[Json]:
    yield offer("nothing new", told(42, said=False), use=42)
    yield offer("the newest that fits", told(42, inline=42))
    yield offer("what the device still has as its previous one is not sent again", told(42), previous=42)
    yield offer(
        "a catalogue that the device has not seen comes along", told(42, news=True, inline=42), seen=3, use="bundled"
    )
    yield offer("a newer catalogue than ours is not contradicted", told(7, said=False), seen=18, use=7)
    yield offer("a newer SDK gets the newer release", told(43, inline=43), sdk="3.0", signals=[*BOTH, "items_viewed"])
    yield offer("a release whose inputs are not sent is not offered", told(42, inline=42), sdk="3.0")
    yield offer("the order of the inputs that are sent does not matter", told(42, inline=42), signals=BOTH[::-1])
    yield offer(
        "a device that does not say what it sends is not restricted", told(43, inline=43), sdk="3.0", signals=None
    )
    patch = {**told(44), "inline": [PATCH["path"][10:]]}
    yield offer("on a release that it was made for, a patch rides alone", patch, sdk="3.5", use=43)
    yield offer("on the previous release too", patch, sdk="3.5", use="none", previous=43)
    yield offer("on another release it does not", told(44, inline=44), sdk="3.5", use=41, previous=40)
    yield offer("a device that sends nothing can run nothing with inputs", told("bundled"), signals=[])
    yield offer("an older SDK gets the older release", told(40, inline=40), sdk="2.2.9")
    yield offer("an unreadable SDK version meets only the empty specifier", told(40, inline=40), sdk="dev")
    yield offer("an SDK above an upper bound gets the newest below it", told(41, said=False), sdk="4.0")
    yield offer(
        "a release below the floor is not offered though it is listed", told("bundled"), sdk="1.0", signals=["x"]
    )
    yield from system_offers()
    unknown = offer("a model without a catalogue is not spoken of", {"told": None, "catalogue": False, "inline": []})
    unknown["device"]["have"] = {"churn": {"catalogue": 0, "use": "bundled"}}
    yield unknown


def system_offers() -> Iterator[Json]:
    """Release 44 asks for iOS 18: of devices that say another name than iOS (or iPadOS) that asks nothing."""
    systems: list[tuple[str, str, bool]] = [
        ("a system that is new enough gets the release that asks for it", "iOS 19.1", True),
        ("the very version that is asked for", "iOS 18", True),
        ("an older system gets the newest release that it can run", "iOS 17.7.2", False),
        ("the system's name in another case", "ios 17.7", False),
        ("the system that is asked for, without a version", "iOS", False),
        ("a version that cannot be read", "iOS 18beta", False),
        ("iPadOS has the versions of iOS: new enough", "iPadOS 18.2", True),
        ("iPadOS has the versions of iOS: too old", "iPadOS 17.7", False),
        ("another system is not restricted", "Android 14", True),
        ("another system without a version is not restricted", "Linux", True),
        ("another system whose name begins the same is not restricted", "iOSish 3", True),
        ("a system that is not said is not restricted", "", True),
    ]
    for name, system, runs in systems:
        release = 44 if runs else 42
        yield offer(f"needed system: {name}", told(release, inline=release), sdk="3.5", os=system)
    yield offer(
        "needed system: a rollout's release that the system cannot run, the newest below it",
        told(42, "challenger", 9, inline=42),
        rollout=rollout(arms=[{"name": "challenger", "use": 44, "weight": 1.0}]),
        device=CHALLENGER,
        sdk="3.5",
        os="iOS 17.7",
    )


def rollout_offers() -> Iterator[Json]:
    inside = told(42, "challenger", 9, inline=42)
    otherwise = told(41, "", 9, said=False)
    yield offer("inside the exposure, the challenger", inside, rollout=rollout(), device=CHALLENGER)
    yield offer("inside, the champion", told(41, "champion", 9, said=False), rollout=rollout(), device=CHAMPION)
    yield offer("inside, the baseline runs nothing", told("none", "baseline", 9), rollout=rollout(), device=BASELINE)
    yield offer("outside the exposure, otherwise", otherwise, rollout=rollout())
    yield offer("at exposure 1 nobody is outside", inside, rollout=rollout(exposure=1.0), device=CHALLENGER)
    yield offer("at exposure 0 nobody is inside", otherwise, rollout=rollout(exposure=0.0), device=CHALLENGER)
    yield offer("a newer release than the rollout's is nobody's", otherwise, rollout=rollout(), sdk="3.0", signals=None)
    yield from stopped_offers()
    yield offer("otherwise may be the bundled one", told("bundled", "", 9), rollout=rollout(otherwise="bundled"))
    yield offer("the catalogue's news comes along", told(41, "", 9, news=True, said=False), rollout=rollout(), seen=16)
    yield from held_offers()
    yield from held_before_offers()
    yield from unfit_offers()
    yield from target_offers()


def stopped_offers() -> Iterator[Json]:
    otherwise = told(41, "", 9, said=False)
    paused, back = rollout(state="paused"), rollout(state="rolled_back")
    yield offer(
        "paused: who runs the arm's release stays, in no arm",
        told(42, "", 9, said=False),
        rollout=paused,
        device=CHALLENGER,
        use=42,
    )
    yield offer("paused: who does not yet, does not enter", otherwise, rollout=paused, device=CHALLENGER)
    yield offer(
        "paused: who runs what the champion and otherwise run may be new, and is in no arm",
        otherwise,
        rollout=paused,
        device=CHAMPION,
    )
    yield offer(
        "paused: a baseline that is not held out is an arm like any other", otherwise, rollout=paused, device=BASELINE
    )
    yield offer(
        "rolled back: everyone on otherwise", told(41, "", 9, inline=41), rollout=back, device=CHALLENGER, use=42
    )
    yield offer(
        "rolled back: the previous one is still there",
        told(41, "", 9),
        rollout=back,
        device=CHALLENGER,
        use=42,
        previous=41,
    )
    yield offer(
        "rolled back: the baseline comes back too",
        told(41, "", 9, inline=41),
        rollout=back,
        device=BASELINE,
        use="none",
    )
    done = rollout(state="complete", otherwise=42)
    yield offer(
        "complete: everyone on otherwise", told(42, "", 9, inline=42), rollout=done, device=BASELINE, use="none"
    )


def held_offers() -> Iterator[Json]:
    """The held-out baseline: `held` names its arm, the model's own salt, and how far it has got."""
    running = rollout(held=HELD_OUT)
    none, otherwise = told("none", "baseline", 9), told(41, "", 9, said=False)
    yield offer("held out: nothing runs", none, rollout=running, device=HELD)
    yield offer("held out at every exposure of the rollout", none, rollout={**running, "exposure": 0.0}, device=HELD)
    yield offer("held out in the next rollout too", none, rollout={**running, "salt": "upsell-10"}, device=HELD)
    yield offer(
        "held out after completion", none, rollout={**running, "state": "complete", "otherwise": 42}, device=HELD
    )
    yield offer(
        "held out in a pause, as before",
        told("none", "baseline", 9, said=False),
        rollout={**running, "state": "paused"},
        device=HELD,
        use="none",
    )
    yield offer("held out in a pause though it is new", none, rollout={**running, "state": "paused"}, device=HELD)
    back = {**running, "state": "rolled_back"}
    yield offer("held out after a rollback", none, rollout=back, device=HELD, use=42)
    yield offer(
        "held out after a rollback, as before", told("none", "baseline", 9, said=False), rollout=back, device=HELD,
        use="none",
    )  # fmt: skip
    yield offer(
        "after a rollback, everyone else on otherwise", told(41, "", 9, inline=41), rollout=back, device=BESIDE_HELD,
        use=42,
    )  # fmt: skip
    yield offer("after a rollback, not held out that was not before", otherwise, rollout=back, device=HELD_LATER)
    yield offer(
        "a device that the target leaves out is not held out after a rollback",
        otherwise,
        rollout={**back, "target": {"os": "Android"}},
        device=HELD,
    )
    yield offer(
        "a device that the target leaves out is not held out",
        otherwise,
        rollout={**running, "target": {"os": "Android"}},
        device=HELD,
    )


def held_before_offers() -> Iterator[Json]:
    """Held out by an earlier target; and, at last, who is not held out yet, or never."""
    running, back = rollout(held=HELD_OUT), rollout(held=HELD_OUT, state="rolled_back")
    none, otherwise = told("none", "baseline", 9), told(41, "", 9, said=False)
    earlier = [{"target": {"os": "iOS"}, "exposure": 0.05}]
    android = {"target": {"os": "Android"}, "held": {**HELD_OUT, "exposure": 0.01, "earlier": earlier}}
    before = told("none", "", 9)
    yield offer("held out before, and so still", before, rollout={**running, **android}, device=HELD, use=42)
    yield offer("held out before, after a rollback", before, rollout={**back, **android}, device=HELD, use=42)
    yield offer("not held out before", otherwise, rollout={**running, **android}, device=HELD_LATER)
    yield offer(
        "held out before, and in the arm where the target means it",
        none,
        rollout={**running, "held": {**HELD_OUT, "exposure": 0.0, "earlier": earlier}},
        device=HELD,
    )
    yield offer(
        "not held out yet, and in no other arm at any exposure",
        otherwise,
        rollout={**running, "exposure": 1.0},
        device=HELD_LATER,
    )
    rest = told(41, "champion", 9, said=False)
    yield offer("the others share what the baseline leaves", rest, rollout=running, device=BESIDE_HELD)


def unfit_offers() -> Iterator[Json]:
    yield offer(
        "an arm's release does not fit: the newest that fits, not newer",
        told(41, "challenger", 9, said=False),
        rollout=rollout(),
        device=CHALLENGER,
        sdk="4.0",
    )
    yield offer(
        "otherwise does not fit: an older one, never a newer one",
        told(40, "", 9, inline=40),
        rollout=rollout(),
        sdk="2.2",
    )
    yield offer("nothing fits: the bundled one", told("bundled", "", 9), rollout=rollout(), sdk="2.2", signals=[])
    newer: Json = {"rollout": rollout(state="rolled_back", otherwise=43), "device": CHALLENGER, "use": 42}
    yield offer(
        "rolled back: what stands in for otherwise is not what an arm was trying", told(40, "", 9, inline=40), **newer
    )
    below = rollout(otherwise=39)
    yield offer("otherwise below the floor is not obeyed", told("bundled", "", 9), rollout=below)
    unlisted = rollout(arms=[{"name": "challenger", "use": 99, "weight": 1.0}])
    yield offer(
        "an arm's release that is not listed: the newest that fits",
        told(42, "challenger", 9, inline=42),
        rollout=unlisted,
        device=CHALLENGER,
    )


def target_offers() -> Iterator[Json]:
    reached, missed = told(42, "challenger", 9, inline=42), told(41, "", 9, said=False)
    targets: list[tuple[str, Json, Mapping[str, Any], bool]] = [
        ("the SDK", {"sdk": ">=2.3"}, {}, True),
        ("another SDK", {"sdk": ">=2.4"}, {}, False),
        ("the app's version", {"app_version": ">=5,<6"}, {}, True),
        ("another app version", {"app_version": "<5"}, {}, False),
        ("an app version that is not said", {"app_version": ">=5"}, {"app_version": ""}, False),
        ("the system and its version", {"os": "iOS >=17"}, {}, True),
        ("the system alone", {"os": "iOS"}, {}, True),
        ("a version alone", {"os": ">=17"}, {}, True),
        ("the system's name in another case", {"os": "ios >=17"}, {}, True),
        ("a system with a space in its name", {"os": "Wear OS >=4"}, {"os": "Wear OS 5.1"}, True),
        ("another system", {"os": "Android >=13"}, {}, False),
        ("another system whose name begins the same", {"os": "iOS >=17"}, {"os": "iOSish 19"}, False),
        ("an older system", {"os": "iOS >=17"}, {"os": "iOS 16.7.2"}, False),
        ("a system that says no version", {"os": "iOS >=17"}, {"os": "iOS"}, False),
        ("a system that is not said", {"os": "iOS"}, {"os": ""}, False),
        ("the locale", {"locale": ["fr_FR", "de_AT"]}, {}, True),
        ("the locale's language", {"locale": ["de"]}, {}, True),
        ("the locale in the other spelling", {"locale": ["de-AT"]}, {}, True),
        ("another region", {"locale": ["de_CH"]}, {}, False),
        ("another language that begins the same", {"locale": ["d"]}, {}, False),
        ("a locale that is not said", {"locale": ["de"]}, {"locale": ""}, False),
        ("the hardware", {"hardware": ["iPhone15,3", "iPhone16,1"]}, {}, True),
        ("the beginning of the hardware's name", {"hardware": ["iPhone15*"]}, {}, True),
        ("other hardware", {"hardware": ["iPhone15"]}, {}, False),
        ("hardware that is not said", {"hardware": ["iPhone15,3"]}, {"hardware": ""}, False),
        ("all at once", {"sdk": ">=2", "app_version": ">=5", "os": "iOS >=17", "locale": ["de"]}, {}, True),
        ("all but one", {"sdk": ">=2", "app_version": ">=5", "os": "iOS >=17", "locale": ["fr"]}, {}, False),
    ]
    for name, target, device, hits in targets:
        yield offer(
            f"target: {name}",
            reached if hits else missed,
            rollout=rollout(target=target),
            **{"device": CHALLENGER, **device},
        )


def offers() -> Json:
    about = (
        "The gateway holds `catalogue` (and, where it is not null, the case's `rollout`) for the model upsell; every "
        "xz download may ride inline, and every patch: of those that the device can take by what it has, the smallest "
        "does. A device says what stands in `device`. `expect`: `told` goes on the log (null: the model is not spoken "
        "of); `use` is in the reply only where it stands here; `catalogue` says whether it is "
        "sent; a release's `os` asks something only of devices of that name (iPadOS counts as iOS): the version must "
        "meet it, and one that is not said does not. `inline` are the SHA-256 of the bytes that ride along. A baseline "
        "in `held` lasts in every state: a device whose place (the arm's hash) by `held.salt` is below that arm's "
        "weight is in no other arm; it is held out while its bucket by `held.salt` is below `held.exposure`, and gets "
        "otherwise until then. `held.earlier` says how far it had got in rollouts with other targets: so far it holds "
        "out the devices of those too, and whom the rollout's own target leaves out runs what that arm does, in no "
        "arm. For all others the arms are the rest, their place scaled to the sum of their weights; "
        "complete and rolled_back put them on otherwise. paused keeps no list of who is in: a device that runs what "
        "its arm would run keeps it, all others get otherwise, and none is said to be in an arm but the held-out."
    )
    return {"about": about, "catalogue": CATALOGUE, "cases": [*plain_offers(), *rollout_offers()]}


if __name__ == "__main__":
    (DIRECTORY / "offers.json").write_text(rendered(offers()), encoding="utf-8")
