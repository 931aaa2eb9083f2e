"""A profile as TOML text, in the order and units of its fields."""

from __future__ import annotations

import datetime as dt
import json

import msgspec

from device_profiles.schema import DeviceProfile

__all__ = ["to_toml"]


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
    return [f"{_key(k)} = {_value(v)}" for k, v in table.items() if v is not None]


def _key(key: str) -> str:
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else _quoted(key)


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case dt.date():
            return value.isoformat()
        case list() | tuple():
            return f"[{', '.join(_value(item) for item in value)}]"
        case _:
            return _quoted(str(value))


def _quoted(text: str) -> str:
    """A TOML basic string takes JSON's escapes; JSON leaves DEL bare, TOML does not."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
