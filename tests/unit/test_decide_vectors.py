"""The golden vectors of releases: as their scripts make them, and as this code answers them."""

import json
import runpy
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import pytest

from gateway.client.keyring import Keyring, KeysCode, judge_keys
from gateway.client.state import ModelState, still_listed
from gateway.client.verify import verify
from gateway.releases.decide import Decision, arm_of, bucket, decide
from gateway.releases.rules import ModelRules, model_rules, read_rollout, with_keys
from schemas.releases import Arm, Catalogue, KeyList, Release, SignedCatalogue
from schemas.versions import parse_specifier, parse_version, satisfies
from schemas.wire import Envelope, Signature, SignedKeys

ROOT: Final = Path(__file__).resolve().parents[2]
VECTORS: Final = ROOT / "schemas" / "vectors"
Json = dict[str, Any]


def vectors(name: str) -> Json:
    loaded: Json = json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def cases(name: str, part: str = "cases") -> list[Any]:
    return [pytest.param(case, id=case["name"]) for case in vectors(name)[part]]


@pytest.mark.parametrize(
    ("script", "name"),
    [
        ("catalogues", "catalogues"),
        ("offers", "offers"),
        ("buckets", "buckets"),
        ("versions", "versions"),
        ("keys", "keys"),
    ],
)
def test_the_file_is_what_its_script_makes(script: str, name: str) -> None:
    made = runpy.run_path(str(ROOT / "tests" / "vectors" / f"{script}.py"))
    assert made["rendered"](made[name]()) == (VECTORS / f"{name}.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", cases("catalogues"))
def test_a_catalogue_gets_its_verdict(case: Json) -> None:
    whole = vectors("catalogues")
    signatures = msgspec.convert(case["signatures"], list[Signature])
    verdict = verify(
        msgspec.convert(case["document"], bytes),
        signatures,
        keys=msgspec.convert(whole["keys"], dict[str, bytes]),
        app=case["app"],
        model=case["model"],
        seen=case["seen"],
        floor=case["floor"],
        now_ms=case["now_ms"],
        seen_document=msgspec.convert(case.get("seen_document", ""), bytes),
    )
    assert verdict.code == case["code"]
    assert case["code"] in whole["codes"]


@pytest.mark.parametrize("case", cases("keys"))
def test_a_key_list_gets_its_verdict(case: Json) -> None:
    roots = msgspec.convert(vectors("keys")["roots"], dict[str, bytes])
    seen = None
    if case["seen_version"]:
        seen = KeyList(
            app="shop",
            version=case["seen_version"],
            issued_at=0,
            expires_at=1,
            threshold=case["seen_threshold"],
            keys=[],
        )
    signed = msgspec.convert({"document": case["document"], "signatures": case["signatures"]}, SignedKeys)
    ring = Keyring(roots, case["threshold"], seen, msgspec.convert(case.get("seen_document", ""), bytes))
    verdict = judge_keys(signed, ring, app="shop", now_ms=case["now_ms"])
    assert verdict.code == case["code"]
    assert (verdict.keys is not None) is (case["code"] == "ok" or (case["code"] == "expired" and seen is not None))


@pytest.mark.parametrize("case", cases("keys", "floors"))
def test_the_higher_floor_holds_on_the_device_and_on_the_gateway(case: Json) -> None:
    entry = {"release": case["release"], "format": "opaque", "sha256": "0" * 64, "size": 1, "downloads": []}
    document = {"type": "catalogue/v1", "app": "shop", "model": case["model"], "number": 1, "issued_at": 0}
    listing = msgspec.convert(
        {**document, "expires_at": 1, "floor": case["seen"], "releases": [msgspec.convert(entry, Release)]}, Catalogue
    )
    kept = msgspec.convert(entry, Release)
    ring = Keyring({}, 1, None if case["list"] is None else key_list_of(case["list"]))
    state = still_listed(ModelState(floor=case["seen"], active=kept), listing, ring.floor(case["model"]))
    assert (state.active is not None) is case["runs"]

    rules = model_rules(SignedCatalogue(b"", []), listing, "/", {})
    if ring.listed is not None:
        rules = with_keys(rules, case["model"], SignedKeys(b"", []), ring.listed)
    assert bool(rules.releases) is case["runs"]


def key_list_of(floors: Json) -> KeyList:
    return KeyList(app="shop", version=1, issued_at=0, expires_at=1, threshold=1, keys=[], floors=floors)


def test_every_verdict_has_a_vector() -> None:
    whole = vectors("catalogues")
    assert {case["code"] for case in whole["cases"]} == set(whole["codes"])
    assert {case["code"] for case in vectors("keys")["cases"]} == set(get_args(KeysCode))


@pytest.mark.parametrize("case", vectors("buckets")["buckets"])
def test_a_bucket_is_its_vector(case: Json) -> None:
    assert bucket(case["salt"], case["device"]) == case["bucket"]


@pytest.mark.parametrize("case", vectors("buckets")["arms"])
def test_an_arm_is_its_vector(case: Json) -> None:
    arms = msgspec.convert(case["arms"], list[Arm])
    assert arm_of(case["salt"], case["device"], arms).name == case["arm"]


@pytest.mark.parametrize("case", cases("offers"))
def test_an_offer_is_its_vector(case: Json) -> None:
    decision = decide({"upsell": offered_rules(case)}, offered_device(case))
    expected = case["expect"]
    if expected["told"] is None:
        assert decision == Decision({}, {}, {}, {})
        return
    told = decision.told["upsell"]
    assert {"use": told.use, "arm": told.arm, "rollout": told.rollout} == expected["told"]
    assert decision.use.get("upsell") == expected.get("use")
    assert ("upsell" in decision.catalogues) == expected["catalogue"]
    assert list(decision.inline) == expected["inline"]


def offered_rules(case: Json) -> ModelRules:
    document = json.dumps(vectors("offers")["catalogue"]).encode()
    catalogue = msgspec.json.decode(document, type=Catalogue)
    packed = [d.path[10:] for release in catalogue.releases for d in release.downloads if d.encoding != "identity"]
    rules = model_rules(SignedCatalogue(document, []), catalogue, "/", dict.fromkeys(packed, b"bytes"))
    if case["rollout"] is None:
        return rules
    return msgspec.structs.replace(rules, rollout=read_rollout(json.dumps(case["rollout"]).encode(), "shop", "upsell"))


def offered_device(case: Json) -> Envelope:
    batch = {"batch": "01980000-0000-7000-8000-000000000000", "seq": 1, "sent_at": 0}
    return msgspec.convert({**batch, **case["device"]}, Envelope)


@pytest.mark.parametrize("case", vectors("versions")["parse"])
def test_a_version_parses_as_its_vector(case: Json) -> None:
    if case["version"] is None:
        with pytest.raises(ValueError, match="not a version"):
            parse_version(case["text"])
    else:
        assert list(parse_version(case["text"])) == case["version"]


@pytest.mark.parametrize("case", vectors("versions")["satisfies"])
def test_a_specifier_holds_as_its_vector(case: Json) -> None:
    assert satisfies(case["version"], case["specifier"]) is case["holds"]


@pytest.mark.parametrize("text", vectors("versions")["bad_specifiers"])
def test_a_bad_specifier_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a"):
        parse_specifier(text)
