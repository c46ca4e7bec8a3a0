"""`backhaul key`: the signing keys of releases, which live with the publisher and never on a gateway."""

from argparse import Namespace
from pathlib import Path

from gateway.cli.failures import CommandError
from gateway.cli.options import Nouns, add_command, add_noun
from gateway.cli.printing import show


def register(nouns: Nouns) -> None:
    """Add the noun and its verbs."""
    verbs = add_noun(nouns, "key", "keys that sign releases")
    generate = add_command(
        verbs, "generate", _generate, "make an Ed25519 key pair: FILE and FILE.pub", configured=False
    )
    generate.add_argument("file", metavar="FILE", type=Path)


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
