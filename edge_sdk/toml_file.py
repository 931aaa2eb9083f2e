"""TOML files as plain values, and another value of one key in a file's text."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from device_profiles.toml_text import quoted
from edge_sdk.errors import SettingsError, disk_remedy

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["load_toml", "no_number", "numbers_in", "with_key"]


def with_key(text: str, key: str, value: str) -> str:
    r"""TOML text with another value of one of its own keys; all else stays as it is.

    Args:
        text: The file; comments and order are kept.
        key: A plain key outside any table; added there if it is missing.
        value: Its value, a string.

    Raises:
        SettingsError: If the key's value does not stand on one line.

    Example:
        >>> with_key('a = "x"  # why\n[t]\na = 1\n', "a", "y")
        'a = "y"  # why\n[t]\na = 1\n'
    """
    first_table = re.search(r"^[ \t]*\[", text, re.MULTILINE)
    end = len(text) if first_table is None else first_table.start()
    own, rest = text[:end], text[end:]
    start = rf"^([ \t]*{re.escape(key)}[ \t]*=[ \t]*)"
    line = re.compile(start + r"""("[^"\n]*"|'[^'\n]*')(?=[ \t]*(?:#|$))""", re.M)
    written = quoted(value)
    changed, count = line.subn(lambda match: match[1] + written, own, count=1)
    if not count:
        gap = "" if not own or own.endswith("\n") else "\n"
        changed = f"{own}{gap}{key} = {written}\n"
    try:
        tomllib.loads(changed + rest)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(
            f"key {key} cannot be changed in the file: {error}",
            remedy=f"Write {key} = {written} into it yourself.",
        ) from error
    return changed + rest


def load_toml(path: Path) -> dict[str, Any]:
    """Content of a TOML file, as plain values.

    Raises:
        SettingsError: If the file is missing or is not TOML.
    """
    try:
        found: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(
            f"{path} does not exist", remedy="Name the settings file that you mean."
        ) from error
    except OSError as error:
        raise SettingsError(
            f"{path} cannot be read: {error.strerror}", remedy=disk_remedy(error)
        ) from error
    except (ValueError, RecursionError) as error:  # TOML's and Unicode's errors are two
        raise SettingsError(f"{path} is not readable TOML: {error}") from error
    for key, value in numbers_in(found):
        if impossible := no_number(value):
            raise SettingsError(f"{path}: key {key}: {impossible}")
    return found


def numbers_in(value: object, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number in plain values, with its path as TOML writes it.

    Example:
        >>> list(numbers_in({"a": {"b": [1, 2.5]}, "c": True}))
        [('a.b[0]', 1), ('a.b[1]', 2.5)]
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from numbers_in(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from numbers_in(inner, f"{key}[{place}]")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


def no_number(value: float) -> str:
    """The reason why a number cannot be a setting's value; empty if it can.

    What has no place in 64 bits goes into no message, no database and no array.

    Example:
        >>> no_number(10**30), no_number(float("nan")), no_number(7)
        ('it does not fit into 64 bits', 'nan is no number', '')
    """
    if isinstance(value, int):
        return "" if -(1 << 63) <= value < 1 << 63 else "it does not fit into 64 bits"
    return "" if math.isfinite(value) else f"{value} is no number"
