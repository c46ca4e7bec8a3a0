"""`backhaul app`: who may send, by app key."""

from argparse import Namespace

from gateway.cli.options import Nouns, add_command, add_noun, configuration, now_ms
from gateway.cli.printing import moment, note, show, show_table
from gateway.cli.storing import change_store, with_store


def register(nouns: Nouns) -> None:
    """Add the noun and its verbs."""
    verbs = add_noun(nouns, "app", "apps and their keys")
    create = add_command(verbs, "create", _create, "make an app and print its key, once")
    create.add_argument("name", metavar="NAME")
    another = add_command(
        verbs, "add-key", _add_key, "give an app another key, beside those it has, and print it, once"
    )
    another.add_argument("name", metavar="NAME")
    add_command(verbs, "list", _list, "list apps and their keys")
    revoke = add_command(verbs, "revoke", _revoke, "revoke a key of an app")
    revoke.add_argument("name", metavar="NAME")
    revoke.add_argument("key", metavar="KEY", help="the key, or its SHA-256 as `app list` shows it")


def _create(arguments: Namespace) -> int:
    from gateway.releases.apps import create_app

    key = change_store(configuration(arguments), lambda store: create_app(store, arguments.name, now_ms()), makes=True)
    return _show_key(arguments, key)


def _add_key(arguments: Namespace) -> int:
    from gateway.releases.apps import add_key

    key = change_store(configuration(arguments), lambda store: add_key(store, arguments.name, now_ms()))
    return _show_key(arguments, key)


def _show_key(arguments: Namespace, key: str) -> int:
    show(arguments, {"app": arguments.name, "key": key}, key)
    note("keep this key: it is shown once, only its SHA-256 is stored")
    return 0


def _list(arguments: Namespace) -> int:
    from gateway.releases.apps import list_apps

    apps = with_store(configuration(arguments), list_apps)
    if arguments.json:
        show(arguments, apps, "")
        return 0
    rows = [(app.app, key.sha256, moment(key.created_at), moment(key.revoked_at)) for app in apps for key in app.keys]
    show_table(arguments, ("app", "key sha256", "created", "revoked"), rows, "no apps yet: backhaul app create NAME")
    return 0


def _revoke(arguments: Namespace) -> int:
    from gateway.releases.apps import revoke_key

    config, name, key = configuration(arguments), arguments.name, arguments.key
    change_store(config, lambda store: revoke_key(store, name, key, now_ms()))
    show(arguments, {"app": arguments.name, "revoked": True}, "revoked; gateways refuse it after their next refresh")
    return 0
