"""`backhaul release`: sign and publish model releases, and list them."""

from argparse import Namespace
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.cli.options import Nouns, add_command, add_noun, configuration, now_ms
from gateway.cli.printing import moment, show, show_table
from gateway.cli.storing import with_store

if TYPE_CHECKING:
    from gateway.releases.store import Store
    from schemas.releases import Catalogue


def register(nouns: Nouns) -> None:
    """Add the noun and its verbs."""
    verbs = add_noun(nouns, "release", "model releases")
    _add_publish(verbs)
    listing = add_command(verbs, "list", _list, "list what is published")
    listing.add_argument("--app", metavar="A")
    listing.add_argument("--model", metavar="M")


def _add_publish(verbs: Nouns) -> None:
    publish = add_command(verbs, "publish", _publish, "check, sign and publish a model file as the next release")
    publish.add_argument("--app", required=True, metavar="A")
    publish.add_argument("--model", required=True, metavar="M")
    publish.add_argument("--file", required=True, metavar="F", type=Path, help="the model's artifact")
    publish.add_argument("--sdk", required=True, metavar="SPEC", help="which SDKs can run it, such as '>=2.3,<3'")
    publish.add_argument("--sign", required=True, metavar="FILE", type=Path, help="the private key")
    publish.add_argument("--threshold", type=float, metavar="P", help="the score from which the app says yes")
    publish.add_argument("--explore", type=float, metavar="P", help="the share of random decisions")
    publish.add_argument("--inputs", default="", metavar="A,B", help="the signals that it reads, in order")
    publish.add_argument("--format", default="mlmodel", choices=("mlmodel", "onnx", "opaque"))
    publish.add_argument("--release", type=int, metavar="N", help="the release's number (default: the next)")
    publish.add_argument("--floor", type=int, default=0, metavar="N", help="no release below this ever runs again")
    trust_help = "a public key that may have signed the catalogue before, beside the signing key's own"
    publish.add_argument("--trust", action="append", default=[], metavar="FILE", type=Path, help=trust_help)
    publish.add_argument(
        "--expires-in-days", type=int, default=90, metavar="D", help="how long it may be installed (90)"
    )


def _publish(arguments: Namespace) -> int:
    from gateway.releases.keys import load_private, load_public
    from gateway.releases.publish import publish_release

    def publish(store: "Store") -> "Coroutine[Any, Any, Catalogue]":
        return publish_release(
            store,
            app=arguments.app,
            model=arguments.model,
            file=arguments.file,
            sdk=arguments.sdk,
            signing_key=load_private(arguments.sign),
            now_ms=now_ms(),
            threshold=arguments.threshold,
            explore=arguments.explore,
            inputs=[name.strip() for name in arguments.inputs.split(",") if name.strip()],
            format=arguments.format,
            release=arguments.release,
            floor=arguments.floor,
            expires_in_days=arguments.expires_in_days,
            trusted=[load_public(path) for path in arguments.trust],
        )

    catalogue = with_store(configuration(arguments), publish)
    number, newest = catalogue.number, catalogue.releases[0]
    data = {"app": catalogue.app, "model": catalogue.model, "catalogue": number, "release": newest.release}
    text = f"published {catalogue.app}/{catalogue.model} release {newest.release} in catalogue {number}"
    show(arguments, data | {"sha256": newest.sha256}, text)
    return 0


def _list(arguments: Namespace) -> int:
    from gateway.releases.publish import list_releases

    app, model = arguments.app, arguments.model
    catalogues = with_store(configuration(arguments), lambda store: list_releases(store, app, model))
    if arguments.json:
        show(arguments, catalogues, "")
        return 0
    rows: list[tuple[Any, ...]] = [
        (c.app, c.model, r.release, r.sdk, r.format, r.size, r.parameters.threshold, c.number, moment(c.expires_at))
        for c in catalogues
        for r in c.releases
    ]
    columns = ("app", "model", "release", "sdk", "format", "bytes", "threshold", "catalogue", "expires")
    show_table(arguments, columns, rows, "no releases: see backhaul release publish --help")
    return 0
