"""A profile as TOML text, in the order and units of its fields; values as TOML."""

from __future__ import annotations

import datetime as dt
import json

import msgspec

from device_profiles.schema import DeviceProfile

__all__ = ["quoted", "to_toml", "value_text"]


def to_toml(profile: DeviceProfile) -> str:
    """TOML that `load_profile` reads back to an equal profile.

    What is unknown is left out, and so are caps that nobody set.

    Example:
        >>> from device_profiles import load_board
        >>> to_toml(load_board("jetson_nano")).splitlines()[0]
        'board = "jetson_nano"'
    """
    data = msgspec.to_builtins(profile, builtin_types=(dt.date,))
    unset = msgspec.to_builtins(type(profile.caps)())
    caps = {k: v for k, v in data.pop("caps").items() if v != unset[k]}
    provenance = data.pop("provenance")
    notes = provenance.pop("notes")
    lines = _pairs(data)
    for name, table in (
        ("caps", caps),
        ("provenance", provenance),
        ("provenance.notes", notes),
    ):
        if table:
            lines += ["", f"[{name}]", *_pairs(table)]
    return "\n".join(lines) + "\n"


def _pairs(table: dict[str, object]) -> list[str]:
    return [f"{_key(k)} = {value_text(v)}" for k, v in table.items() if v is not None]


def _key(key: str) -> str:
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else quoted(key)


def value_text(value: object) -> str:
    """A plain value, or a list of them, as TOML."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case dt.date():
            return value.isoformat()
        case list() | tuple():
            return f"[{', '.join(value_text(item) for item in value)}]"
        case _:
            return quoted(str(value))


def quoted(text: str) -> str:
    """Text as a TOML basic string.

    That has JSON's escapes, but no surrogate pairs (an emoji stays as it is) and no
    bare DEL.

    Example:
        >>> print(quoted("fünf 🏠"))
        "fünf 🏠"
    """
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
