"""JSON that every reader takes: a number that is not finite is written as null.

RFC 8259 has no NaN and no infinity, but Python writes and reads both. A browser, SQLite
before 3.42 and most other parsers refuse the whole document for one of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

__all__ = ["finite", "floats_from_json", "to_json"]


def to_json(
    value: object, *, indent: int | None = None, sort_keys: bool = False
) -> str:
    """A value as strict JSON; finite values have the text that `json.dumps` gives them.

    Args:
        value: Plain values: mappings, lists, tuples, text, numbers, booleans, None.
        indent: Spaces per level; None writes one line.
        sort_keys: Whether keys are in order.

    Raises:
        TypeError: If a value is of another type.

    Example:
        >>> to_json({"loss": float("nan"), "norm": [1.0, float("-inf")]})
        '{"loss": null, "norm": [1.0, null]}'
    """
    try:
        return json.dumps(value, indent=indent, sort_keys=sort_keys, allow_nan=False)
    except ValueError:  # seldom: what is finite is not walked through twice
        plain = finite(value)
        return json.dumps(plain, indent=indent, sort_keys=sort_keys, allow_nan=False)


def finite(value: Any) -> Any:
    """The same plain value with None for each number that is not finite.

    A key that is no finite number stays, as text.

    Example:
        >>> finite({"a": (1, float("inf")), float("nan"): True})
        {'a': [1, None], 'nan': True}
    """
    match value:
        case float():
            return value if math.isfinite(value) else None
        case Mapping():
            return {_key(key): finite(inner) for key, inner in value.items()}
        case list() | tuple():
            return [finite(inner) for inner in value]
        case _:
            return value


def floats_from_json(text: str) -> dict[str, float]:
    """Named numbers that `to_json` wrote; null is NaN again.

    Files of older versions hold ``NaN`` itself, which is read, too.

    Raises:
        ValueError: If it is no JSON object.

    Example:
        >>> floats_from_json('{"loss": null, "accuracy": 0.5}')
        {'loss': nan, 'accuracy': 0.5}
    """
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - as json.loads has it
    return {key: math.nan if value is None else value for key, value in found.items()}


def _key(key: Any) -> Any:
    return str(key) if isinstance(key, float) and not math.isfinite(key) else key
