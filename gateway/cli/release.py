"""`backhaul release`: sign and publish model releases, and list them."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.failures import DONE, FAILED, CommandError, Misused
from gateway.cli.options import Nouns, add_command, add_noun, configuration, now_ms, whole
from gateway.cli.printing import moment, note, show, show_table
from gateway.cli.storing import change_store, with_store

if TYPE_CHECKING:
    from gateway.releases.facts import Facts
    from gateway.releases.store import Store
    from schemas.releases import Catalogue, Probe


def register(nouns: Nouns) -> None:
    """Add the noun and its verbs."""
    verbs = add_noun(nouns, "release", "model releases")
    publish = add_command(verbs, "publish", _publish, "check, sign and publish a model file as the next release")
    _add_file(publish)
    _add_private(publish)
    prepare = add_command(verbs, "prepare", _prepare, "do all of publish but sign: write the bytes to sign to a file")
    _add_file(prepare)
    _add_out(prepare)
    revoke = add_command(verbs, "revoke", _revoke, "take releases back for good: raise the floor, or unlist some")
    _add_amended(revoke)
    revoke.add_argument("--below", type=whole(1), default=0, metavar="N", help="no release below this ever runs again")
    revoke.add_argument("--release", type=whole(1), action="append", default=[], metavar="N", help="unlist this one")
    _add_amended(add_command(verbs, "renew", _renew, "sign the same catalogue again, with a later end or another key"))
    attach = add_command(verbs, "attach", _attach, "publish prepared bytes with the signature that was made elsewhere")
    attach.add_argument("--bytes", required=True, metavar="FILE", type=Path, help="what `prepare` wrote")
    attach.add_argument("--signature", required=True, metavar="FILE", type=Path, help="64 raw bytes, or their base64")
    attach.add_argument("--key", required=True, metavar="FILE.pub", type=Path, help="the public half of the key")
    verify = add_command(verbs, "verify", _verify, "check a store end to end, as devices will find it")
    verify.add_argument("--app", metavar="A")
    add_roots(verify)
    listing = add_command(verbs, "list", _list, "list what is published")
    listing.add_argument("--app", metavar="A")
    listing.add_argument("--model", metavar="M")


def add_roots(command: ArgumentParser) -> None:
    """Add the root keys that devices hold."""
    root_help = "a root key's public half, as apps embed it; with it, keys that it has listed are believed"
    command.add_argument("--root", action="append", default=[], metavar="FILE.pub", type=Path, help=root_help)
    threshold_help = "how many roots apps ask for (1)"
    command.add_argument("--root-threshold", type=whole(1), default=1, metavar="N", help=threshold_help)


def _add_model(command: ArgumentParser) -> None:
    command.add_argument("--app", required=True, metavar="A")
    command.add_argument("--model", required=True, metavar="M")
    trust_help = "a public key that may have signed the catalogue before, beside the signing key's own"
    command.add_argument("--trust", action="append", default=[], metavar="FILE", type=Path, help=trust_help)
    add_roots(command)
    command.add_argument(
        "--expires-in-days", type=int, default=90, metavar="D", help="how long it may be installed (90)"
    )


def _add_file(publish: ArgumentParser) -> None:
    _add_model(publish)
    publish.add_argument("--file", required=True, metavar="F", type=Path, help="the model's artifact")
    publish.add_argument("--sdk", required=True, metavar="SPEC", help="which SDKs can run it, such as '>=2.3,<3'")
    publish.add_argument("--threshold", type=float, metavar="P", help="the score from which the app says yes")
    publish.add_argument("--explore", type=float, metavar="P", help="the share of random decisions")
    publish.add_argument("--inputs", default="", metavar="A,B", help="the signals that it reads, in order")
    probes_help = (
        'golden vectors as JSON, [{"input": [0.5], "output": {"label": 0.4}}] (default: computed, where it can be)'
    )
    publish.add_argument("--probes", metavar="FILE", type=Path, help=probes_help)
    urgent_help = "devices download it also while power is low or the network expensive"
    publish.add_argument("--urgent", action="store_true", help=urgent_help)
    publish.add_argument("--format", default="mlmodel", choices=("mlmodel", "onnx", "opaque"))
    publish.add_argument("--release", type=int, metavar="N", help="the release's number (default: the next)")
    again_help = "even when the newest release is this very file with the same terms"
    publish.add_argument("--again", action="store_true", help=again_help)
    publish.add_argument("--floor", type=int, default=0, metavar="N", help="no release below this ever runs again")


def _add_private(command: ArgumentParser) -> None:
    command.add_argument("--sign", required=True, metavar="FILE", type=Path, help="the private key")


def _add_out(command: ArgumentParser) -> None:
    command.add_argument("--out", required=True, metavar="FILE", type=Path, help="where the bytes to sign go")


def _add_amended(command: ArgumentParser) -> None:
    _add_model(command)
    way = command.add_mutually_exclusive_group(required=True)
    way.add_argument("--sign", metavar="FILE", type=Path, help="the private key")
    way.add_argument("--out", metavar="FILE", type=Path, help="sign elsewhere: where the bytes to sign go")


async def _believed(store: "Store", arguments: Namespace) -> list[bytes]:
    """Return the public keys that may have signed the catalogue before."""
    from gateway.releases.keylists import keyring_of
    from gateway.releases.keys import load_public

    given = [load_public(path) for path in arguments.trust]
    if not arguments.root:
        return given
    ring = await keyring_of(store, arguments.app, [load_public(p) for p in arguments.root], arguments.root_threshold)
    return [*given, *ring.trusted().values()]


def _terms(arguments: Namespace) -> dict[str, Any]:
    return {
        "app": arguments.app,
        "model": arguments.model,
        "file": arguments.file,
        "sdk": arguments.sdk,
        "now_ms": now_ms(),
        "threshold": arguments.threshold,
        "explore": arguments.explore,
        "urgent": arguments.urgent,
        "inputs": [name.strip() for name in arguments.inputs.split(",") if name.strip()],
        "probes": _probes(arguments.probes),
        "format": arguments.format,
        "release": arguments.release,
        "floor": arguments.floor,
        "expires_in_days": arguments.expires_in_days,
        "again": arguments.again,
    }


def _probes(file: Path | None) -> "list[Probe]":
    import msgspec

    from schemas.releases import Probe

    if file is None:
        return []
    try:
        return msgspec.json.decode(file.read_bytes(), type=list[Probe])
    except OSError as error:
        raise CommandError(f"cannot read {file}: {error.strerror}") from error
    except ValueError as error:
        raise CommandError(f"{file} holds no golden vectors: {error}") from error


def _publish(arguments: Namespace) -> int:
    from gateway.releases.catalogues import every_catalogue, taken_back
    from gateway.releases.documents import CATALOGUES, Series
    from gateway.releases.keys import load_private, public_bytes
    from gateway.releases.publish import facts_of, publish_release
    from gateway.releases.rollouts import standing

    async def publish(store: "Store") -> "tuple[Catalogue, bool, Facts | None, list[int]]":
        signing_key, believed = load_private(arguments.sign), await _believed(store, arguments)
        catalogue = await publish_release(store, signing_key=signing_key, trusted=believed, **_terms(arguments))
        steered = (await standing(store, arguments.app, arguments.model)).rollout is not None
        series, newest = Series(CATALOGUES, arguments.app, arguments.model), catalogue.releases[0]
        history = await every_catalogue(store, series, [public_bytes(signing_key), *believed])
        return catalogue, steered, await facts_of(store, newest), taken_back(history, newest.sha256)

    catalogue, steered, facts, revoked = change_store(configuration(arguments), publish)
    number, newest = catalogue.number, catalogue.releases[0]
    data = {"app": catalogue.app, "model": catalogue.model, "catalogue": number, "release": newest.release}
    text = f"published {catalogue.app}/{catalogue.model} release {newest.release} in catalogue {number}"
    terms = {"sha256": newest.sha256, "sdk": newest.sdk, "os": newest.os, "inputs": newest.inputs, "facts": facts}
    show(arguments, data | terms, text + (f"\n{_described(facts)}" if facts else ""))
    if revoked:
        before = ", ".join(map(str, revoked))
        note(f"these very bytes were revoked as release {before}: devices may run them again now, as {newest.release}")
    if number > 1 and not steered:
        note("every device that can run it gets it at its next flush; to stage the next one: backhaul rollout hold")
    return 0


def _described(facts: "Facts") -> str:
    """Say in a line or two what a file takes and gives."""
    ways = [
        f"{way} {', '.join(f'{each.name}: {each.type}{each.shape or str()}' for each in features)}"
        for way, features in (("takes", facts.inputs), ("gives", facts.outputs))
    ]
    made = [f"opset {name} {version}" for name, version in facts.opsets.items()]
    made += [f"specification version {facts.specification}"] if facts.specification else []
    made += [f"labels {', '.join(facts.labels)}"] if facts.labels else []
    needs = [f"needs {facts.os}"] if facts.os else []
    return "; ".join([f"{facts.type}, {', '.join(made)}", *ways, *needs])


def _prepare(arguments: Namespace) -> int:
    from gateway.releases.publish import prepare_release

    async def prepare(store: "Store") -> bytes:
        return await prepare_release(store, trusted=await _believed(store, arguments), **_terms(arguments))

    return _write_bytes(arguments, with_store(configuration(arguments), prepare))


def _revoke(arguments: Namespace) -> int:
    if not arguments.below and not arguments.release:
        raise Misused("say which: --below N for all below, --release N for one")
    return _amend(arguments, arguments.below, arguments.release)


def _renew(arguments: Namespace) -> int:
    return _amend(arguments, 0, [])


def _amend(arguments: Namespace, below: int, unlist: list[int]) -> int:
    from gateway.releases.catalogues import amended, attach
    from gateway.releases.keys import load_private, public_bytes, sign

    async def amend(store: "Store") -> "bytes | Catalogue":
        key = load_private(arguments.sign) if arguments.sign else None
        own = [public_bytes(key)] if key else []
        document = await amended(
            store,
            arguments.app,
            arguments.model,
            trusted=[*own, *await _believed(store, arguments)],
            revoke_below=below,
            unlist=unlist,
            expires_in_days=arguments.expires_in_days,
            now_ms=now_ms(),
        )
        return document if key is None else await attach(store, document, sign(key, document), own[0])

    config = configuration(arguments)
    done = with_store(config, amend) if arguments.out else change_store(config, amend)
    return _write_bytes(arguments, done) if isinstance(done, bytes) else _show_catalogue(arguments, done)


def _attach(arguments: Namespace) -> int:
    from gateway.releases.catalogues import attach
    from gateway.releases.keys import key_name, load_public, load_signature
    from schemas.releases import CATALOGUE_CONTEXT
    from schemas.wire import Signature

    prepared = read_prepared(arguments.bytes, CATALOGUE_CONTEXT)

    async def attached(store: "Store") -> "Catalogue":
        public = load_public(arguments.key)
        signature = Signature(key_name(public), load_signature(arguments.signature))
        return await attach(store, prepared, signature, public)

    return _show_catalogue(arguments, change_store(configuration(arguments), attached))


def read_prepared(path: Path, context: bytes) -> bytes:
    """Read a file of bytes to sign; return the document. Raises `CommandError`."""
    try:
        prepared = path.read_bytes()
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from error
    if not prepared.startswith(context):
        raise CommandError(f"{path} does not begin with {context.decode().strip()}: give the file that was prepared")
    return prepared.removeprefix(context)


def _write_bytes(arguments: Namespace, document: bytes) -> int:
    from gateway.releases.catalogues import to_sign

    try:
        arguments.out.write_bytes(to_sign(document))
    except OSError as error:
        raise CommandError(f"cannot write {arguments.out}: {error.strerror}") from error
    text = f"sign {arguments.out} with Ed25519, then: backhaul release attach --bytes {arguments.out} --signature ..."
    show(arguments, {"bytes": str(arguments.out)}, text)
    return 0


def _show_catalogue(arguments: Namespace, catalogue: "Catalogue") -> int:
    listed = [release.release for release in catalogue.releases]
    place = {"app": catalogue.app, "model": catalogue.model, "catalogue": catalogue.number}
    text = f"{catalogue.app}/{catalogue.model} catalogue {catalogue.number}: floor {catalogue.floor}, releases "
    show(
        arguments,
        place | {"floor": catalogue.floor, "releases": listed},
        text + (", ".join(map(str, listed)) or "none"),
    )
    return 0


def _verify(arguments: Namespace) -> int:
    from gateway.releases.audit import Finding, examine
    from gateway.releases.keys import load_public

    async def verify(store: "Store") -> list[Finding]:
        roots = [load_public(path) for path in arguments.root]
        found = examine(store, app=arguments.app, roots=roots, threshold=arguments.root_threshold, now_ms=now_ms())
        return [finding async for finding in found]

    findings = with_store(configuration(arguments), verify, app=arguments.app)
    rows = [(finding.level, finding.path, finding.text) for finding in findings]
    unsigned = "" if arguments.root else "; signatures were not judged: give the root keys with --root"
    show_table(arguments, ("level", "path", "text"), rows, f"the store is sound{unsigned}")
    return FAILED if any(finding.level == "fail" for finding in findings) else DONE


def _list(arguments: Namespace) -> int:
    from gateway.releases.publish import facts_of, list_releases

    app, model = arguments.app, arguments.model

    async def listed(store: "Store") -> "list[tuple[Catalogue, list[Facts | None]]]":
        # Facts are read from the artifacts themselves: only who asks for all of it waits for that.
        found = await list_releases(store, app, model)
        return [(c, [await facts_of(store, r) for r in c.releases] if arguments.json else []) for c in found]

    catalogues = with_store(configuration(arguments), listed, app=app)
    if arguments.json:
        show(arguments, [_with_facts(*each) for each in catalogues], "")
        return 0
    rows: list[tuple[Any, ...]] = [
        (
            c.app,
            c.model,
            r.release,
            r.sdk,
            r.os,
            r.format,
            ", ".join(r.inputs),
            r.size,
            r.parameters.threshold,
            c.number,
            moment(c.expires_at),
        )
        for c, _ in catalogues
        for r in c.releases
    ]
    columns = ("app", "model", "release", "sdk", "os", "format", "inputs", "bytes", "threshold", "catalogue", "expires")
    show_table(arguments, columns, rows, "no releases: see backhaul release publish --help")
    return 0


def _with_facts(catalogue: "Catalogue", facts: "list[Facts | None]") -> dict[str, Any]:
    import msgspec

    releases = [msgspec.to_builtins(r) | {"facts": each} for r, each in zip(catalogue.releases, facts, strict=True)]
    return {**msgspec.to_builtins(catalogue), "releases": releases}
