"""Text of others where people read: it must not move a cursor, forge or turn a line."""

from __future__ import annotations

import unicodedata

__all__ = ["plain"]


def plain(text: str, *, lines: bool = False) -> str:
    r"""The text with what cannot be seen in it shown instead of sent.

    That is what a terminal obeys (C0, DEL, C1), what turns the direction of text or
    hides in it (U+202E, U+2066, zero-width signs, tags), ends of lines of any kind, and
    what cannot be encoded (half of a surrogate pair). Other spaces stay.

    Args:
        text: Of whoever.
        lines: Whether ends of lines and tabs stay what they are.

    Example:
        >>> plain("hot\x1b[2J\n")
        'hot\\x1b[2J\\x0a'
        >>> plain("pay\u202e001")
        'pay\\u202e001'
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(c if c in kept or _is_seen(c) else _shown(c) for c in text)


def _is_seen(sign: str) -> bool:
    return sign.isprintable() or unicodedata.category(sign) == "Zs"


def _shown(sign: str) -> str:
    code = ord(sign)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
