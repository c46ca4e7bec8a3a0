"""Settings in words: what each takes, and the tables of deploy/configuration.md and gateway/client/LIMITS.md."""

from collections.abc import Callable, Mapping
from typing import Final

from msgspec.inspect import FloatType, IntType, LiteralType, Metadata, type_info
from msgspec.structs import FieldInfo

_UNITS: Final = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def allowed(field: FieldInfo) -> str:
    """Say in words which values the key takes."""
    kind, extra = _kind(field)
    if isinstance(kind, IntType | FloatType):
        noun = "a whole number" if isinstance(kind, IntType) else "a number"
        return f"{noun} from {kind.ge} to {kind.le}"
    if isinstance(kind, LiteralType):
        return "one of " + ", ".join(map(str, kind.values))
    return str(extra["allowed"])


def is_secret(field: FieldInfo) -> bool:
    """Say whether the key's value must not be printed."""
    return bool(_kind(field)[1].get("secret"))


def markdown_table(keys: Mapping[str, FieldInfo], variable: Callable[[str], str] | None = None) -> str:
    """Render every key as a Markdown table, with its variable where it has one."""
    columns = ["key", *(["variable"] if variable else []), "default", "allowed", "what it is"]
    rows = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for key, field in keys.items():
        in_bytes = isinstance(_kind(field)[0], IntType) and key.endswith("_bytes")
        default = _default_text(field.default, in_bytes=in_bytes)
        named = f"`{key}` | `{variable(key)}`" if variable else f"`{key}`"
        rows.append(f"| {named} | {default} | {allowed(field)} | {_description(field)} |")
    return "\n".join(rows) + "\n"


def _kind(field: FieldInfo) -> tuple[object, Mapping[str, object]]:
    """Return the key's type with its bounds, and what its Meta says beside them."""
    info = type_info(field.type)
    if isinstance(info, Metadata):
        return info.type, info.extra or {}
    return info, {}


def _description(field: FieldInfo) -> str:
    info = type_info(field.type)
    schema = info.extra_json_schema if isinstance(info, Metadata) else None
    return str((schema or {})["description"])


def _default_text(default: object, *, in_bytes: bool) -> str:
    if default == "":
        return "empty"
    if in_bytes and isinstance(default, int):
        for unit, name in _UNITS:
            if default and default % unit == 0:
                return f"`{default}` ({default // unit} {name})"
    return f"`{default}`"
