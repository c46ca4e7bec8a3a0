"""`backhaul key`: the signing keys of releases, which live with the publisher and never on a gateway."""

from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.cli.failures import CommandError, Misused
from gateway.cli.options import Nouns, add_command, add_noun, configuration, now_ms, whole
from gateway.cli.printing import moment, note, show, show_table
from gateway.cli.release import read_prepared
from gateway.cli.storing import change_store, with_store

if TYPE_CHECKING:
    from gateway.releases.store import Store
    from schemas.releases import KeyList

_ROOT_HELP: Final = "a root key's public half"


def register(nouns: Nouns) -> None:
    """Add the noun and its verbs."""
    verbs = add_noun(nouns, "key", "keys that sign releases")
    generate = add_command(
        verbs, "generate", _generate, "make an Ed25519 key pair: FILE and FILE.pub", configured=False
    )
    generate.add_argument("file", metavar="FILE", type=Path)
    rotate = add_command(verbs, "rotate", _rotate, "write the next list of release keys, signed by root keys")
    rotate.add_argument("--app", required=True, metavar="A")
    root_help = "a root key; as many as the threshold"
    rotate.add_argument("--sign", action="append", default=[], metavar="ROOT", type=Path, help=root_help)
    rotate.add_argument("--root", action="append", default=[], metavar="ROOT.pub", type=Path, help=_ROOT_HELP)
    rotate.add_argument("--add", action="append", default=[], metavar="FILE.pub", type=Path, help="list this key")
    rotate.add_argument("--remove", action="append", default=[], metavar="NAME", help="list this key no longer")
    floor_help = "no release below N ever runs again, whichever key signs; it stays in every list that follows"
    rotate.add_argument("--floor", action="append", default=[], metavar="MODEL=N", type=floor_of, help=floor_help)
    threshold_help = "how many root keys must sign this list and the next (default: as before, or 1)"
    rotate.add_argument("--threshold", type=whole(1), metavar="N", help=threshold_help)
    rotate.add_argument("--expires-in-days", type=int, default=365, metavar="D", help="how long it holds (365)")
    rotate.add_argument("--out", metavar="FILE", type=Path, help="sign elsewhere: where the bytes to sign go")
    attach = add_command(verbs, "attach", _attach, "write a prepared list with the signatures that were made elsewhere")
    attach.add_argument("--bytes", required=True, metavar="FILE", type=Path, help="what `rotate --out` wrote")
    signature_help = "64 raw bytes or their base64; one for each --root, in the same order"
    attach.add_argument("--signature", required=True, action="append", metavar="FILE", type=Path, help=signature_help)
    attach.add_argument("--root", required=True, action="append", metavar="ROOT.pub", type=Path, help=_ROOT_HELP)
    listing = add_command(verbs, "list", _list, "show the release keys that an app's devices believe")
    listing.add_argument("--app", required=True, metavar="A")
    listing.add_argument("--root", action="append", default=[], metavar="ROOT.pub", type=Path, help=_ROOT_HELP)


def floor_of(text: str) -> tuple[str, int]:
    """Read a model and the release below which nothing of it may run."""
    from schemas.wire import LARGEST_UINT32

    model, _, number = text.partition("=")
    if not (model and number.isascii() and number.isdigit() and int(number) <= LARGEST_UINT32):
        raise ArgumentTypeError(f"{text!r} is not MODEL=N, such as upsell=42")
    return model, int(number)


def _generate(arguments: Namespace) -> int:
    from gateway.releases.errors import ReleaseError
    from gateway.releases.keys import generate_key, key_name, public_path

    path: Path = arguments.file
    try:
        name = key_name(generate_key(path))
    except ReleaseError as error:
        raise CommandError(str(error)) from error
    public = public_path(path)
    text = f"key {name}: {path} (keep it secret, off the servers), {public} (goes into the app)"
    show(arguments, {"key": name, "private": str(path), "public": str(public)}, text)
    return 0


def _rotate(arguments: Namespace) -> int:
    from gateway.releases.keylists import next_keys, write_keys
    from gateway.releases.keys import load_private, load_public, public_bytes, sign
    from schemas.releases import KEYS_CONTEXT

    if bool(arguments.sign) == bool(arguments.out):
        raise Misused("either sign here with --sign, once for each root key, or elsewhere with --out and --root")

    async def rotate(store: "Store") -> "bytes | KeyList":
        private = [load_private(path) for path in arguments.sign]
        roots = [*map(public_bytes, private), *(load_public(path) for path in arguments.root)]
        document = await next_keys(
            store,
            arguments.app,
            roots=roots,
            add=[load_public(path) for path in arguments.add],
            remove=arguments.remove,
            threshold=arguments.threshold,
            expires_in_days=arguments.expires_in_days,
            now_ms=now_ms(),
            floors=dict(arguments.floor),
        )
        if arguments.out:
            return document
        return await write_keys(store, document, [sign(key, document, KEYS_CONTEXT) for key in private], roots)

    config = configuration(arguments)
    done = with_store(config, rotate) if arguments.out else change_store(config, rotate)
    if not isinstance(done, bytes):
        return _show_list(arguments, done)
    try:
        arguments.out.write_bytes(KEYS_CONTEXT + done)
    except OSError as error:
        raise CommandError(f"cannot write {arguments.out}: {error.strerror}") from error
    text = f"sign {arguments.out} with Ed25519, then: backhaul key attach --bytes {arguments.out} --signature ..."
    show(arguments, {"bytes": str(arguments.out)}, text)
    return 0


def _attach(arguments: Namespace) -> int:
    from gateway.releases.keylists import write_keys
    from gateway.releases.keys import key_name, load_public, load_signature
    from schemas.releases import KEYS_CONTEXT
    from schemas.wire import Signature

    if len(arguments.signature) != len(arguments.root):
        raise Misused("give one --signature for each --root, in the same order")
    document = read_prepared(arguments.bytes, KEYS_CONTEXT)

    async def attach(store: "Store") -> "KeyList":
        roots = [load_public(path) for path in arguments.root]
        pairs = zip(roots, arguments.signature, strict=True)
        signatures = [Signature(key_name(root), load_signature(path)) for root, path in pairs]
        return await write_keys(store, document, signatures, roots)

    return _show_list(arguments, change_store(configuration(arguments), attach))


def _show_list(arguments: Namespace, keys: "KeyList") -> int:
    from gateway.releases.keys import key_name

    names = [key_name(key) for key in keys.keys]
    data = {"app": keys.app, "version": keys.version, "threshold": keys.threshold, "keys": names}
    text = f"key list {keys.version} of {keys.app}: {', '.join(names) or 'no key'}{_floors_text(keys)}"
    show(arguments, data | {"expires_at": keys.expires_at, "floors": keys.floors}, text)
    if keys.version > 1 and not getattr(arguments, "remove", True):
        return 0  # whoever was believed still is
    note(
        "catalogues signed by a key that is not listed are void now: sign them again with 'release renew'. Without a "
        "gap it goes in three steps: rotate --add the new key, renew with it, rotate --remove the old one"
    )
    return 0


def _floors_text(keys: "KeyList") -> str:
    return "".join(f"; {model} from release {floor} on" for model, floor in keys.floors.items())


def _list(arguments: Namespace) -> int:
    from gateway.releases.keylists import keyring_of, newest_keys
    from gateway.releases.keys import key_name, load_public

    async def find(store: "Store") -> "KeyList | None":
        if arguments.root:
            await keyring_of(store, arguments.app, [load_public(path) for path in arguments.root])
        found = await newest_keys(store, arguments.app)
        return found[1] if found else None

    keys = with_store(configuration(arguments), find, app=arguments.app)
    if keys is None:
        show_table(arguments, (), [], "no key list: catalogues are signed by a root key itself")
        return 0
    columns = ("key", "version", "threshold", "expires", "floors")
    floors = keys.floors if arguments.json else ", ".join(f"{model} {floor}" for model, floor in keys.floors.items())
    rows = [(key_name(key), keys.version, keys.threshold, moment(keys.expires_at), floors) for key in keys.keys]
    show_table(arguments, columns, rows, f"key list {keys.version} names no key{_floors_text(keys)}")
    return 0
