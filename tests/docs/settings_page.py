"""Every key of every settings file, from the types that read them: docs/settings.md.

Run as a program it writes the page anew.
"""

from __future__ import annotations

import inspect
import re
import typing
from pathlib import Path
from typing import Any

import msgspec

from coordinator.settings import RunSettings
from coordinator.simulation.settings import SimulationSettings
from device_profiles import DeviceProfile
from edge_sdk.settings import DeviceSettings

__all__ = ["PAGE", "keys_of", "page"]

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
FILES: tuple[tuple[str, str, type[msgspec.Struct]], ...] = (
    (
        "device.toml",
        "One device; `flash-edge enroll` writes it, `flash-edge run` reads it.",
        DeviceSettings,
    ),
    (
        "A profile",
        "What a board can do and what its owner lends, named by `profile` of "
        '`device.toml`; `like = "BOARD"` takes all else from the catalogue.',
        DeviceProfile,
    ),
    (
        "run.toml",
        "One run; `flash-coordinator init` writes it, `flash-coordinator run` reads "
        "it.",
        RunSettings,
    ),
    (
        "A simulation",
        "`flash-coordinator simulate FOLDER --settings FILE`.",
        SimulationSettings,
    ),
)
HEAD = """\
# Settings

Every key of every TOML file that is read. This page is written by
`tests/docs/settings_page.py` from the types that read them, and a test holds it to
them. A relative path counts from the folder of its file; an unknown key is refused with
the one that was meant.
"""


def page() -> str:
    """The page."""
    parts = [HEAD]
    for name, what, kind in FILES:
        parts.append(f"\n## {name}\n\n{what}\n")
        for table, struct in tables(kind):
            if table:
                parts.append(f"\n### `{table}`\n")
            parts.append("\n| key | default | meaning |\n|---|---|---|\n")
            parts.extend(_rows(struct))
    return "".join(parts)


def keys_of(kind: type[msgspec.Struct]) -> set[str]:
    """Every key of a file, with the names of its tables."""
    found = set()
    for table, struct in tables(kind):
        found |= set(struct.__struct_encode_fields__) | set(re.findall(r"\w+", table))
    return found


def tables(kind: type[msgspec.Struct], at: str = "") -> list[tuple[str, Any]]:
    """The file's own keys and those of each table in it, such as ``[training]``."""
    found: list[tuple[str, Any]] = [(at, kind)]
    hints = typing.get_type_hints(kind)
    for name in kind.__struct_fields__:
        inner, many = _struct_in(hints[name])
        if inner is not None:
            full = f"{at.strip('[]')}.{name}" if at else name
            found += tables(inner, f"[[{full}]]" if many else f"[{full}]")
    return found


def _struct_in(hint: Any) -> tuple[type[msgspec.Struct] | None, bool]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return hint, False
    for inner in typing.get_args(hint):
        found, many = _struct_in(inner)
        if found is not None:
            return found, many or typing.get_origin(hint) in (list, tuple)
    return None, False


def _rows(struct: Any) -> list[str]:
    told = _meanings(struct)
    rows = []
    for field in msgspec.structs.fields(struct):
        if _struct_in(field.type)[0] is not None:
            continue
        default = "needed" if field.required else f"`{_toml(field.default)}`"
        if field.default_factory is not msgspec.NODEFAULT:
            default = f"`{_toml(field.default_factory())}`"
        rows.append(f"| `{field.encode_name}` | {default} | {told[field.name]} |\n")
    return rows


def _toml(value: object) -> str:
    match value:
        case None | "":
            return "none"
        case tuple():
            return str([*value])
        case bool():
            return str(value).lower()
        case _:
            return str(value)


def _meanings(struct: Any) -> dict[str, str]:
    """Field to what its type's docstring says of it, on one line."""
    text = inspect.cleandoc(struct.__doc__ or "").partition("Attributes:\n")[2]
    text = re.split(r"\n\S", text)[0]
    found: dict[str, str] = {}
    for part in re.split(r"\n(?=    \w+:)", "\n" + text):
        name, _, said = part.strip().partition(":")
        words = " ".join(said.split()).replace("``", "`").replace("|", "\\|")
        found[name] = words
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
