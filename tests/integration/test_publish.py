"""Publishing into a real store: what is written, in which order, and what is refused."""

import asyncio
import base64
import lzma
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.client.runtimes import Model
from gateway.client.runtimes.coreml import CoreMLRuntime
from gateway.client.verify import verify
from gateway.releases import transitions
from gateway.releases.apps import add_key, create_app, hash_key, list_apps, load_app, revoke_key
from gateway.releases.catalogues import amended, attach
from gateway.releases.errors import (
    AppExists,
    BadArtifact,
    BadDocument,
    BadKey,
    BadName,
    BadReleaseTerms,
    ReleaseError,
    SomeoneWroteInBetween,
    UnknownApp,
    UntrustedHistory,
)
from gateway.releases.keys import generate_key, key_name, load_private, load_public, public_bytes, public_path, sign
from gateway.releases.publish import LISTED_RELEASES, facts_of, list_releases, publish_release
from gateway.releases.rollouts import change
from gateway.releases.rules import read_catalogue
from gateway.releases.store import Store, StoreError
from gateway.releases.transitions import Change
from schemas.releases import Catalogue, Parameters, Probe, SignedCatalogue

MODELS: Final = Path(__file__).resolve().parents[1] / "models"
FIRST: Final = MODELS / "upsell-1.mlmodel"
SECOND: Final = MODELS / "upsell-2.mlmodel"
NOW_MS: Final = 1_795_334_400_000
KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER_KEY: Final = Ed25519PrivateKey.from_private_bytes(bytes(31) + b"\x01")


class DyingStore(Store):
    """A store whose writer dies before it writes the catalogue."""

    async def put_new(self, path: str, data: bytes) -> None:
        """Write anything but catalogues."""
        if path.startswith("catalogues/"):
            raise StoreError("the machine went away")
        await super().put_new(path, data)


@pytest.fixture
async def store(tmp_path: Path) -> Store:
    opened = Store.open((tmp_path / "store").as_uri())
    await create_app(opened, "shop", NOW_MS)
    return opened


async def publish(store: Store, file: Path = FIRST, **terms: Any) -> Catalogue:
    plain = {"app": "shop", "model": "upsell", "sdk": ">=2.3", "signing_key": KEY, "now_ms": NOW_MS}
    return await publish_release(store, file=file, **{**plain, **terms})


def loaded(file: Path) -> Model:
    return CoreMLRuntime().load(file.read_bytes())


async def test_a_published_release_can_be_fetched_verified_and_run(store: Store) -> None:
    await publish(store)
    stored = await store.get("catalogues/shop/upsell/0000000001.json")
    signed = msgspec.json.decode(stored, type=SignedCatalogue)
    verdict = verify(
        signed.document,
        signed.signatures,
        keys={key_name(public_bytes(KEY)): public_bytes(KEY)},
        app="shop",
        model="upsell",
        seen=0,
        floor=0,
        now_ms=NOW_MS,
    )
    assert verdict.code == "ok"
    assert verdict.catalogue is not None
    (release,) = verdict.catalogue.releases
    identity, packed = [await store.get(download.path) for download in release.downloads]
    assert [download.size for download in release.downloads] == [len(identity), len(packed)]
    assert lzma.decompress(packed) == identity == FIRST.read_bytes()
    assert sha256(identity).hexdigest() == release.sha256
    assert len(packed) < len(identity)


async def test_the_metadata_speaks_where_the_publisher_does_not(store: Store) -> None:
    (release,) = (await publish(store)).releases
    assert release.inputs == ["battery_level", "charging"]
    stated = loaded(FIRST).metadata
    assert release.parameters == Parameters(float(stated["threshold"]), float(stated["explore"]))
    (_, overridden) = reversed((await publish(store, threshold=0.6, inputs=["x", "y"])).releases)
    assert overridden.parameters == Parameters(threshold=0.6, explore=0.05)
    assert overridden.inputs == ["x", "y"]


@pytest.mark.parametrize("file", [FIRST, SECOND])
async def test_golden_vectors_are_what_the_model_answers(store: Store, file: Path) -> None:
    (release,) = (await publish(store, file)).releases
    model = loaded(file)
    assert len(release.probe) == 5
    assert len({tuple(probe.input) for probe in release.probe}) == 5
    for probe in release.probe:
        assert model.predict(probe.input) == probe.output


async def test_golden_vectors_are_the_same_each_time(store: Store) -> None:
    first, second = (await publish(store)).releases[0], (await publish(store)).releases[0]
    assert first.probe == second.probe


async def test_golden_vectors_of_the_publisher_are_checked(store: Store) -> None:
    (release,) = (await publish(store)).releases
    good = release.probe[0]
    wrong = Probe(good.input, {label: 1 - value for label, value in good.output.items()})
    assert (await publish(store, probes=[good])).releases[0].probe == [good]
    with pytest.raises(BadArtifact, match="mend the golden vector"):
        await publish(store, probes=[good, wrong])


async def test_releases_count_up_and_few_stay_listed(store: Store) -> None:
    for _ in range(LISTED_RELEASES + 2):
        catalogue = await publish(store)
    assert catalogue.number == LISTED_RELEASES + 2
    assert [each.release for each in catalogue.releases] == [6, 5, 4, 3]


async def test_what_the_rollout_in_force_names_stays_listed(store: Store) -> None:
    await publish(store)
    hold = transitions.hold(None, "shop", "upsell", 1, Change("ann", "stay", 1))
    await change(store, "shop", "upsell", lambda last: hold)
    for _ in range(LISTED_RELEASES + 1):
        catalogue = await publish(store)
    assert [each.release for each in catalogue.releases] == [6, 5, 4, 3, 1]


async def test_a_number_is_never_given_twice(store: Store) -> None:
    for _ in range(3):
        await publish(store)
    unlisted = await amended(
        store, "shop", "upsell", unlist=[3, 2], trusted=[public_bytes(KEY)], expires_in_days=90, now_ms=NOW_MS
    )
    await attach(store, unlisted, sign(KEY, unlisted), public_bytes(KEY))
    with pytest.raises(BadReleaseTerms, match="not above 3"):
        await publish(store, release=2)
    assert [each.release for each in (await publish(store)).releases] == [4, 1]


async def test_a_release_number_can_be_given_but_not_go_back(store: Store) -> None:
    await publish(store, release=41)
    assert (await publish(store)).releases[0].release == 42
    with pytest.raises(BadReleaseTerms, match="not above 42"):
        await publish(store, release=42)


async def test_the_floor_never_falls_and_what_is_below_is_unlisted(store: Store) -> None:
    await publish(store)
    await publish(store)
    assert [each.release for each in (await publish(store, floor=2)).releases] == [3, 2]
    assert (await publish(store, floor=1)).floor == 2
    with pytest.raises(BadReleaseTerms, match="below the floor"):
        await publish(store, floor=99)


async def test_publishing_the_same_file_again_makes_a_new_release_of_the_same_artifact(store: Store) -> None:
    await publish(store)
    second, first = (await publish(store)).releases
    assert (first.release, second.release) == (1, 2)
    assert first.downloads == second.downloads
    assert len(await store.names("artifacts")) == 2


async def test_a_damaged_artifact_in_the_store_is_not_published_over(store: Store) -> None:
    await store.put_new(f"artifacts/{sha256(FIRST.read_bytes()).hexdigest()}", b"something else")
    with pytest.raises(BadArtifact, match="damaged in the store"):
        await publish(store)
    assert await store.names("catalogues") == []


async def test_of_two_operators_at_once_one_is_told(store: Store) -> None:
    both = await asyncio.gather(publish(store, FIRST), publish(store, SECOND), return_exceptions=True)
    lost = [each for each in both if isinstance(each, BaseException)]
    won = [each for each in both if isinstance(each, Catalogue)]
    assert len(lost) == len(won) == 1
    assert isinstance(lost[0], SomeoneWroteInBetween)
    assert "someone else wrote catalogues/shop/upsell/0000000001.json" in str(lost[0])
    assert await list_releases(store, "shop", "upsell") == won


async def test_a_write_whose_answer_was_lost_is_no_other_operator_s(store: Store) -> None:
    class Forgetful(Store):
        async def put_new(self, path: str, data: bytes) -> None:
            await super().put_new(path, data)
            await super().put_new(path, data)

    await publish(store)
    second = await publish(Forgetful.open(store.url), SECOND)
    assert await list_releases(store, "shop", "upsell") == [second]


async def test_a_crash_before_the_catalogue_leaves_the_old_one_valid(store: Store) -> None:
    first = await publish(store)
    with pytest.raises(StoreError, match="went away"):
        await publish(DyingStore.open(store.url), SECOND)
    assert await list_releases(store, "shop", "upsell") == [first]
    assert len(await store.names("artifacts")) == 4
    finished = await publish(store, SECOND)
    assert [each.release for each in finished.releases] == [2, 1]


async def test_a_catalogue_that_a_stranger_signed_is_not_built_upon(store: Store) -> None:
    forged = msgspec.structs.replace(await publish(store), number=2)
    document = msgspec.json.encode(forged)
    stored = msgspec.json.encode(SignedCatalogue(document, [sign(OTHER_KEY, document)]))
    await store.put_new("catalogues/shop/upsell/0000000002.json", stored)
    with pytest.raises(UntrustedHistory, match="find out who wrote it"):
        await publish(store)
    followed = await publish(store, trusted=[public_bytes(OTHER_KEY)])
    assert followed.number == 3


async def test_a_damaged_catalogue_is_not_built_upon(store: Store) -> None:
    await publish(store)
    await store.put_new("catalogues/shop/upsell/0000000002.json", b"{")
    with pytest.raises(BadDocument, match=r"0000000002\.json is damaged"):
        await publish(store)


@pytest.mark.parametrize(
    ("terms", "error", "why"),
    [
        ({"app": "nobody"}, UnknownApp, "app create nobody"),
        ({"model": "Up Sell"}, BadName, "is not a name"),
        ({"app": "../x"}, BadName, "is not a name"),
        ({"sdk": "newest"}, BadReleaseTerms, "cannot be read"),
        ({"expires_in_days": 0}, BadReleaseTerms, "at least 1"),
        ({"threshold": 1.5}, BadReleaseTerms, "from 0 to 1"),
        ({"explore": -0.1}, BadReleaseTerms, "from 0 to 1"),
        ({"inputs": ["one"]}, BadArtifact, "takes 2 inputs but 1 are named"),
        ({"inputs": ["x", "x"]}, BadArtifact, "the same name"),
        ({"file": MODELS / "none.mlmodel"}, BadArtifact, "No such file"),
        ({"file": MODELS / "expected.json"}, BadArtifact, "not a Core ML model"),
        ({"format": "onnx"}, BadArtifact, "not an ONNX model"),
        ({"format": "opaque", "probes": [Probe([0.5] * 20_000, {})]}, BadReleaseTerms, "and devices read 65536"),
    ],
)
async def test_what_cannot_be_published_says_why(
    store: Store, terms: dict[str, Any], error: type[ReleaseError], why: str
) -> None:
    with pytest.raises(error, match=why):
        await publish(store, **terms)
    assert await store.names("catalogues") == []
    assert await store.names("artifacts") == []


async def test_anything_can_be_published_as_opaque(store: Store, tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"\x00\x01\x02")
    (release,) = (await publish(store, file, format="opaque", inputs=["a"], threshold=0.6)).releases
    assert (release.format, release.inputs, release.probe) == ("opaque", ["a"], [])
    assert release.parameters == Parameters(threshold=0.6, explore=0.0)
    assert [download.encoding for download in release.downloads] == ["identity"]  # xz would be larger


async def test_a_core_ml_file_says_which_ios_it_needs(store: Store, tmp_path: Path) -> None:
    newer = tmp_path / "newer.mlmodel"
    newer.write_bytes(b"\x08\x05" + FIRST.read_bytes().removeprefix(b"\x08\x01"))
    await publish(store)
    releases = (await publish(store, newer)).releases
    assert [release.os for release in releases] == ["iOS >=14", "iOS >=11"]


async def test_the_facts_are_read_from_the_stored_artifact(store: Store, tmp_path: Path) -> None:
    (release,) = (await publish(store)).releases
    facts = await facts_of(store, release)
    assert facts is not None
    assert (facts.specification, facts.labels) == (1, ["Dismissed", "Purchased"])
    (opaque,) = (await publish(store, FIRST, model="other", format="opaque")).releases
    assert await facts_of(store, opaque) is None
    (tmp_path / "store" / "artifacts" / release.sha256).write_bytes(b"damaged")
    assert await facts_of(store, release) is None


async def test_the_newest_catalogue_of_each_model_is_listed(store: Store) -> None:
    await create_app(store, "other", NOW_MS)
    await publish(store)
    newest = [await publish(store), await publish(store, model="churn"), await publish(store, app="other")]
    assert await list_releases(store) == [newest[2], newest[1], newest[0]]
    assert await list_releases(store, "shop") == [newest[1], newest[0]]
    assert await list_releases(store, "shop", "upsell") == [newest[0]]
    assert await list_releases(store, "nobody") == []


async def test_a_catalogue_expires_when_it_was_asked_to(store: Store) -> None:
    catalogue = await publish(store, expires_in_days=30)
    assert (catalogue.issued_at, catalogue.expires_at) == (NOW_MS, NOW_MS + 30 * 86_400_000)


async def test_the_signed_bytes_are_what_is_stored(store: Store) -> None:
    catalogue = await publish(store)
    stored = await store.get("catalogues/shop/upsell/0000000001.json")
    signed, read = read_catalogue(stored, "shop", "upsell", 1)
    assert read == catalogue
    KEY.public_key().verify(signed.signatures[0].sig, b"catalogue/v1\n" + signed.document)


async def test_an_app_key_is_shown_once_and_stored_as_its_hash(tmp_path: Path) -> None:
    store = Store.open(tmp_path.as_uri())
    key = await create_app(store, "shop", NOW_MS)
    name, _, secret = key.partition(".")
    assert (name, len(secret)) == ("shop", 43)
    document = await store.get("apps/shop/0000000001.json")
    assert hash_key(key).encode() in document
    assert secret.encode() not in document


async def test_an_app_is_made_once(store: Store) -> None:
    with pytest.raises(AppExists, match="'shop' exists already"):
        await create_app(store, "shop", NOW_MS)
    with pytest.raises(BadName):
        await create_app(store, "Shop.de", NOW_MS)


async def test_keys_are_added_and_revoked_and_their_history_stays(store: Store) -> None:
    second = await add_key(store, "shop", NOW_MS + 1)
    first = (await load_app(store, "shop")).keys[0].sha256
    await revoke_key(store, "shop", second, NOW_MS + 2)
    app = await revoke_key(store, "shop", first, NOW_MS + 3)
    assert [key.revoked_at for key in app.keys] == [NOW_MS + 3, NOW_MS + 2]
    again = await revoke_key(store, "shop", second, NOW_MS + 9)
    assert again.keys == app.keys
    assert await list_apps(store) == [again]
    with pytest.raises(UnknownApp, match="no such key"):
        await revoke_key(store, "shop", "shop.unknown", NOW_MS)


def test_a_key_pair_is_written_for_its_owner_alone_and_never_over_another(tmp_path: Path) -> None:
    path = tmp_path / "release"
    public = generate_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_public(public_path(path)) == public == public_bytes(load_private(path))
    assert public_path(path).read_text() == base64.b64encode(public).decode() + "\n"
    with pytest.raises(BadKey, match="never overwritten"):
        generate_key(path)
    assert public_bytes(load_private(path)) == public
    path.unlink()
    with pytest.raises(BadKey, match="never overwritten"):
        generate_key(path)
    assert not path.exists()


def test_a_bad_key_file_says_what_it_is(tmp_path: Path) -> None:
    rsa = tmp_path / "rsa"
    pem = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    rsa.write_bytes(pem)
    (tmp_path / "text").write_text("hello")
    (tmp_path / "short.pub").write_text("aGVsbG8=\n")
    for path, why in (
        (rsa, "not an Ed25519"),
        (tmp_path / "text", "not a private key"),
        (tmp_path / "no", "cannot read"),
    ):
        with pytest.raises(BadKey, match=why):
            load_private(path)
    for name, why in (("short.pub", "5 bytes instead of 32"), ("rsa", "one line of base64")):
        with pytest.raises(BadKey, match=why):
            load_public(tmp_path / name)
