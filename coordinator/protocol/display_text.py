"""Texts of devices made safe to show: no character moves, turns or hides text."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import msgspec

from edge_sdk.terminal import plain
from edge_sdk.wire.messages import Message

__all__ = ["showable"]

M = TypeVar("M", bound=Message)


def showable(message: M) -> M:
    """The message with `plain` text; the same object where nothing was to be done.

    Here, where messages arrive, it is done once for terminal, log, ledger, page,
    report and figures.

    Args:
        message: Of whomever. Bytes in it stay what they are.
    """
    # JSON keeps printable ASCII as it is and escapes the rest, but for DEL. One call of
    # msgspec settles nearly every message: to look at each text took a twelfth of the
    # coordinator's time.
    text = msgspec.json.encode(message)
    if text.isascii() and b"\\" not in text and b"\x7f" not in text:
        return message
    return cast("M", _shown(message))


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        if all(_is_plain(key) and _is_plain(inner) for key, inner in value.items()):
            return value
        return {_shown(key): _shown(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return value if _is_plain(value) else type(value)(map(_shown, value))
    if isinstance(value, msgspec.Struct):
        changed = {
            name: _shown(inner)
            for name in value.__struct_fields__
            if not _is_plain(inner := getattr(value, name))
        }
        return msgspec.structs.replace(value, **changed) if changed else value
    return value


def _is_plain(value: Any) -> bool:
    """Return whether a value and all that it holds can be shown as they are."""
    if isinstance(value, str):
        return value.isprintable()
    if isinstance(value, dict):
        return all(_is_plain(k) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, msgspec.Struct):
        return all(_is_plain(getattr(value, n)) for n in value.__struct_fields__)
    return True
