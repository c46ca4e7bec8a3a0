"""The golden vectors of releases: as their scripts make them, and as this code answers them."""

import json
import runpy
from pathlib import Path
from typing import Any, Final, get_args

import msgspec
import pytest

from gateway.client.keyring import Keyring, KeysCode, judge_keys
from gateway.client.verify import verify
from gateway.releases.decide import Decision, arm_of, bucket, decide
from gateway.releases.rules import ModelRules, model_rules, read_rollout
from schemas.releases import Arm, Catalogue, KeyList, SignedCatalogue
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
        ("offers", "buckets"),
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
    ring = Keyring(roots, case["threshold"], seen)
    verdict = judge_keys(signed, ring, app="shop", now_ms=case["now_ms"])
    assert verdict.code == case["code"]
    assert (verdict.keys is not None) is (case["code"] == "ok")


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
    packed = [d.path[10:] for release in catalogue.releases for d in release.downloads if d.encoding == "xz"]
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
