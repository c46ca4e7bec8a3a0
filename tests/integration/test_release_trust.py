"""Keys, revocation, signing elsewhere, patches and the store's own examination, by the commands an operator types."""

import base64
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from gateway.cli import main
from gateway.client.keyring import Keyring, judge_keys
from gateway.client.verify import named_keys
from gateway.releases.keys import key_name, load_private, load_public
from gateway.releases.packing import patched
from schemas.releases import Catalogue, SignedCatalogue
from schemas.wire import SignedKeys

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdDict
else:
    from backports.zstd import ZstdDecompressor, ZstdDict

MODELS: Final = Path(__file__).resolve().parents[1] / "models"
UPSELL: Final = ("--app", "shop", "--model", "upsell")
STORE: Final = Path("backhaul-data/store")


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """An app with two root keys and two release keys, nothing published."""
    monkeypatch.chdir(tmp_path)

    def _run(*words: object) -> Ran:
        code = main([str(word) for word in words])
        return Ran(code, *capsys.readouterr())

    _run("app", "create", "shop")
    for name in ("root1", "root2", "release1", "release2"):
        assert _run("key", "generate", name).code == 0
    return _run


def publish(run: Run, key: str, *more: object, number: int = 1) -> Ran:
    words = ("--file", MODELS / f"upsell-{number}.mlmodel", "--sdk", ">=2.3", "--sign", key)
    return run("release", "publish", *UPSELL, *words, *more)


def rotate(run: Run, *more: object) -> Ran:
    return run("key", "rotate", "--app", "shop", "--sign", "root1", *more, "--json")


def catalogue(number: int) -> Catalogue:
    stored = (STORE / f"catalogues/shop/upsell/{number:010d}.json").read_bytes()
    return msgspec.json.decode(msgspec.json.decode(stored, type=SignedCatalogue).document, type=Catalogue)


def key_list(number: int) -> SignedKeys:
    return msgspec.json.decode((STORE / f"keys/shop/{number:010d}.json").read_bytes(), type=SignedKeys)


def device(*roots: str, threshold: int = 1) -> Keyring:
    return Keyring(named_keys([load_public(Path(f"{root}.pub")) for root in roots]), threshold)


def test_a_key_list_names_the_keys_that_may_publish(run: Run) -> None:
    first = rotate(run, "--add", "release1.pub").json
    assert (first["version"], len(first["keys"])) == (1, 1)
    refused = publish(run, "release2")
    assert refused.code == 1
    assert "is not in key list 1 of shop" in refused.err
    assert publish(run, "release1").code == 0
    assert publish(run, "root1", "--trust", "release1.pub", "--again").code == 0, "a root may sign where one is enough"
    [row] = run("key", "list", "--app", "shop", "--root", "root1.pub", "--json").json
    assert row["key"] == first["keys"][0]
    assert run("key", "list", "--app", "shop", "--root", "root2.pub").code == 1


def test_a_stolen_key_is_replaced_and_the_catalogue_signed_again(run: Run) -> None:
    stolen = rotate(run, "--add", "release1.pub").json["keys"][0]
    publish(run, "release1")
    assert rotate(run, "--add", "release2.pub", "--remove", stolen).json["version"] == 2
    assert publish(run, "release1").code == 1
    unsound = run("release", "verify", "--root", "root1.pub", "--json")
    assert unsound.code == 1
    assert "by no key that devices believe" in unsound.out
    assert run("release", "renew", *UPSELL, "--sign", "release2", "--trust", "release1.pub").code == 0
    assert catalogue(2).releases == catalogue(1).releases
    assert run("release", "verify", "--root", "root1.pub", "--json").json == []


def test_a_list_that_drops_a_key_keeps_the_floor_that_the_key_signed(run: Run) -> None:
    old = rotate(run, "--add", "release1.pub", "--add", "release2.pub").json["keys"][0]
    for number in (1, 2):
        publish(run, "release1", number=number)
    assert run("release", "revoke", *UPSELL, "--sign", "release1", "--below", 2).code == 0
    refused = rotate(run, "--remove", old)
    assert (refused.code, "say --floor upsell=2 to keep them" in refused.err) == (1, True)
    with pytest.raises(SystemExit, match="2"):
        rotate(run, "--remove", old, "--floor", "upsell")
    assert rotate(run, "--remove", old, "--floor", "upsell=3").json["floors"] == {"upsell": 3}
    assert run("key", "list", "--app", "shop", "--json").json[0]["floors"] == {"upsell": 3}
    below = publish(run, "release2", "--trust", "release1.pub", "--release", 2, "--again")
    assert below.code == 1
    assert run("release", "renew", *UPSELL, "--sign", "release2", "--trust", "release1.pub").code == 0
    start = ("rollout", "start", *UPSELL, "--challenger", 2, "--champion", "bundled", "--reason", "try")
    assert "is not listed or is below the floor" in run(*start).err
    assert publish(run, "release2", "--again").code == 0, "release 3 is not below it"


def test_two_of_two_roots_must_sign_and_one_cannot_lower_that(run: Run) -> None:
    both = ("--sign", "root2", "--threshold", 2)
    assert rotate(run, "--add", "release1.pub", *both).json["threshold"] == 2
    alone = rotate(run, "--root", "root2.pub", "--add", "release2.pub", "--threshold", 1)
    assert "1 of the 2 root keys that it takes have signed" in alone.err
    assert publish(run, "root1").code == 1, "with a threshold of two no single root publishes"
    assert publish(run, "release1", "--root", "root1.pub", "--root", "root2.pub").code == 0
    ring = device("root1", "root2", threshold=2)
    assert judge_keys(key_list(1), ring, app="shop", now_ms=0).code == "ok"
    assert judge_keys(key_list(1), device("root1"), app="shop", now_ms=0).code == "too_few_signatures"


def test_a_list_warns_of_void_catalogues_only_where_it_can_void_one(run: Run) -> None:
    assert "are void now" in rotate(run, "--add", "release1.pub").err, "the root alone may have signed until now"
    assert "are void now" not in rotate(run, "--add", "release2.pub").err
    gone = key_name(load_public(Path("release1.pub")))
    assert "are void now" in rotate(run, "--remove", gone).err


def test_a_list_that_a_stranger_wrote_is_not_built_upon(run: Run) -> None:
    run("key", "generate", "mallory")
    assert run("key", "rotate", "--app", "shop", "--sign", "mallory", "--add", "release2.pub").code == 0
    refused = rotate(run, "--add", "release1.pub")
    assert refused.code == 1
    assert "find out who wrote it" in refused.err


def test_lists_and_releases_can_be_signed_elsewhere(run: Run) -> None:
    words = ("--app", "shop", "--root", "root1.pub", "--add", "release1.pub", "--out", "list.bin")
    assert run("key", "rotate", *words).code == 0
    Path("list.sig").write_bytes(load_private(Path("root1")).sign(Path("list.bin").read_bytes()))
    attach = ("key", "attach", "--bytes", "list.bin", "--signature", "list.sig", "--root")
    assert run(*attach, "root2.pub").code == 1
    assert run(*attach, "root1.pub", "--json").json["version"] == 1

    file = ("--file", MODELS / "upsell-1.mlmodel", "--sdk", ">=2.3", "--trust", "release1.pub")
    assert run("release", "prepare", *UPSELL, *file, "--out", "release.bin").code == 0
    assert not (STORE / "catalogues").exists()
    signature = load_private(Path("release1")).sign(Path("release.bin").read_bytes())
    Path("release.sig").write_text(base64.b64encode(signature).decode() + "\n")
    attach = ("release", "attach", "--bytes", "release.bin", "--signature", "release.sig", "--key")
    assert "is not one by" in run(*attach, "release2.pub").err
    assert run(*attach, "release1.pub", "--json").json["releases"] == [1]
    assert "someone else wrote" in run(*attach, "release1.pub").err
    Path("release.bin").write_bytes(b"catalogue/v2\n{}")
    assert "does not begin with catalogue/v1" in run(*attach, "release1.pub").err
    assert run("release", "verify", "--root", "root1.pub", "--json").json == []


def test_revoking_raises_the_floor_for_ever_or_unlists_one(run: Run) -> None:
    for number in (1, 2, 1):
        publish(run, "root1", number=number)
    assert run("release", "revoke", *UPSELL, "--sign", "root1").code == 2
    assert run("release", "revoke", *UPSELL, "--sign", "root1", "--below", 2, "--json").json["releases"] == [3, 2]
    assert run("release", "revoke", *UPSELL, "--sign", "root1", "--release", 2, "--json").json == {
        "app": "shop", "model": "upsell", "catalogue": 5, "floor": 2, "releases": [3],
    }  # fmt: skip
    assert "release 2 is not listed" in run("release", "revoke", *UPSELL, "--sign", "root1", "--release", 2).err
    assert run("release", "revoke", *UPSELL, "--out", "x.bin", "--below", 4, "--trust", "root1.pub").code == 0
    assert Path("x.bin").read_bytes().startswith(b"catalogue/v1\n")


def test_a_patch_is_kept_where_it_saves_a_fifth(run: Run) -> None:
    base = bytes(range(256)) * 40 + Path(MODELS / "upsell-2.mlmodel").read_bytes()
    Path("old").write_bytes(base)
    Path("new").write_bytes(base[:5000] + b"something new" + base[5000:])
    Path("other").write_bytes(MODELS.joinpath("upsell-1.mlmodel").read_bytes())
    for name in ("old", "other", "new"):
        words = ("--file", name, "--sdk", "", "--format", "opaque", "--inputs", "a", "--sign", "root1")
        assert run("release", "publish", *UPSELL, *words).code == 0
    new, other, old = catalogue(3).releases
    patches = [download for download in new.downloads if download.encoding == "zstd-patch"]
    assert [patch.base for patch in patches] == [old.sha256]
    assert patches[0].size < 200
    assert [download.encoding for download in other.downloads] == ["identity", "xz"]
    wire = (STORE / patches[0].path).read_bytes()
    prefix = ZstdDict(base, is_raw=True).as_prefix
    assert ZstdDecompressor(prefix).decompress(wire) == Path("new").read_bytes()
    assert run("release", "verify", "--root", "root1.pub", "--json").json == []


def test_a_patch_of_what_the_command_line_of_zstd_would_need_a_long_window_for_still_applies() -> None:
    old = bytes((i * i * 7 + i // 251) % 256 for i in range(300_000))
    new = old[150_000:] + b"x" + old[:150_000]
    patch = patched(new, old)
    assert len(patch) < 2000
    assert ZstdDecompressor(ZstdDict(old, is_raw=True).as_prefix).decompress(patch) == new


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "the file is missing"),
        (lambda path: path.write_bytes(b"x" * path.stat().st_size), "the file is damaged"),
    ],
)
def test_what_is_wrong_with_an_artifact_is_found(run: Run, damage: Callable[[Path], object], said: str) -> None:
    publish(run, "root1")
    damage(STORE / catalogue(1).releases[0].downloads[1].path)
    [found] = json.loads(run("release", "verify", "--json").out)
    assert (found["level"], found["path"]) == ("fail", catalogue(1).releases[0].downloads[1].path)
    assert said in found["text"]


def test_what_is_wrong_with_documents_is_found(run: Run) -> None:
    publish(run, "root1")
    publish(run, "root1", "--expires-in-days", 1, number=2)
    run("rollout", "start", *UPSELL, "--challenger", 2, "--champion", 1, "--reason", "x")
    run("release", "revoke", *UPSELL, "--sign", "root1", "--below", 2)
    (STORE / "catalogues/shop/upsell/0000000002.json").unlink()
    (STORE / "rollouts/shop/upsell/0000000002.json").write_bytes(b"{")
    (STORE / "apps/notes.txt").write_bytes(b"hello")
    found = {(each["level"], each["path"]): each["text"] for each in json.loads(run("release", "verify", "--json").out)}
    assert found[("fail", "catalogues/shop/upsell/0000000002.json")] == "is missing: history has a gap"
    assert found[("fail", "rollouts/shop/upsell/0000000002.json")].startswith("not a rollout")
    assert "names release 1, which is not listed" in found[("warn", "rollouts/shop/upsell")]
    assert ("warn", "apps/notes.txt") in found
    assert "by no key" in run("release", "verify", "--root", "root2.pub").out


def test_what_ends_soon_is_found_before_devices_stop_to_install(run: Run) -> None:
    rotate(run, "--add", "release1.pub", "--expires-in-days", 10)
    publish(run, "release1", "--expires-in-days", 5)
    found = json.loads(run("release", "verify", "--root", "root1.pub", "--json").out)
    assert [(each["level"], each["path"], each["text"].partition(" days")[0]) for each in found] == [
        ("warn", "keys/shop/0000000001.json", "expires in 10.0"),
        ("warn", "catalogues/shop/upsell/0000000001.json", "expires in 5.0"),
    ]


def test_every_kind_of_object_that_is_damaged_is_found(run: Run) -> None:
    rotate(run, "--add", "release1.pub")
    for number in (1, 2):
        publish(run, "release1", number=number)
    old = catalogue(2).releases[1].sha256
    run("release", "revoke", *UPSELL, "--sign", "release1", "--release", 1)
    reason = ("--reason", "x")
    run("rollout", "start", *UPSELL, "--challenger", 2, "--champion", "bundled", *reason)
    run("rollout", "rule", "--app", "shop", "--two-person", "on", *reason)
    run("rollout", "advance", *UPSELL, "--to", 5, *reason)
    assert run("release", "verify").err.startswith("the store is sound")
    paths = sorted(path for path in STORE.rglob("*") if path.is_file())
    assert {path.relative_to(STORE).parts[0] for path in paths} == {
        "apps", "artifacts", "catalogues", "keys", "proposals", "rollouts",
    }  # fmt: skip
    for path in paths:
        whole = path.read_bytes()
        path.write_bytes(whole[:-2])
        found = json.loads(run("release", "verify", "--json").out)
        name = path.relative_to(STORE).as_posix()
        assert name in {each["path"] for each in found}, name
        assert run("release", "verify").code == (0 if old in name or found[0]["level"] == "warn" else 1)
        path.write_bytes(whole)
    oldest = STORE / "catalogues/shop/upsell/0000000001.json"
    signed = msgspec.json.decode(oldest.read_bytes(), type=SignedCatalogue)
    changed = msgspec.structs.replace(signed, document=signed.document.replace(b'"floor":0', b'"floor":9'))
    oldest.write_bytes(msgspec.json.encode(changed))
    [found] = json.loads(run("release", "verify", "--app", "shop", "--json").out)[:1]
    assert (found["path"], "its bytes were changed" in found["text"]) == (oldest.relative_to(STORE).as_posix(), True)


def test_a_sound_store_says_so_and_what_was_not_judged(run: Run) -> None:
    publish(run, "root1")
    assert run("release", "verify").err.startswith("the store is sound; signatures were not judged")
    assert run("release", "verify", "--root", "root1.pub").err == "the store is sound\n"
